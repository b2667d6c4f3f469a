"""Reader of FLAME tracking exports in VHAP's layout, of one sequence or a union of several.

    074_EMO-1_v16_…/                    one sequence
    ├── transforms.json                 cameras and paths of every frame
    ├── transforms_{train,val,test}.json
    ├── images/TTTTT_CC.png             8-bit RGB on white
    ├── fg_masks/TTTTT_CC.png           8-bit grey
    └── flame_param/TTTTT.npz           one timestep each
    UNION10_074_…/                      several sequences: only transforms files,
    └── transforms_{train,val,test}.json    with paths such as ../074_EMO-1_v16_…/images/00000_00.png

The release of GaussianAvatars is read as well: a union whose frames may lie in its own folder, with fewer keys. Only
`file_path`, `transform_matrix`, `timestep_index`, `flame_param_path` and a focal length are needed; image size and
camera number are then those of the images and of their names.

A path may not leave the export's folder, or in a union the exports that stand beside it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from osgap.capture.store import SPLITS
from osgap.capture.tracking.recording import Pictures, Recording
from osgap.capture.tracking.vhap.agreement import (
    camera_order,
    compare_tables,
    refuse_missing_cameras,
    refuse_mixed_folders,
    tabulate,
)
from osgap.capture.tracking.vhap.flame import read_flame
from osgap.capture.tracking.vhap.order import (
    camera_serials,
    choose_held_out,
    number_timesteps,
    split_by_rule,
    timestep_order,
)
from osgap.capture.tracking.vhap.transforms import TransformsReader
from osgap.runtime.errors import UserError
from osgap.runtime.notes import Notes

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def transforms_files(folder: Path) -> tuple[Path | None, dict[str, Path]]:
    """The transforms files of an export: that of all frames, and those of the splits (none, or all three).

    Raises:
        UserError: when there is none, or the splits are incomplete.
    """
    everything: Path | None = folder / "transforms.json"
    splits = {name: folder / f"transforms_{name}.json" for name in SPLITS}
    missing = [path.name for path in splits.values() if not path.is_file()]
    if 0 < len(missing) < len(SPLITS):
        raise UserError(
            f"{folder}: {', '.join(missing)} is missing beside the other splits. Add what is missing, or remove "
            f"all three transforms_{{train,val,test}}.json to have the frames of transforms.json split by VHAP's rule."
        )
    if not (folder / "transforms.json").is_file():
        everything = None
        if missing:
            raise UserError(
                f"{folder}: no tracking export in VHAP's layout (neither transforms.json nor "
                f"transforms_{{train,val,test}}.json is in it); check the path"
            )
    return everything, {} if missing else splits


def read_export(folder: Path, subject: str, held_out_camera: str, vertex_count: int | None) -> Recording:
    """Read the transforms files and FLAME parameters of an export and check that they agree; images are not opened.

    Args:
        subject: seeds the choice of a union's held-out sequences where the export has no split files.
        held_out_camera: serial of the validation camera where the export has no split files; if the export has no
            such camera it is the one numbered 8, else the last (VHAP).
        vertex_count: as in `read_flame`.

    Raises:
        UserError: naming the file and the frame: broken JSON, missing keys, cameras that move or differ in number,
            frames that stand twice, paths that lead out of the export; parameters as in `read_flame`.
    """
    everything, split_files = transforms_files(folder)
    notes = Notes()
    reader = TransformsReader(folder.resolve(), notes)
    complete = reader.read(everything) if everything else []
    listed = {name: reader.read(path) for name, path in split_files.items()}
    frames = [frame for name in listed for frame in listed[name]] if listed else complete
    if not frames:
        raise UserError(f"{folder}: the transforms files list no frames. Check that VHAP's export ended well.")
    if listed and not listed["train"]:
        raise UserError(
            f"{split_files['train']}: lists no frames, so there is nothing to train on. Add some, or remove the splits."
        )
    refuse_mixed_folders(frames, reader.root)
    table = tabulate(frames)
    if complete and listed:
        compare_tables(complete, frames, everything, union=frames[0].base != reader.root)
    cameras = camera_order(frames)
    refuse_missing_cameras(table, cameras)
    serials = camera_serials(frames, cameras, reader.root, notes)
    if listed:
        split_of = {id(frame): name for name in listed for frame in listed[name]}
    else:
        held_out = choose_held_out(frames, dict(zip(serials, cameras, strict=True)), held_out_camera, notes)
        split_of = split_by_rule(table, cameras, subject, held_out, notes)
    moments = timestep_order(table, split_of)
    first = {camera: next(frame for frame in frames if frame.serial == camera) for camera in cameras}
    splits: dict[str, list[tuple[int, int]]] = {name: [] for name in SPLITS}
    for t, moment in enumerate(moments):
        for c, camera in enumerate(cameras):
            splits[split_of[id(moment.frames[camera])]].append((t, c))
    return Recording(
        folder=folder,
        tables=[path for path in (everything, *split_files.values()) if path is not None],
        serials=serials,
        world_to_camera=np.stack([np.linalg.inv(first[c].camera.pose @ _OPENGL_TO_OPENCV) for c in cameras]),
        intrinsics=np.stack([first[c].camera.matrix for c in cameras]),
        width=frames[0].camera.width,
        height=frames[0].camera.height,
        timesteps=number_timesteps(moments, reader.root, notes),
        params=read_flame([moment.flame for moment in moments], vertex_count, notes),
        splits={name: np.array(pairs, np.int64).reshape(-1, 2) for name, pairs in splits.items()},
        frames=Pictures(
            images=[[moment.frames[c].image for c in cameras] for moment in moments],
            masks=[[moment.frames[c].mask for c in cameras] for moment in moments],
        ),
        notes=tuple(notes),
    )

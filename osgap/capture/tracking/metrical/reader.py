"""A video that metrical-tracker has tracked, as INSTA and RGBAvatar lay it out.

    obama/
    ├── checkpoint/NNNNN.frame      camera, shape, expression, jaw and eyes of one frame (`frames`)
    ├── images/NNNNN.png            RGBA, as INSTA's generate.sh cuts them out; or matted/NNNNN.png
    └── transforms_test.json        INSTA's split, if there is one

The head stands still there and the camera moves about it; here it is the other way round (`monocular`). Neck and global
rotation are in the camera's motion, and eyelids, which are no part of FLAME, are left out.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from osgap.capture.encoded import may_have_alpha
from osgap.capture.nersemble import read_json
from osgap.capture.tracking.metrical.frames import AGAIN, Checkpoint, checkpoints, read_checkpoint
from osgap.capture.tracking.monocular import monocular_params
from osgap.capture.tracking.recording import Pictures, Recording, Timestep, plausible, split_frames, split_note, tested
from osgap.runtime.errors import UserError
from osgap.runtime.notes import Notes

if TYPE_CHECKING:
    from osgap.head.model import HeadModel

_PIXEL_TOLERANCE = 1e-2  # of intrinsics, between frames
_IDENTITY_TOLERANCE = 1e-4  # of shape coefficients
_FOLDERS = ("images", "matted")
_SPLIT = "transforms_test.json"
_EXTENSIONS = (".png", ".jpg", ".jpeg")


def split_files(folder: Path) -> list[Path]:
    """INSTA's file of the frames for testing, if it is there."""
    return [path for path in (folder / _SPLIT,) if path.is_file()]


def read_metrical(folder: Path, subject: str, head: HeadModel) -> Recording:
    """Read the checkpoints and check that they agree; images are not opened.

    Args:
        subject: as VHAP's rule of splitting takes it; one sequence is split in time, whoever it is.
        head: says where the root joint is.

    Raises:
        UserError: naming the file: a checkpoint as in `read_checkpoint`, intrinsics that change, an image that is
            missing, numbers that no tracked head has.
    """
    notes = Notes()
    files = checkpoints(folder)
    frames = [read_checkpoint(file) for file in files]
    _check_alike(frames, files)
    flags = _tested(folder, frames, subject, notes)
    order = sorted(range(len(frames)), key=lambda row: bool(flags[row]))
    chosen = [frames[row] for row in order]
    images = _images(folder, chosen)
    motion = {
        "expr": np.stack([frame.expr for frame in chosen]),
        "jaw_pose": np.stack([frame.jaw for frame in chosen]),
        "eyes_pose": np.stack([frame.eyes for frame in chosen]),
    }
    plausible({"shape": frames[0].shape, **motion}, files[0].parent)
    poses = np.stack([frame.world_to_camera for frame in chosen])
    camera, params = monocular_params(head, frames[0].shape, motion, poses, files[0].parent, notes)
    _note_left_out(frames, notes)
    width, height = frames[0].size
    return Recording(
        folder=folder,
        tables=[files[0], *split_files(folder)],
        serials=["0"],
        world_to_camera=camera[None],
        intrinsics=frames[0].intrinsics[None],
        width=width,
        height=height,
        timesteps=[Timestep(folder.resolve().name, frame.number) for frame in chosen],
        params=params,
        splits=split_frames([bool(flags[row]) for row in order], 1, 0),
        frames=Pictures(images=[[image] for image in images], masks=[[None] for _ in images]),
        notes=tuple(notes),
    )


def _check_alike(frames: Sequence[Checkpoint], files: Sequence[Path]) -> None:
    """One video has one camera, with one lens."""
    for frame, file in zip(frames, files, strict=True):
        difference = float(np.abs(frame.intrinsics - frames[0].intrinsics).max())
        if len(frame.expr) != len(frames[0].expr):
            raise UserError(
                f"{file}: flame.exp has {len(frame.expr)} expression coefficients, that of {files[0].name} has "
                f"{len(frames[0].expr)}; one video has one number of them. {AGAIN}"
            )
        if frame.size != frames[0].size or difference > _PIXEL_TOLERANCE:
            raise UserError(
                f"{file}: its intrinsics differ from those of {files[0].name} by {difference:.3g} pixels (image size "
                f"{frame.size[0]}x{frame.size[1]} against {frames[0].size[0]}x{frames[0].size[1]}); one video must "
                f"have one camera. {AGAIN}"
            )


def _tested(folder: Path, frames: Sequence[Checkpoint], subject: str, notes: Notes) -> np.ndarray:
    """`[T]` bool: by INSTA's split, where it is there, else by VHAP's rule."""
    for path in split_files(folder):
        listed = read_json(path).get("frames")
        entries = listed if isinstance(listed, list) else []
        names = {
            posixpath.splitext(posixpath.basename(str(entry.get("file_path"))))[0]
            for entry in entries
            if isinstance(entry, dict)
        }
        flags = np.array([frame.name in names for frame in frames])
        if not flags.any() or flags.all():
            raise UserError(
                f"{path}: lists {len(names)} frames, of which {int(flags.sum())} of {len(flags)} are tracked; some "
                f"must be for testing and some for training. Run INSTA's generate.sh again, or remove the file."
            )
        notes.add(f"frames for testing are those of {_SPLIT} ({int(flags.sum())} of {len(flags)})")
        return flags
    flags = tested([len(frames)], subject)[0]
    notes.add(split_note([folder.name], [flags]))
    return flags


def _images(folder: Path, frames: Sequence[Checkpoint]) -> list[Path]:
    """The images that cut the person out, of whichever folder has more of them."""
    places = [folder / name for name in _FOLDERS if (folder / name).is_dir()]
    if not places:
        raise UserError(
            f"{folder}: has checkpoints but no folder `images`; frames must be cut out (RGBA). Run INSTA's generate.sh "
            f"on the tracker's output, and put its `images` here."
        )
    found = [[_image(place, frame) for frame in frames] for place in places]
    cut_out = [[image is not None and may_have_alpha(image) for image in images] for images in found]
    best = max(range(len(places)), key=lambda place: sum(cut_out[place]))
    images = []
    for frame, image, alpha in zip(frames, found[best], cut_out[best], strict=True):
        if image is None:
            raise UserError(
                f"{places[best] / frame.name}.png: no such file, but checkpoint/{frame.name}.frame tracks it. Run "
                f"INSTA's generate.sh again, which makes the images, or remove the checkpoint."
            )
        if not alpha:
            raise UserError(
                f"{image}: has no alpha channel, one of {cut_out[best].count(False)} such images; frames must be cut "
                f"out (RGBA). Run INSTA's generate.sh on the tracker's output, which mattes them, or put RGBA images "
                f"of the same names into {folder / _FOLDERS[1]}."
            )
        images.append(image)
    return images


def _image(place: Path, frame: Checkpoint) -> Path | None:
    names = [place / f"{frame.name}{extension}" for extension in _EXTENSIONS]
    return next((path for path in names if path.is_file()), None)


def _note_left_out(frames: Sequence[Checkpoint], notes: Notes) -> None:
    lids = max(frame.eyelids for frame in frames)
    if lids:
        notes.add(f"eyelids, which reach {lids:.3g}, are left out: they are no part of FLAME")
    differing = sum(
        frame.shape.shape != frames[0].shape.shape or np.abs(frame.shape - frames[0].shape).max() > _IDENTITY_TOLERANCE
        for frame in frames
    )
    if differing:
        notes.add(f"{differing} of {len(frames)} timesteps have another shape than the first, whose is used")
    notes.add("the tracker has neither neck_pose nor static_offset; they are taken to be 0")

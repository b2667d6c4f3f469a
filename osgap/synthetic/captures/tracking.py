"""FLAME tracking exports in the layout of VHAP, as GaussianAvatars and this project's importer read them.

    <root>/
      {subject}_{sequence}/                 one per sequence
        images/TTTTT_CC.png                 RGB on white; timestep, camera index
        fg_masks/TTTTT_CC.png               coverage
        flame_param/TTTTT.npz
        canonical_flame_param.npz           at rest with the jaw open
        transforms.json                     all frames
        transforms_{train,val,test}.json    their split
      UNION{n}_{subject}/                   the n sequences together, referring to `../{subject}_{sequence}/...`
        canonical_flame_param.npz
        transforms*.json

Cameras are camera-to-world matrices with OpenGL axes (x right, y up, z back). A single sequence gives its first 70%
of timesteps to training (all cameras but the frontal one) and validation (the frontal one), and the rest to the test.
A union holds back one whole sequence of every ten, drawn with the subject's name as the seed; its timesteps run on,
those of the training sequences first.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osgap.synthetic.captures.cameras import FRONTAL, CameraArray
from osgap.synthetic.captures.motion import Motion

TRAIN_PART = 0.7
"""Of a single sequence's timesteps, from its start."""
_GROUP = 10
_CANONICAL_JAW = 0.3  # radians
_SPLITS = ("train", "val", "test")
_OPENCV_TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def sequence_folder(root: Path, subject: str, sequence: str) -> Path:
    """Folder of one sequence's export."""
    return root / f"{subject}_{sequence}"


def union_folder(root: Path, subject: str, sequences: Sequence[str]) -> Path:
    """Folder of the export that joins a subject's sequences."""
    return root / f"UNION{len(sequences)}_{subject}"


def frame_path(kind: str, timestep: int, camera: int) -> str:
    """Path of a picture below its sequence's folder; `kind` is `images` or `fg_masks`."""
    return f"{kind}/{timestep:05d}_{camera:02d}.png"


def held_out(subject: str, sequences: Sequence[str]) -> list[str]:
    """The sequences that are kept for the test: one of every ten (of the last, shorter group, one of those)."""
    draw = random.Random(subject)
    groups = [sequences[start : start + _GROUP] for start in range(0, len(sequences), _GROUP)]
    return [group[draw.randint(0, len(group) - 1)] for group in groups]


def write_parameters(folder: Path, motion: Motion, shape: np.ndarray, static_offset: np.ndarray) -> None:
    """Write `flame_param/*.npz` and `canonical_flame_param.npz` of one sequence.

    Args:
        folder: of the sequence's export.
        motion: of T timesteps.
        shape: identity coefficients `[300]`.
        static_offset: `[V, 3]` metres.
    """
    (folder / "flame_param").mkdir(parents=True)
    still = {"shape": shape.astype(np.float32), "static_offset": static_offset[None].astype(np.float32)}
    for timestep in range(motion.timesteps):
        moving = {name: values[timestep : timestep + 1] for name, values in motion.arrays().items()}
        np.savez(folder / "flame_param" / f"{timestep:05d}.npz", **still, **moving)  # type: ignore[arg-type]
    write_canonical(folder, shape, static_offset)


def write_canonical(folder: Path, shape: np.ndarray, static_offset: np.ndarray) -> None:
    """Write `canonical_flame_param.npz`: at rest, the jaw open."""
    folder.mkdir(parents=True, exist_ok=True)
    rest = Motion.neutral(1)
    rest.jaw_pose[0, 0] = _CANONICAL_JAW
    still = {"shape": shape.astype(np.float32), "static_offset": static_offset[None].astype(np.float32)}
    np.savez(folder / "canonical_flame_param.npz", **still, **rest.arrays())  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Moment:
    """One timestep of an export."""

    index: int
    """In the export."""
    original: int
    """In its own sequence."""
    prefix: str
    """From the export's folder to that of the sequence, with a slash at the end, or nothing."""
    test: bool


def write_sequence_transforms(folder: Path, cameras: CameraArray, timesteps: int) -> None:
    """Write `transforms*.json` of one sequence."""
    _write_transforms(folder, cameras, _single(timesteps), originals=True)


def write_union_transforms(folder: Path, cameras: CameraArray, subject: str, timesteps: dict[str, int]) -> None:
    """Write `transforms*.json` of a union.

    Args:
        folder: of the union.
        cameras: the cameras.
        subject: seed of the draw of held-out sequences.
        timesteps: number of timesteps by sequence, in the order of the recording.
    """
    sequences = list(timesteps)
    tests = held_out(subject, sequences) if len(sequences) > 1 else []
    moments: list[_Moment] = []
    for sequence in sorted(sequences, key=lambda name: (name in tests, sequences.index(name))):
        prefix = f"../{sequence_folder(folder.parent, subject, sequence).name}/"
        if tests:
            for original in range(timesteps[sequence]):
                moments.append(_Moment(len(moments), original, prefix, sequence in tests))
        else:
            moments = _single(timesteps[sequence], prefix)
    _write_transforms(folder, cameras, moments, originals=False)


def _single(timesteps: int, prefix: str = "") -> list[_Moment]:
    train = math.ceil(TRAIN_PART * timesteps)
    return [_Moment(i, i, prefix, i >= train) for i in range(timesteps)]


def _write_transforms(folder: Path, cameras: CameraArray, moments: Sequence[_Moment], originals: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    intrinsics = _intrinsics(cameras)
    poses = (np.linalg.inv(cameras.world_to_camera) @ _OPENCV_TO_OPENGL).tolist()
    frames: list[tuple[str, dict[str, Any]]] = []
    for moment in moments:
        for camera, serial in enumerate(cameras.serials):
            split = "test" if moment.test else "val" if camera == FRONTAL else "train"
            frame: dict[str, Any] = {"timestep_index": moment.index}
            if originals:
                frame |= {"timestep_index_original": moment.original, "timestep_id": f"{moment.original:05d}"}
            frame |= {"camera_index": camera, "camera_id": serial, **intrinsics, "transform_matrix": poses[camera]}
            frame |= {
                "file_path": moment.prefix + frame_path("images", moment.original, camera),
                "fg_mask_path": moment.prefix + frame_path("fg_masks", moment.original, camera),
                "flame_param_path": f"{moment.prefix}flame_param/{moment.original:05d}.npz",
            }
            frames.append((split, frame))
    for split in _SPLITS:
        _write(folder / f"transforms_{split}.json", [frame for name, frame in frames if name == split], intrinsics)
    _write(folder / "transforms.json", [frame for _, frame in frames], intrinsics)


def _intrinsics(cameras: CameraArray) -> dict[str, float | int]:
    fx, fy = float(cameras.intrinsics[0, 0]), float(cameras.intrinsics[1, 1])
    return {
        "cx": float(cameras.intrinsics[0, 2]),
        "cy": float(cameras.intrinsics[1, 2]),
        "fl_x": fx,
        "fl_y": fy,
        "h": cameras.height,
        "w": cameras.width,
        "camera_angle_x": 2 * math.atan(cameras.width / (2 * fx)),
        "camera_angle_y": 2 * math.atan(cameras.height / (2 * fy)),
    }


def _write(path: Path, frames: Sequence[dict[str, Any]], intrinsics: dict[str, float | int]) -> None:
    """One line per frame: readable, comparable, and much faster than indented JSON."""
    head: dict[str, Any] = {
        **intrinsics,
        "timestep_indices": sorted({frame["timestep_index"] for frame in frames}),
        "camera_indices": sorted({frame["camera_index"] for frame in frames}),
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    lines.append('"frames": [\n' + ",\n".join(json.dumps(frame) for frame in frames) + "\n]")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def relative_files(folder: Path) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, sorted."""
    for path, folders, names in os.walk(folder):
        folders.sort()
        yield from (str((Path(path) / name).relative_to(folder)) for name in sorted(names))

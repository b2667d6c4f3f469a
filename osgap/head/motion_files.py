"""Files of motion alone, by whichever tracker: FLAME's pose and expression per timestep, by the names that VHAP, DECA,
EMOCA, SMIRK or FLAME_PyTorch give them; identity may be there, and is then only compared.

=============  =====================================  ===========  =================================================
Here, VHAP     DECA, EMOCA                            SMIRK        Value
=============  =====================================  ===========  =================================================
expr           exp, expcode                           expression_  `[T, N]`, N of FLAME's 100 coefficients
                                                      params
rotation       pose, posecode: the first three        pose_params  `[T, 3]` axis-angle, about the root joint
jaw_pose       pose, posecode: the last three (of 6)  jaw_params   `[T, 3]` axis-angle
neck_pose      neck_pose                              neck_pose_   `[T, 3]` axis-angle; 0 where missing
                                                      params
eyes_pose      eye_pose                               eye_pose_    `[T, 6]` axis-angle, left and right; 0 where missing
                                                      params
translation    (their cameras are in the crop)                     `[T, 3]` metres; 0 where missing
shape          shape, shapecode                       shape_params `[N]` or `[T, N]`; not needed
=============  =====================================  ===========  =================================================

A pose of 15 numbers is all joints in FLAME's order (IMavatar): rotation, neck, jaw, left eye, right eye.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from osgap.head.coefficients import first_identity, fitted
from osgap.head.params import MOTION_WIDTHS, N_SHAPE, FlameParams, as_numbers, load_flame_param
from osgap.runtime.artifacts import read_npz
from osgap.runtime.errors import UserError
from osgap.runtime.notes import Notes

_NAMES: Mapping[str, tuple[str, ...]] = {
    "shape": ("shape", "shapecode", "shape_params"),
    "expr": ("expr", "exp", "expcode", "expression_params", "expression"),
    "pose": ("pose", "posecode", "pose_params", "full_pose"),
    "rotation": ("rotation",),
    "jaw_pose": ("jaw_pose", "jaw_params", "jaw_pose_params"),
    "neck_pose": ("neck_pose", "neck_pose_params"),
    "eyes_pose": ("eyes_pose", "eye_pose", "eye_pose_params"),
    "translation": ("translation",),
}
_POSE: Mapping[int, tuple[str, ...]] = {
    3: ("rotation",),
    6: ("rotation", "jaw_pose"),
    15: ("rotation", "neck_pose", "jaw_pose", "eyes_pose"),
}
_NEEDED = ("expr", "rotation", "jaw_pose")
_UNUSED: Mapping[str, str] = {
    "cam": "a camera of the tracker's own crop",
    "eyelid_params": "eyelids are no part of FLAME",
    "eyelids": "eyelids are no part of FLAME",
}


@dataclass(frozen=True)
class MotionFile:
    """What a file of motion holds."""

    params: FlameParams
    """Static offset 0 and shape 0 where the file has none."""
    shape_known: bool
    """Whether the file says whose motion it is, by the shape."""
    notes: tuple[str, ...]
    """What was taken to be 0, or is not used."""


def read_motion(path: Path, vertex_count: int) -> MotionFile:
    """Read a motion from a `.npz`.

    Args:
        path: a `flame_param.npz`; or a file with the motion's keys alone, by the names in the table above.
        vertex_count: V of the head.

    Raises:
        UserError: naming the file and the key: what is missing, has another shape, or two names for the same.
    """
    aliases = [name for names in _NAMES.values() for name in names]
    found = read_npz(path, [*aliases, *_UNUSED], kind="FLAME motion", remedy="Give a file of FLAME parameters.")
    if {"shape", *MOTION_WIDTHS} <= found.keys():
        return MotionFile(load_flame_param(path, vertex_count), shape_known=True, notes=())
    notes = Notes()
    arrays = {key: array for key in _NAMES if (array := _one_of(found, key, path)) is not None}
    _take_pose_apart(arrays, path)
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        raise UserError(
            f"{path}: FLAME motion lacks {', '.join(missing)}; found {', '.join(sorted(found)) or 'no known name'}. "
            f"Known are {'; '.join(f'for {key} {_known(key)}' for key in missing)} (docs/data.md has them all)."
        )
    shape = arrays.pop("shape", None)
    motion = _checked(arrays, path, notes)
    _note_unused(found, notes)
    identity = np.zeros(N_SHAPE, np.float32)
    if shape is not None and shape.size:
        identity = fitted(first_identity(shape.reshape(-1, shape.shape[-1]), notes), N_SHAPE, "shape", path, notes)
    params = FlameParams(
        shape=torch.from_numpy(identity),
        static_offset=torch.zeros(vertex_count, 3),
        **{name: torch.from_numpy(array) for name, array in motion.items()},
    )
    return MotionFile(params, shape is not None, tuple(notes))


def _known(key: str) -> str:
    return ", ".join([*_NAMES[key], *(_NAMES["pose"] if key in ("rotation", "jaw_pose") else ())])


def _one_of(found: Mapping[str, np.ndarray], key: str, path: Path) -> np.ndarray | None:
    """The array of one kind, as float32, by whichever of its names."""
    names = [name for name in _NAMES[key] if name in found]
    if len(names) > 1:
        raise UserError(
            f"{path}: {' and '.join(names)} are names for the same, and the file has both. Remove all but one of them."
        )
    if not names:
        return None
    array = as_numbers(found[names[0]], names[0], path)
    if not array.ndim:
        raise UserError(
            f"{path}: {names[0]} is a single number, {array}; expected is an array with a row per timestep. Save all "
            f"of it, or leave the key out if it may be missing (docs/data.md)."
        )
    return array


def _take_pose_apart(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Put the joints that a pose holds in its place."""
    pose = arrays.pop("pose", None)
    if pose is None:
        return
    width = pose.shape[-1]
    if width not in _POSE:
        raise UserError(
            f"{path}: the pose has shape {pose.shape}; expected are axis-angle vectors of the head (3), of head and "
            f"jaw (6), or of head, neck, jaw and eyes (15) per timestep."
        )
    start = 0
    for name in _POSE[width]:
        if name in arrays:
            raise UserError(f"{path}: {name} stands alone and in the pose of {width} numbers. Remove one of them.")
        arrays[name] = pose[..., start : start + MOTION_WIDTHS[name]]
        start += MOTION_WIDTHS[name]


def _checked(arrays: Mapping[str, np.ndarray], path: Path, notes: Notes) -> dict[str, np.ndarray]:
    """All of the motion, `[T, width]` each; what is missing is 0."""
    rows = {name: _rows(array) for name, array in arrays.items()}
    count = len(rows["expr"])
    if rows["expr"].ndim == 2:
        rows["expr"] = fitted(rows["expr"], MOTION_WIDTHS["expr"], "expr", path, notes)
    for name, width in MOTION_WIDTHS.items():
        if name not in rows:
            notes.add(f"no {name} is given; it is taken to be 0")
            rows[name] = np.zeros((count, width), np.float32)
        elif rows[name].shape != (count, width):
            hint = " Rotations are axis-angle vectors." if name.endswith("pose") or name == "rotation" else ""
            raise UserError(
                f"{path}: {name} has shape {rows[name].shape}, expected {(count, width)} (the number of timesteps is "
                f"taken from the expression).{hint}"
            )
    return {name: np.ascontiguousarray(rows[name]) for name in MOTION_WIDTHS}


def _rows(array: np.ndarray) -> np.ndarray:
    """One row per timestep, also of a single timestep `[N]` and of stacked answers of networks `[T, 1, N]`."""
    if array.ndim == 1:
        return array[None]
    return array[:, 0] if array.ndim == 3 and array.shape[1] == 1 else array


def _note_unused(found: Mapping[str, np.ndarray], notes: Notes) -> None:
    for name, reason in _UNUSED.items():
        if name in found and found[name].dtype.kind in "fiu" and np.any(found[name]):
            largest = float(np.abs(found[name]).max())
            notes.add(f"{name} (up to {largest:.3g}) is not used: {reason}")

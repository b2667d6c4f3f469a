"""FLAME tracking of the benchmark's sequences, and how this project poses the same heads.

The tracking poses FLAME without its global rotation and translation, and then moves every vertex by `X = scale R v + t`
about the origin of the model. Here heads turn about their root joint J and have no scale: dividing the world by `scale`
leaves all projections as they are, and `R (v - J) + J + t'` is the same place for `t' = t / scale + R J - J`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from osgap.capture.nersemble import rigid_problem
from osgap.capture.tracking.monocular import root_joints
from osgap.capture.tracking.nersemble_benchmark.files import TRACKING, TrackedSequence
from osgap.capture.tracking.recording import plausible
from osgap.runtime.errors import UserError
from osgap.runtime.notes import Notes

if TYPE_CHECKING:
    from osgap.head.model import HeadModel
    from osgap.head.params import FlameParams

_POSE_TOLERANCE = 1e-3  # between two ways in which the tracking tells a rotation
_SCALE_TOLERANCE = 1e-3  # relative, between sequences that share their cameras
_IDENTITY_TOLERANCE = 1e-4  # of shape coefficients
_LARGEST_SCALE = 1e4

# Name in the file -> name in `FlameParams`, and its width.
_MOTION = {
    "expression": ("expr", 100),
    "neck": ("neck_pose", 3),
    "jaw": ("jaw_pose", 3),
    "eyes": ("eyes_pose", 6),
    "translation": ("translation", 3),
}
_N_SHAPE = 300


@dataclass(frozen=True)
class Track:
    """FLAME tracking of one sequence, `T` rows by ascending frame."""

    shape: np.ndarray
    """`[300]`."""
    motion: dict[str, np.ndarray]
    """By the names of `FlameParams` but for rotation, `[T, width]`; translation in the cameras' world, of the model's
    origin."""
    rotations: np.ndarray
    """`[T, 3, 3]`."""
    frames: np.ndarray
    """`[T]` int64: frame of the videos."""
    scale: float
    """Lengths of the cameras' world per metre of the model."""


def read_track(path: Path, notes: Notes) -> Track:
    """Read the tracking of one sequence.

    Args:
        path: the `.npz`.
        notes: takes note of what the file does not say.

    Raises:
        UserError: naming the file and the array: what is missing, of another shape, or no tracked head's.
    """
    arrays = _read_arrays(path)
    if path.name != TRACKING[0]:
        notes.add(f"the tracking is the benchmark's first version ({path.name}), for want of {TRACKING[0]}")
    count = len(arrays["expression"]) if arrays["expression"].ndim else 0
    if count == 0:
        raise UserError(
            f"{path}: expression has shape {arrays['expression'].shape}, so that nothing is tracked. Fetch it again."
        )
    expected: dict[str, tuple[int, ...]] = {key: (count, width) for key, (_, width) in _MOTION.items()}
    expected |= {"rotation": (count, 3), "rotation_matrices": (count, 3, 3), "frames": (count,), "shape": (_N_SHAPE,)}
    if arrays["shape"].shape == (1, _N_SHAPE):
        arrays["shape"] = arrays["shape"][0]
    for key, shape in expected.items():
        if key in arrays and arrays[key].shape != shape:
            raise UserError(
                f"{path}: {key} has shape {arrays[key].shape}, expected {shape} (the number of rows is taken from "
                f"expression). Fetch the tracking again."
            )
    motion = {name: arrays[key] for key, (name, _) in _MOTION.items()}
    plausible({"shape": arrays["shape"], **motion}, path)
    frames = _frame_numbers(arrays, count, path, notes)
    order = np.argsort(frames)
    return Track(
        shape=arrays["shape"],
        motion={name: array[order] for name, array in motion.items()},
        rotations=_rotations(arrays, path, notes)[order],
        frames=frames[order],
        scale=_scale(arrays, path, notes),
    )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The file's arrays, float64 and finite."""
    needed = ("shape", *_MOTION)
    known = (*needed, "rotation", "rotation_matrices", "frames", "scale")
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            arrays = {name: archive[name] for name in known if name in names}
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except Exception as error:  # a damaged archive can raise nearly anything
        raise UserError(f"{path}: not a readable .npz file of tracking ({error}). Fetch it again.") from error
    missing = [name for name in needed if name not in arrays]
    if "rotation" not in arrays and "rotation_matrices" not in arrays:
        missing.append("rotation_matrices")
    if missing:
        raise UserError(
            f"{path}: the tracking lacks {', '.join(missing)}; found {', '.join(names) or 'nothing'}. Fetch it again."
        )
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu":
            raise UserError(f"{path}: {name} has type {array.dtype}; numbers are expected. Fetch the tracking again.")
        if not np.isfinite(array).all():
            where = np.argwhere(~np.isfinite(array))[0].tolist()
            raise UserError(
                f"{path}: {name}{where} is {array[tuple(where)]}; finite numbers are expected. Fetch it again."
            )
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def _frame_numbers(arrays: Mapping[str, np.ndarray], count: int, path: Path, notes: Notes) -> np.ndarray:
    if "frames" not in arrays:
        notes.add(f"{_short(path)} says nothing of frames; its rows are taken to be frames 0 to {count - 1}")
        return np.arange(count)
    frames = arrays["frames"].astype(np.int64)
    if (frames != arrays["frames"]).any() or frames.min() < 0:
        raise UserError(f"{path}: frames has values that are no frame numbers. Fetch the tracking again.")
    numbers, counts = np.unique(frames, return_counts=True)
    if len(numbers) < count:
        raise UserError(f"{path}: frame {numbers[counts > 1][0]} is tracked more than once. Fetch the tracking again.")
    return frames


def _short(path: Path) -> str:
    """The file in its sequence's folder."""
    return "/".join(path.parts[-3:])


def _scale(arrays: Mapping[str, np.ndarray], path: Path, notes: Notes) -> float:
    if "scale" not in arrays:
        notes.add(f"{_short(path)} says nothing of scale; 1 is taken")
        return 1.0
    values = arrays["scale"].ravel()
    if len(values) != 1 or not 1 / _LARGEST_SCALE < values[0] < _LARGEST_SCALE:
        raise UserError(
            f"{path}: scale is {arrays['scale'].tolist()}; one positive number is expected. Fetch the tracking again."
        )
    return float(values[0])


def _rotations(arrays: Mapping[str, np.ndarray], path: Path, notes: Notes) -> np.ndarray:
    """`[T, 3, 3]`: the matrices, which the angles (Euler, intrinsic XYZ) must confirm; or the angles."""
    from scipy.spatial.transform import Rotation

    angles, matrices = arrays.get("rotation"), arrays.get("rotation_matrices")
    if matrices is None:
        assert angles is not None
        return Rotation.from_euler("XYZ", angles).as_matrix()
    for row, matrix in enumerate(matrices):
        pose = np.eye(4)
        pose[:3, :3] = matrix
        problem = rigid_problem(pose)
        if problem:
            raise UserError(f"{path}: rotation_matrices[{row}] {problem}. Fetch the tracking again.")
    if angles is None:
        return matrices
    readings = {
        "Euler angles": Rotation.from_euler("XYZ", angles).as_matrix(),
        "axis-angle vectors": Rotation.from_rotvec(angles).as_matrix(),
    }
    differences = {name: float(np.abs(reading - matrices).max()) for name, reading in readings.items()}
    fitting = [name for name, difference in differences.items() if difference < _POSE_TOLERANCE]
    if not fitting:
        told = " and ".join(f"by {difference:.2g} as {name}" for name, difference in differences.items())
        raise UserError(f"{path}: rotation and rotation_matrices disagree, {told}. Fetch the tracking again.")
    if fitting == ["axis-angle vectors"]:
        notes.add(f"{_short(path)}: rotation holds axis-angle vectors, not Euler angles (its matrices say so)")
    return matrices


def refuse_other_scales(sequences: Sequence[TrackedSequence], tracks: Sequence[Track]) -> None:
    """Raise `UserError` unless the tracks agree on the scale of the world that their cameras share."""
    for sequence, track in zip(sequences, tracks, strict=True):
        if abs(track.scale / tracks[0].scale - 1) > _SCALE_TOLERANCE:
            raise UserError(
                f"{sequence.tracking}: its scale is {track.scale:.6g}, that of {sequences[0].tracking} is "
                f"{tracks[0].scale:.6g}; sequences that share their cameras must share it. Import them as subjects of "
                f"their own, or leave that one out of capture.sequences."
            )


def flame_params(
    sequences: Sequence[TrackedSequence],
    tracks: Sequence[Track],
    rows: Sequence[tuple[int, int]],
    head: HeadModel,
    notes: Notes,
) -> FlameParams:
    """The tracking as this project poses heads; identity is the first sequence's."""
    import torch
    from scipy.spatial.transform import Rotation

    from osgap.head.params import FlameParams

    shape = tracks[0].shape
    for sequence, track in zip(sequences, tracks, strict=True):
        difference = float(np.abs(track.shape - shape).max())
        if difference > _IDENTITY_TOLERANCE:
            notes.add(
                f"the shape of {sequence.name} differs by up to {difference:.2g} from that of {sequences[0].name}, "
                f"which is used"
            )
    notes.add("the benchmark has no static_offset; it is taken to be 0")
    motion = {name: np.stack([tracks[s].motion[name][row] for s, row in rows]) for name, _ in _MOTION.values()}
    rotations = np.stack([tracks[s].rotations[row] for s, row in rows])
    roots = root_joints(head, shape, motion["expr"])
    turned = np.einsum("tij,tj->ti", rotations, roots)
    motion["translation"] = motion["translation"] / tracks[0].scale + turned - roots
    motion["rotation"] = Rotation.from_matrix(rotations).as_rotvec()
    return FlameParams(
        shape=torch.from_numpy(shape).float(),
        static_offset=torch.zeros(head.vertex_count, 3),
        **{name: torch.from_numpy(array).float() for name, array in motion.items()},
    )

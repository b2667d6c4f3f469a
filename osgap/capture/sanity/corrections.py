"""Corrections of what is wrong with whole captures, by the names that `capture.corrections` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations, product

import numpy as np

from osgap.capture.correction_names import check_correction, signed_axes
from osgap.capture.tracking.recording import Footage, Pictures, Recording, Timestep
from osgap.runtime.errors import UserError

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
_MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


def axes_matrix(axes: str) -> np.ndarray:
    """`[3, 3]` with which world points become the head's: `x,z,-y` means that the head's y is the world's z.

    Raises:
        ValueError: when it is no rotation.
    """
    matrix = np.zeros((3, 3))
    for row, (axis, sign) in enumerate(signed_axes(axes)):
        matrix[row, axis] = sign
    return matrix


def all_axes() -> list[str]:
    """The 23 turns of a world by right angles."""
    found = []
    for order, signs in product(permutations("xyz"), product(("", "-"), repeat=3)):
        axes = ",".join(sign + name for sign, name in zip(signs, order, strict=True))
        try:
            axes_matrix(axes)
        except ValueError:
            continue
        found.append(axes)
    return found[1:]


# cameras: [C, 4, 4] world to camera -> the same ---------------------------------------------------------------


def _positions_divided(by: float) -> Callable[[np.ndarray], np.ndarray]:
    def divided(poses: np.ndarray) -> np.ndarray:
        poses = poses.copy()
        poses[:, :3, 3] /= by
        return poses

    return divided


def _inverted(poses: np.ndarray) -> np.ndarray:
    """A reader has taken W of OpenGL's axes for a camera-to-world matrix: `poses` is `(W F)^-1`, wanted is `F W`."""
    return _FLIP @ np.linalg.inv(poses) @ _FLIP


def _inverted_opencv(poses: np.ndarray) -> np.ndarray:
    """The same, W of OpenCV's axes: wanted is W itself."""
    return np.linalg.inv(poses) @ _FLIP


def _transposed(poses: np.ndarray) -> np.ndarray:
    """Camera-to-world `[R p]`, OpenGL axes, becomes `[R^T p]`."""
    world = np.linalg.inv(poses) @ _FLIP
    world[:, :3, :3] = world[:, :3, :3].transpose(0, 2, 1).copy()
    return np.linalg.inv(world @ _FLIP)


def _turned_world(axes: str) -> Callable[[np.ndarray], np.ndarray]:
    turn = np.eye(4)
    turn[:3, :3] = axes_matrix(axes)
    return lambda poses: poses @ turn.T


CAMERAS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "decimetres": _positions_divided(10),
    "centimetres": _positions_divided(100),
    "millimetres": _positions_divided(1000),
    "opencv_axes": lambda poses: _FLIP @ poses,
    "world_to_camera": _inverted,
    "opencv_world_to_camera": _inverted_opencv,
    "transposed_rotations": _transposed,
    "left_handed": lambda poses: _MIRROR @ poses @ _MIRROR,
    "z_up": _turned_world("x,z,-y"),
}
"""Corrections of `[C, 4, 4]` world-to-camera matrices."""


# lenses and parameters ---------------------------------------------------------------------------------------


def _exchanged_center(matrices: np.ndarray) -> np.ndarray:
    matrices = matrices.copy()
    matrices[:, [0, 1], 2] = matrices[:, [1, 0], 2]
    return matrices


def lenses(name: str, recording: Recording) -> np.ndarray | None:
    """`[C, 3, 3]` intrinsics after a correction of them; None if it is of something else."""
    matrices = recording.intrinsics
    if name == "exchanged_center":
        return _exchanged_center(matrices)
    if name == "centered":
        matrices = matrices.copy()
        matrices[:, :2, 2] = (recording.width / 2, recording.height / 2)
        return matrices
    if name.startswith("intrinsics_of:"):
        width, _, height = name.partition(":")[2].partition("x")
        scale = np.array([recording.width / float(width), recording.height / float(height), 1])
        return matrices * scale[:, None]
    return None


def _times(factor: float, *names: str) -> Callable[[Recording], Recording]:
    def scaled(recording: Recording) -> Recording:
        params = recording.params
        return replace(recording, params=params.replace(**{name: getattr(params, name) * factor for name in names}))

    return scaled


PARAMETERS: Mapping[str, Callable[[Recording], Recording]] = {
    "head_millimetres": _times(1e-3, "translation"),
    "head_centimetres": _times(1e-2, "translation"),
    "head_at_origin": _times(0, "translation"),
    "reversed_rotations": _times(-1, "rotation", "neck_pose"),
    "degrees": _times(np.pi / 180, "rotation", "neck_pose", "jaw_pose", "eyes_pose"),
}
"""Corrections of FLAME parameters."""


# applying them -----------------------------------------------------------------------------------------------


def corrected(recording: Recording, names: Sequence[str]) -> Recording:
    """The recording with corrections applied, in the given order.

    Raises:
        UserError: for a name that is none of `CORRECTIONS`, and serials that the recording does not have.
    """
    for name in names:
        try:
            check_correction(name)
        except ValueError as error:
            raise UserError(f"capture.corrections: {error}") from None
        for part in name.split(", "):
            recording = _corrected(recording, part)
    return recording


def _corrected(recording: Recording, name: str) -> Recording:
    kind, _, argument = name.partition(":")
    if kind in CAMERAS or kind == "world_axes":
        change = CAMERAS.get(kind) or _turned_world(argument)
        return replace(recording, world_to_camera=change(recording.world_to_camera))
    if kind in PARAMETERS:
        return PARAMETERS[kind](recording)
    if kind == "parameters_later":
        return _with_later_parameters(recording, int(argument))
    if kind in {"exchanged_cameras", "camera_order"}:
        rows = _camera_rows(recording, kind, argument)
        return replace(
            recording, world_to_camera=recording.world_to_camera[rows], intrinsics=recording.intrinsics[rows]
        )
    matrices = lenses(name, recording)
    assert matrices is not None
    return replace(recording, intrinsics=matrices)


def _camera_rows(recording: Recording, kind: str, argument: str) -> list[int]:
    """Whose pose each camera gets."""
    serials, named = recording.serials, argument.split(",")
    unknown = [serial for serial in named if serial not in serials]
    complete = len(named) == 2 if kind == "exchanged_cameras" else sorted(named) == sorted(serials)
    if unknown or not complete:
        what = "two serials" if kind == "exchanged_cameras" else "every serial once"
        raise UserError(
            f"capture.corrections: {kind}:{argument} should name {what}; the cameras of {recording.folder} are "
            f"{', '.join(serials)}"
        )
    if kind == "camera_order":
        return [serials.index(serial) for serial in named]
    rows = list(range(len(serials)))
    one, other = (serials.index(serial) for serial in named)
    rows[one], rows[other] = other, one
    return rows


def _with_later_parameters(recording: Recording, count: int) -> Recording:
    """Moments whose later (earlier) ones do not exist are left out."""
    source = later_rows(recording, count)
    kept = [row for row, other in enumerate(source) if other is not None]
    params = recording.params.select([other for other in source if other is not None])
    if not kept:
        raise UserError(f"{recording.folder}: no sequence is longer than {abs(count)} timesteps")
    return replace(_of_timesteps(recording, kept), params=params)


def later_rows(recording: Recording, count: int) -> list[int | None]:
    """For each timestep the row of that which comes so many places later in its sequence; None beyond its end."""
    places: dict[str, list[int]] = {}
    for row in sorted(range(len(recording.timesteps)), key=lambda row: recording.timesteps[row].index):
        places.setdefault(recording.timesteps[row].sequence, []).append(row)
    found: list[int | None] = [None] * len(recording.timesteps)
    for rows in places.values():
        for place, row in enumerate(rows):
            if 0 <= place + count < len(rows):
                found[row] = rows[place + count]
    return found


def without_outliers(recording: Recording, outliers: Sequence[tuple[int, int]]) -> Recording:
    """The recording without the moments that have an outlier: every timestep keeps a frame of every camera.

    Args:
        outliers: (timestep, camera) of frames.

    Raises:
        UserError: when nothing would be left to train on.
    """
    bad = {timestep for timestep, _ in outliers}
    kept = [row for row in range(len(recording.timesteps)) if row not in bad]
    left = _of_timesteps(recording, kept) if kept else None
    if left is None or not len(left.splits["train"]):
        raise UserError(
            f"{recording.folder}: outliers are in all moments of training ({len(outliers)} frames), so that none would "
            f"be left. The contact sheet shows what is wrong with them; leave capture.drop_outliers out to see it."
        )
    return left


def _of_timesteps(recording: Recording, kept: Sequence[int]) -> Recording:
    """Some timesteps, in their order."""
    place = {row: k for k, row in enumerate(kept)}
    timesteps: list[Timestep] = [recording.timesteps[row] for row in kept]
    frames: Pictures | list[Footage]
    if isinstance(recording.frames, Pictures):
        frames = Pictures([recording.frames.images[row] for row in kept], [recording.frames.masks[row] for row in kept])
    else:
        frames = [part for part in (_footage_of(footage, place) for footage in recording.frames) if part.timesteps]
    splits = {
        name: np.array([(place[t], c) for t, c in pairs.tolist() if t in place], np.int64).reshape(-1, 2)
        for name, pairs in recording.splits.items()
    }
    params = recording.params.select(list(kept))
    return replace(recording, timesteps=timesteps, frames=frames, splits=splits, params=params)


def _footage_of(footage: Footage, place: Mapping[int, int]) -> Footage:
    kept = [k for k, t in enumerate(footage.timesteps) if t in place]
    return replace(
        footage,
        timesteps=[place[footage.timesteps[k]] for k in kept],
        numbers=[footage.numbers[k] for k in kept],
        masks=footage.masks if not isinstance(footage.masks, list) else [footage.masks[k] for k in kept],
    )

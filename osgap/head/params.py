"""FLAME parameters of one person over time, and the `flame_param.npz` that GaussianAvatars' viewer reads.

Rotations are axis-angle vectors in radians, offsets and translations are in metres. File keys and shapes are those of
GaussianAvatars and VHAP; the tables below are the only place that lists them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osgap.head.coefficients import first_identity, fitted
from osgap.head.teeth import FLAME_VERTICES, TEETH_VERTICES
from osgap.runtime.artifacts import read_npz, write_npz
from osgap.runtime.errors import UserError
from osgap.runtime.notes import Notes

N_SHAPE = 300
N_EXPR = 100

MOTION_WIDTHS: Mapping[str, int] = {
    "expr": N_EXPR,
    "rotation": 3,
    "neck_pose": 3,
    "jaw_pose": 3,
    "eyes_pose": 6,
    "translation": 3,
}
"""Parameters with one row per timestep: name -> width of the row. In files: `(T, width)` float32."""

_log = logging.getLogger(__name__)

Timesteps = int | slice | Sequence[int] | np.ndarray | Tensor


@dataclass(frozen=True)
class FlameParams:
    """One person's FLAME parameters over `T` timesteps; all tensors float32, fields named as in the files."""

    shape: Tensor
    """`[300]` identity coefficients."""
    static_offset: Tensor
    """`[V, 3]` metres, added to the shaped template before posing."""
    expr: Tensor
    """`[T, 100]` expression coefficients."""
    rotation: Tensor
    """`[T, 3]` axis-angle of the whole head about the root joint."""
    neck_pose: Tensor
    """`[T, 3]` axis-angle."""
    jaw_pose: Tensor
    """`[T, 3]` axis-angle."""
    eyes_pose: Tensor
    """`[T, 6]` axis-angles of the left, then the right eye."""
    translation: Tensor
    """`[T, 3]` metres."""

    def __post_init__(self) -> None:
        count = self.expr.shape[0] if self.expr.ndim else 0
        expected = {"shape": (N_SHAPE,)} | {name: (count, width) for name, width in MOTION_WIDTHS.items()}
        for name, shape in expected.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"FlameParams.{name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")
        if self.static_offset.ndim != 2 or self.static_offset.shape[1] != 3:
            raise ValueError(f"FlameParams.static_offset has shape {tuple(self.static_offset.shape)}, expected (V, 3)")

    @property
    def timesteps(self) -> int:
        """How many timesteps there are."""
        return self.expr.shape[0]

    @property
    def motion(self) -> dict[str, Tensor]:
        """The per-timestep parameters by name, each `[T, width]`."""
        return {name: getattr(self, name) for name in MOTION_WIDTHS}

    def select(self, timesteps: Timesteps) -> FlameParams:
        """The given timesteps, in the given order; an int selects one (the time axis stays)."""
        index = [timesteps] if isinstance(timesteps, int) else timesteps
        if isinstance(index, (Sequence, np.ndarray)):
            index = torch.as_tensor(index, dtype=torch.int64)
        if isinstance(index, Tensor):
            index = index.reshape(-1).to(self.expr.device)
        return self.replace(**{name: value[index] for name, value in self.motion.items()})

    def first(self) -> FlameParams:
        """The first timestep; unlike `select`, nothing waits for a GPU."""
        return self.replace(**{name: value[:1] for name, value in self.motion.items()})

    def driven_by(self, motion: FlameParams) -> FlameParams:
        """This person (shape, static offset) with another's motion, as GaussianAvatars' `--motion_path` does."""
        return self.replace(**motion.motion)

    def to(self, device: torch.device | str) -> FlameParams:
        """All tensors on `device`."""
        return self.replace(**{field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)})

    def replace(self, **changes: Tensor) -> FlameParams:
        """A copy with some fields replaced."""
        return dataclasses.replace(self, **changes)


def full_static_offset(offset: np.ndarray | None, vertex_count: int, source: Path | str) -> np.ndarray:
    """The static offset of a tracking file for every vertex of the head, `[V, 3]` float32.

    A file without one means zeros; one that was tracked without FLAME's teeth gets zeros for them.

    Args:
        offset: `[V, 3]` or `[1, V, 3]`, or None when the file has none.
        vertex_count: V of the head model.
        source: the file, for the message.

    Raises:
        UserError: when the offset belongs to a head with other vertices.
    """
    if offset is None:
        return np.zeros((vertex_count, 3), np.float32)
    rows = offset[0] if offset.ndim == 3 and len(offset) == 1 else offset
    accepted = {vertex_count, FLAME_VERTICES if vertex_count == FLAME_VERTICES + TEETH_VERTICES else vertex_count}
    if rows.ndim != 2 or rows.shape[1] != 3 or len(rows) not in accepted:
        raise UserError(
            f"{source}: static_offset has shape {offset.shape}, but the head model has {vertex_count} vertices, so "
            f"(1, {vertex_count}, 3) is expected. Use the head model that these parameters were tracked with."
        )
    full = np.zeros((vertex_count, 3), np.float32)
    full[: len(rows)] = rows
    return full


def read_flame_arrays(path: Path | str, notes: Notes | None = None) -> dict[str, np.ndarray]:
    """The arrays of a FLAME parameter file (one timestep or many), checked: shapes, float type, no NaN.

    Args:
        path: the file.
        notes: takes note of coefficients that are not given. Default is to log it.

    Returns:
        Every key of `MOTION_WIDTHS` as `(T, width)` float32, `shape` as `(300,)` float32 (of one per timestep the
        first), and `static_offset` `(1, V, 3)` float32 where the file has it. Other keys (`dynamic_offset`) are
        ignored, as by GaussianAvatars.

    Raises:
        UserError: naming the file, the key, what was found and what was expected.
    """
    path = Path(path)
    wanted = ("shape", *MOTION_WIDTHS, "static_offset")
    arrays = read_npz(path, wanted, kind="FLAME parameters", remedy="Check the path, or export it again.")
    missing = [name for name in wanted[:-1] if name not in arrays]
    if missing:
        raise UserError(
            f"{path}: FLAME parameters lack {', '.join(missing)}; found {', '.join(sorted(arrays)) or 'none of them'}. "
            f"Expected are {', '.join(wanted[:-1])}. Add what is missing."
        )
    arrays = {name: as_numbers(array, name, path) for name, array in arrays.items()}
    own = Notes() if notes is None else notes
    count = len(arrays["expr"]) if arrays["expr"].ndim else 0
    if arrays["shape"].ndim == 2 and len(arrays["shape"]) in {1, count} - {0}:
        arrays["shape"] = first_identity(arrays["shape"], own)
    for name, width, ndim in (("shape", N_SHAPE, 1), ("expr", N_EXPR, 2)):
        if arrays[name].ndim == ndim:
            arrays[name] = fitted(arrays[name], width, name, path, own)
    if notes is None:
        own.log(_log, path)

    expected: dict[str, tuple[int, ...]] = {"shape": (N_SHAPE,)}
    expected |= {name: (count, width) for name, width in MOTION_WIDTHS.items()}
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise UserError(
                f"{path}: {name} has shape {arrays[name].shape}, expected {shape}"
                f"{' (the number of timesteps is taken from expr)' if name in MOTION_WIDTHS else ''}. Save it so."
            )
    return arrays


def as_numbers(array: np.ndarray, name: str, path: Path | str) -> np.ndarray:
    """An array of a file as float32.

    Raises:
        UserError: naming file and array, when it holds no numbers, or some that are not finite.
    """
    if array.dtype.kind not in "fiu":
        raise UserError(f"{path}: {name} has type {array.dtype}; float32 is expected. Save numbers under that key.")
    with np.errstate(over="ignore"):  # a double may be finite, and too large all the same
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        where = np.argwhere(~np.isfinite(numbers))[0].tolist()
        raise UserError(
            f"{path}: {name}{where} is {array[tuple(where)]}; finite numbers are expected. Correct it, "
            f"or run the program that wrote the file again."
        )
    return numbers


def load_flame_param(path: Path | str, vertex_count: int | None = None) -> FlameParams:
    """Read a `flame_param.npz`.

    Args:
        path: the file.
        vertex_count: V of the head; needed only for files without a static offset, or with one that lacks the teeth.

    Raises:
        UserError: see `read_flame_arrays` and `full_static_offset`.
    """
    arrays = read_flame_arrays(path)
    offset = arrays.pop("static_offset", None)
    if vertex_count is None:
        if offset is None:
            raise UserError(f"{path}: static_offset is missing, so the number of vertices is unknown.")
        vertex_count = offset.shape[-2] if offset.ndim >= 2 else 0
    offset = full_static_offset(offset, vertex_count, path)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return FlameParams(static_offset=torch.from_numpy(offset), **tensors)


def save_flame_param(path: Path | str, params: FlameParams, provenance: Mapping[str, Any] | None = None) -> None:
    """Write a `flame_param.npz` as GaussianAvatars' viewer reads it, dynamic offsets (zeros) included."""
    arrays = {
        field.name: getattr(params, field.name).detach().cpu().numpy().astype(np.float32, copy=False)
        for field in dataclasses.fields(params)
    }
    arrays["static_offset"] = arrays["static_offset"][None]
    arrays["dynamic_offset"] = np.broadcast_to(np.float32(0), (params.timesteps, *params.static_offset.shape))
    write_npz(path, arrays, provenance)

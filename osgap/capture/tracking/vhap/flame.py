"""FLAME parameters of an export, one file per timestep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from osgap.capture.tracking.recording import plausible
from osgap.runtime.artifacts import read_npz
from osgap.runtime.errors import UserError
from osgap.runtime.notes import Notes

if TYPE_CHECKING:
    from osgap.head.params import FlameParams

# Differences of identity between the timesteps of one export that are worth a word.
_IDENTITY_TOLERANCE = 1e-4


def read_flame(files: list[Path], vertex_count: int | None, notes: Notes) -> FlameParams:
    """Read the FLAME parameters of all timesteps; shape and static offset are the first one's (GaussianAvatars).

    Args:
        files: of one timestep each.
        vertex_count: V of the head model, teeth included. None: as in the file; FLAME's where the file has no offset,
            and FLAME's with teeth where it has FLAME's without.
        notes: takes note of what is not given, and of what is left out.

    Raises:
        UserError: naming the file and the key: shapes that are not FLAME's, numbers that are not finite or absurd.
    """
    import torch

    from osgap.head.params import MOTION_WIDTHS, TEETH_VERTICES, FlameParams, full_static_offset, read_flame_arrays
    from osgap.head.teeth import FLAME_VERTICES

    motion: dict[str, list[np.ndarray]] = {name: [] for name in MOTION_WIDTHS}
    shape = offset = None
    differing, dropped = 0, 0.0
    for file in files:
        arrays = read_flame_arrays(file, notes)
        plausible(arrays, file)
        if len(arrays["expr"]) != 1:
            raise UserError(f"{file}: holds {len(arrays['expr'])} timesteps, expected 1. Give each a file.")
        for name, rows in motion.items():
            rows.append(arrays[name])
        dropped = max(dropped, _dynamic_offset(file))
        if shape is None:
            shape, offset = arrays["shape"], arrays.get("static_offset")
        elif not _same_identity((shape, offset), (arrays["shape"], arrays.get("static_offset"))):
            differing += 1
    if shape is None:
        raise UserError("no timesteps to read FLAME parameters of")
    if differing:
        notes.add(
            f"{differing} of {len(files)} timesteps have another shape or static offset than the first, whose are used"
        )
    if offset is None:
        notes.add("no static_offset is given; it is taken to be 0")
    if dropped:
        notes.add(f"dynamic_offset, which reaches {1000 * dropped:.3g} mm, is left out: avatars have none per timestep")
    if vertex_count is None:
        tracked = FLAME_VERTICES if offset is None or offset.ndim < 2 else offset.shape[-2]
        vertex_count = tracked + TEETH_VERTICES if tracked == FLAME_VERTICES else tracked
    full = full_static_offset(offset, vertex_count, files[0])
    return FlameParams(
        shape=torch.from_numpy(shape),
        static_offset=torch.from_numpy(full),
        **{name: torch.from_numpy(np.concatenate(rows)) for name, rows in motion.items()},
    )


def _dynamic_offset(file: Path) -> float:
    """The longest offset of one timestep's vertices, in metres; 0 where there is none."""
    arrays = read_npz(file, ["dynamic_offset"], kind="FLAME parameters", remedy="Export it again with VHAP.")
    offsets = arrays.get("dynamic_offset", np.zeros(3))
    if offsets.dtype.kind not in "fiu" or not offsets.ndim or offsets.shape[-1] != 3 or not offsets.any():
        return 0.0
    return float(np.linalg.norm(offsets.astype(np.float64), axis=-1).max())


def _same_identity(first: tuple[np.ndarray | None, ...], other: tuple[np.ndarray | None, ...]) -> bool:
    for a, b in zip(first, other, strict=True):
        if a is None or b is None:
            if a is not b:
                return False
        elif a.shape != b.shape or np.abs(a - b).max(initial=0) > _IDENTITY_TOLERANCE:
            return False
    return True

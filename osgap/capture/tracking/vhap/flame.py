"""FLAME parameters of an export, one file per timestep."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from osgap.capture.tracking.recording import plausible
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    from osgap.head.params import FlameParams

# Differences of identity between the timesteps of one export that are worth a word.
_IDENTITY_TOLERANCE = 1e-4

_log = logging.getLogger(__name__)


def read_flame(files: list[Path], vertex_count: int | None) -> FlameParams:
    """Read the FLAME parameters of all timesteps; shape and static offset are the first one's (GaussianAvatars).

    Args:
        files: of one timestep each.
        vertex_count: V of the head model, teeth included. None: as in the file; FLAME's where the file has no offset,
            and FLAME's with teeth where it has FLAME's without.

    Raises:
        UserError: naming the file and the key: shapes that are not FLAME's, numbers that are not finite or absurd.
    """
    import torch

    from osgap.head.params import MOTION_WIDTHS, TEETH_VERTICES, FlameParams, full_static_offset, read_flame_arrays
    from osgap.head.teeth import FLAME_VERTICES

    motion: dict[str, list[np.ndarray]] = {name: [] for name in MOTION_WIDTHS}
    shape = offset = None
    differing = 0
    for file in files:
        arrays = read_flame_arrays(file)
        plausible(arrays, file)
        if len(arrays["expr"]) != 1:
            raise UserError(f"{file}: holds {len(arrays['expr'])} timesteps, expected 1. Give each a file.")
        for name, rows in motion.items():
            rows.append(arrays[name])
        if shape is None:
            shape, offset = arrays["shape"], arrays.get("static_offset")
        elif not _same_identity((shape, offset), (arrays["shape"], arrays.get("static_offset"))):
            differing += 1
    if shape is None:
        raise UserError("no timesteps to read FLAME parameters of")
    if differing:
        _log.warning(
            "%s: %d of %d timesteps have another shape or static offset than the first, whose are used",
            files[0].parent, differing, len(files),
        )  # fmt: skip
    if vertex_count is None:
        tracked = FLAME_VERTICES if offset is None or offset.ndim < 2 else offset.shape[-2]
        vertex_count = tracked + TEETH_VERTICES if tracked == FLAME_VERTICES else tracked
    full = full_static_offset(offset, vertex_count, files[0])
    return FlameParams(
        shape=torch.from_numpy(shape),
        static_offset=torch.from_numpy(full),
        **{name: torch.from_numpy(np.concatenate(rows)) for name, rows in motion.items()},
    )


def _same_identity(first: tuple[np.ndarray | None, ...], other: tuple[np.ndarray | None, ...]) -> bool:
    for a, b in zip(first, other, strict=True):
        if a is None or b is None:
            if a is not b:
                return False
        elif a.shape != b.shape or np.abs(a - b).max(initial=0) > _IDENTITY_TOLERANCE:
            return False
    return True

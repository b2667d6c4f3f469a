"""Other numbers of coefficients than the head model has: trackers use a part of FLAME's 300 and 100 directions, which
are sorted by how much they matter, so that the first ones are the same whatever the number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from osgap.runtime.errors import UserError
from osgap.runtime.notes import Notes

_IDENTITY_TOLERANCE = 1e-4  # of shape coefficients, between timesteps
_KINDS: Mapping[str, str] = {"shape": "identity", "expr": "expression"}


def fitted(values: np.ndarray, width: int, name: str, source: Path | str, notes: Notes) -> np.ndarray:
    """The coefficients for all directions of the model: those that are not given are 0, which is noted.

    Args:
        values: `[..., N]`, of any N.
        width: directions that the model has.
        name: `shape` or `expr`.
        source: the file, for the message.

    Returns:
        `[..., width]` of the same type.

    Raises:
        UserError: when there are more than the model has and those are not 0.
    """
    count, kind = values.shape[-1], _KINDS[name]
    if count == width:
        return values
    if count > width:
        excess = float(np.abs(values[..., width:]).max(initial=0))
        if excess > 0:
            raise UserError(
                f"{source}: {name} has {count} {kind} coefficients, of which those after the first {width} reach "
                f"{excess:.3g}; the head model (flame.assets) has {width}. Track with at most {width}, or with the "
                f"head model that has {count}."
            )
        notes.add(f"{count} {kind} coefficients are given; all after the first {width} are 0 and left out")
        return values[..., :width]
    notes.add(f"{count} of {width} {kind} coefficients are given; the others are taken to be 0")
    return np.concatenate([values, np.zeros((*values.shape[:-1], width - count), values.dtype)], axis=-1)


def first_identity(rows: np.ndarray, notes: Notes) -> np.ndarray:
    """The identity that is used of a file with one per timestep: the first; it is noted that others differ.

    Args:
        rows: `[T, N]`, T at least 1.

    Returns:
        `[N]`.
    """
    difference = float(np.abs(rows - rows[0]).max(initial=0))
    if difference > _IDENTITY_TOLERANCE:
        notes.add(f"shape differs between timesteps, by up to {difference:.3g}; the first one's is used")
    return rows[0]

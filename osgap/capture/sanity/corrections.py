"""Corrections of what is wrong with whole captures, by the names that `capture.corrections` takes."""

from __future__ import annotations

from collections.abc import Sequence

from osgap.capture.tracking.recording import Recording

CORRECTIONS: dict[str, str] = {}
"""Name -> what it does."""


def corrected(recording: Recording, names: Sequence[str]) -> Recording:
    """The recording with corrections applied, in the given order.

    Raises:
        UserError: for a name that is none of `CORRECTIONS`.
    """
    raise NotImplementedError


def without_outliers(recording: Recording, outliers: Sequence[tuple[int, int]]) -> Recording:
    """The recording without the moments that have a bad frame: every timestep keeps a frame of every camera.

    Args:
        outliers: (timestep, camera) of bad frames.

    Raises:
        UserError: when nothing would be left to train on.
    """
    raise NotImplementedError

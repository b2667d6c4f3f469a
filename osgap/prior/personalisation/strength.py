"""How far a personalisation goes, and the file that stage `calibrate` writes of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osgap.runtime.artifacts import write_json
from osgap.runtime.errors import UserError


@dataclass(frozen=True)
class Strength:
    """How far an optimisation goes, and how much of each part of what it has found is kept (fractions in 0..1)."""

    steps: int
    """After which it ends."""
    color: float = 1.0
    """Of the colours of texels that are seen."""
    geometry: float = 1.0
    """Of their positions, rotations, scales and opacities."""
    carried: float = 1.0
    """Of the colours that texels follow which are not seen."""


@dataclass(frozen=True)
class Calibrated:
    """The strength that serves best under one supervision."""

    strength: Strength
    gained: Mapping[str, list[float]]
    """What it adds to the prior's answer for each person that it was measured on, in dB: in the most frontal camera,
    and in all cameras."""


def save_calibration(path: Path, found: Calibrated, provenance: Mapping[str, Any]) -> None:
    """Write what was found, `.json`."""
    write_json(path, dataclasses.asdict(found), provenance)


def load_strength(path: Path, steps: int) -> Strength:
    """The strength in a file of `save_calibration`.

    Args:
        steps: of the optimisation, which it cannot exceed.

    Raises:
        UserError: a file that is missing, damaged, or was made for fewer steps.
    """
    try:
        strength = Strength(**json.loads(path.read_text())["strength"])
    except FileNotFoundError:
        raise UserError(f"{path}: no such calibration; run `osgap calibrate`") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: holds no strength ({error}); run `osgap calibrate` again") from None
    if not 0 <= strength.steps <= steps:
        raise UserError(f"{path}: ends after {strength.steps} of {steps} steps; run `osgap calibrate` again")
    return strength

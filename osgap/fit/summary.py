"""`fit.json`: what is said beside an avatar with one Gaussian per texel, fitted here or adopted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from osgap.fit.config import MAX_UV_SIZE
from osgap.head.texels import TexelBinding
from osgap.runtime.artifacts import write_json
from osgap.runtime.errors import UserError

SUMMARY = "fit.json"
"""Its name in the avatar's folder."""


def write_summary(
    path: Path, provenance: Mapping[str, Any], *, subject: str, binding: TexelBinding, **details: Any
) -> None:
    """Write what all avatars say: the person, how many Gaussians there are, the size of the UV map; and `details`."""
    common = {"subject": subject, "gaussians": len(binding), "uv_size": binding.size}
    write_json(path, {**common, **details}, provenance)


def read_uv_size(path: Path) -> int:
    """The size of the UV map whose texels an avatar's Gaussians are.

    Raises:
        UserError: when the file is missing, or does not say a size that a fit can have.
    """
    try:
        size = int(json.loads(path.read_text())["uv_size"])
        if not 1 <= size <= MAX_UV_SIZE:
            raise ValueError(f"found {size}")
        return size
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it comes with a fitted avatar. Run the stage `fit` first.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: does not say the `uv_size` of a fit ({error!r}). `osgap fit ID` writes it; run that again."
        ) from error

"""Two meanings of the same numbers: colours as SH DC coefficients, or as plain RGB, and how to tell them apart."""

from __future__ import annotations

import numpy as np

from osgap.interop.config import ColorSpace
from osgap.runtime.errors import UserError
from osgap.splat.attributes import SH_C0

_LOW, _HIGH = -0.2, 1.2
_SHARE = 0.06
_UNTOUCHED = 1 / 255  # GaussianAvatars starts from DC coefficients between 0 and this
_NAMES: dict[ColorSpace, str] = {"sh_dc": "SH DC coefficients", "rgb": "plain RGB"}


def check_color_space(colors: np.ndarray, declared: ColorSpace, name: str) -> None:
    """Refuse colours that look like the other kind than they are declared to be.

    The rule: values are SH DC when more than 6 % of them lie outside -0.2..1.2, else RGB. Fitted RGB is not clamped,
    but leaves 0..1 by little and in few places: on fitted heads 0.1 to 0.9 % of the values lie so far outside. As DC,
    -0.2..1.2 is only the range of RGB from 0.44 to 0.84, and every head has eyes, hair, a mouth and shadows: 33 to
    83 % lie outside on the same heads. A single outlier decides nothing. Gaussians whose three values are within
    0..1/255 are left out, because GaussianAvatars starts there and no photograph moved them; where nothing else is
    left, nothing is checked.

    Args:
        colors: `[N, 3]`, of Gaussians or covered texels.
        declared: what the config says they are.
        name: the file, for the message.

    Raises:
        UserError: when they look like the other kind.
    """
    touched = colors[((colors < 0) | (colors > _UNTOUCHED)).any(axis=-1)]
    if not touched.size:
        return
    share = float(((touched < _LOW) | (touched > _HIGH)).mean())
    found: ColorSpace = "sh_dc" if share > _SHARE else "rgb"
    if found != declared:
        raise UserError(
            f"{name}: interop.color says that its colours are {_NAMES[declared]} (`{declared}`), but they look like "
            f"{_NAMES[found]} (`{found}`): they range from {touched.min():.3g} to {touched.max():.3g}, and {share:.1%} "
            f"of them lie outside {_LOW}..{_HIGH} (fitted RGB: under {_SHARE:.0%}; SH DC of a head: far more). "
            f"Set interop.color to {found}, or take the file that was meant."
        )


def to_sh_dc(colors: np.ndarray, declared: ColorSpace) -> np.ndarray:
    """SH DC coefficients `[..., 3]` that show the same colours: rgb = 0.5 + 0.282 dc; SH DC stays as it is."""
    return colors if declared == "sh_dc" else ((colors - 0.5) / SH_C0).astype(colors.dtype)

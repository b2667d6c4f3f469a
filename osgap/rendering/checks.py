"""Settings of `osgap render` that are out of range, or do not go together."""

from __future__ import annotations

import torch
from torch import Tensor

from osgap.rendering.camera_paths import LARGEST
from osgap.rendering.output import Kind
from osgap.rendering.settings import Clip, View
from osgap.runtime.errors import UserError

LONGEST = 1_000_000
"""Frames of a clip at most: eleven hours."""
_NAMED = {"white": (255, 255, 255), "black": (0, 0, 0)}


def check(clip: Clip, view: View, kind: Kind) -> None:
    """Refuse settings that are out of range.

    Raises:
        UserError: it names the setting, and what may be given.
    """
    if clip.frames is not None and clip.seconds is not None:
        raise UserError(f"frames {clip.frames} and seconds {_plain(clip.seconds)} are both given; leave one out.")
    ranges: list[tuple[str, float | None, float, float]] = [
        ("fps", clip.fps, 0.01, 1000),
        ("frames", clip.frames, 1, LONGEST),
        ("seconds", clip.seconds, 0, LONGEST / clip.fps if clip.fps > 0 else 0),
        ("crf", clip.crf, 1, 51),  # 0 is a profile that many players refuse
        ("yaw", view.yaw, -180 if kind == "frame" else 0, 180),
        ("elevation", view.elevation, -89, 89),
        ("distance", view.distance, 0.01, 100),
        ("period", view.period, 1e-3, 1e6),
        ("width", view.width, 1, LARGEST),
        ("height", view.height, 1, LARGEST),
    ]
    for name, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise UserError(f"{name} is {_plain(value)}; give a number from {_plain(low)} to {_plain(high)}.")
    if kind == "frame" and view.period is not None:
        raise UserError(f"period {_plain(view.period)}: one picture does not swing. Leave it out, or write a video.")
    if view.path != "orbit" and view.of_orbit:
        names = ", ".join(view.of_orbit)
        raise UserError(f"{names}: given beside the path {view.path}; leave out {names}, or the path.")
    if (view.capture is None) != (view.camera is None):
        raise UserError("a capture and a camera of it belong together; give both of capture and camera, or neither.")


def _plain(value: float) -> str:
    """A number as people write it, 1000000 and not 1e+06."""
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def background_color(text: str, kind: Kind) -> Tensor | None:
    """`[3]` RGB in [0, 1]; None for transparent.

    Raises:
        UserError: it is no colour, or transparent in a video.
    """
    if text == "transparent":
        if kind == "video":
            raise UserError("background transparent: H.264 has no transparency. Give a colour, or a folder of PNGs.")
        return None
    code = text.removeprefix("#")
    if text in _NAMED:
        return torch.tensor(_NAMED[text]) / 255
    if text.startswith("#") and len(code) == 6 and all(digit in "0123456789abcdefABCDEF" for digit in code):
        return torch.tensor([int(code[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    raise UserError(f"background {text!r} is not understood. Give white, black, #rrggbb or transparent.")

"""Composing labelled pictures from frames: enlarging, text, grids. Everything is uint8 RGB `[H, W, 3]`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACKGROUND = 255
INK = (32, 32, 32)
GAP = 6  # px between tiles
_OVERSAMPLING = 4


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resample `[H, W, 3]`: Lanczos when enlarging, area averages when shrinking."""
    if image.shape[:2] == (height, width):
        return image
    enlarging = width >= image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LANCZOS4 if enlarging else cv2.INTER_AREA)


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """`[H, W, 3]` to `[scale H, scale W, 3]`."""
    return resize(image, image.shape[1] * scale, image.shape[0] * scale)


def to_height(image: np.ndarray, height: int) -> np.ndarray:
    """`[H, W, 3]` to the given height in the same proportions."""
    return resize(image, max(1, round(image.shape[1] * height / image.shape[0])), height)


def letterbox(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """`[H, W, 3]` in the middle of a white picture of the given size, as large as fits."""
    factor = min(width / image.shape[1], height / image.shape[0])
    small = resize(image, max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    picture = blank(height, width)
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    picture[top : top + small.shape[0], left : left + small.shape[1]] = small
    return picture


def label(
    text: str, width: int, size: int, align: Literal["left", "center"] = "center", lines: int | None = None
) -> np.ndarray:
    """Text on white, broken into lines that fit.

    Args:
        text: ASCII; other signs may be missing from the font.
        width: of the result, px.
        size: of the font, px.
        lines: height of the result in lines. Default is as many as the text needs.

    Returns:
        `[H, width, 3]` uint8.
    """
    # Drawn large and shrunk: at the final size the font's spacing would be rounded to whole pixels.
    font = _font(_OVERSAMPLING * size)
    broken = wrap(text, width, size)
    step = round(size * 1.25)
    full = (_OVERSAMPLING * width, _OVERSAMPLING * step * max(lines or 0, len(broken)))
    image = Image.new("RGB", full, (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(broken):
        left = 0.0 if align == "left" else max((full[0] - draw.textlength(line, font=font)) / 2, 0)
        draw.text((left, _OVERSAMPLING * step * i), line, fill=INK, font=font)
    return resize(np.asarray(image), width, full[1] // _OVERSAMPLING)


def sideways(text: str, height: int, size: int) -> np.ndarray:
    """Text that reads from bottom to top, `[height, W, 3]` uint8."""
    return np.ascontiguousarray(np.rot90(label(text, height, size)))


def wrap(text: str, width: int, size: int) -> list[str]:
    """Break text at spaces, so that each line fits into `width` px where its words allow it."""
    broken: list[str] = []
    for word in text.split():
        joined = f"{broken[-1]} {word}" if broken else word
        if broken and _font(_OVERSAMPLING * size).getlength(joined) <= _OVERSAMPLING * width:
            broken[-1] = joined
        else:
            broken.append(word)
    return broken


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Pillow's own font, so that a picture does not depend on the fonts of the machine.
    return ImageFont.load_default(size=size)


def hstack(images: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Images side by side, aligned at the top, filled up with white."""
    height = max(image.shape[0] for image in images)
    return np.concatenate(_with_gaps([_pad(image, height, image.shape[1]) for image in images], gap, axis=1), axis=1)


def vstack(images: Sequence[np.ndarray], gap: int = GAP) -> np.ndarray:
    """Images below each other, aligned at the left, filled up with white."""
    width = max(image.shape[1] for image in images)
    return np.concatenate(_with_gaps([_pad(image, image.shape[0], width) for image in images], gap, axis=0), axis=0)


def margin(image: np.ndarray, pixels: int) -> np.ndarray:
    """White all around."""
    return np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), constant_values=BACKGROUND)


def grid(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]], columns: Sequence[str], *, label_width: int, font: int
) -> np.ndarray:
    """A table of pictures with a title above each column and left of each row.

    Args:
        rows: (title, one `[H, W, 3]` picture per column); all pictures of one size.
        columns: titles.
        label_width: of the row titles, px.
        font: size, px.
    """
    height, width = rows[0][1][0].shape[:2]
    lines = max(len(wrap(title, width, font)) for title in columns)
    header = hstack([blank(1, label_width), *(label(title, width, font, lines=lines) for title in columns)])
    body = []
    for title, pictures in rows:
        text = label(title, label_width, font, align="left")
        above = max((height - text.shape[0]) // 2, 0)
        body.append(hstack([np.concatenate([blank(above, label_width), text]), *pictures]))
    return vstack([header, *body])


def blank(height: int, width: int) -> np.ndarray:
    """A white picture."""
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def _pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    below, right = height - image.shape[0], width - image.shape[1]
    return np.pad(image, ((0, below), (0, right), (0, 0)), constant_values=BACKGROUND)


def _with_gaps(images: Sequence[np.ndarray], gap: int, axis: int) -> list[np.ndarray]:
    shape = list(images[0].shape)
    shape[axis] = gap
    space = np.full(shape, BACKGROUND, np.uint8)
    return [part for image in images for part in (space, image)][1:]

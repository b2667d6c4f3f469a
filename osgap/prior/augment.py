"""Random changes of training samples, consistent between photographs, renderings and maps.

Colours change by one affine map of RGB for a whole person: `c' = A c + b`. Compositing is linear in colour, so a
rendering of Gaussians whose colours were changed equals the changed rendering, exactly, wherever the clamps at zero
and one do not act; the background stays what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from osgap.prior.config import AugmentConfig
from osgap.prior.photographs import Photographs
from osgap.runtime.pinned import upload
from osgap.splat.attributes import CHANNELS, SH_C0

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class ColorChange:
    """`c' = A c + b` in RGB, colours in 0..1."""

    matrix: Tensor
    """A, `[3, 3]`."""
    offset: Tensor
    """b, `[3]`."""

    def image(self, image: Tensor, mask: Tensor, background: float = 1.0) -> Tensor:
        """Change the foreground of `[..., H, W, 3]` with coverage `[..., H, W]`, over a grey background; clamped."""
        rest = (1 - mask[..., None]) * background
        changed = (image - rest) @ self.matrix.T + mask[..., None] * self.offset
        return (changed + rest).clamp(0, 1)

    def uv(self, maps: Tensor, mask: Tensor) -> Tensor:
        """Change the colour channels of `[..., S, S, 14]` on covered texels `[S, S]`.

        With `c = 1/2 + C0 d`, d the degree-0 coefficient: `d' = A d + ((A - I) 1/2 + b) / C0`.
        """
        color = CHANNELS["color"]
        shift = (self.matrix.sum(dim=1) * 0.5 - 0.5 + self.offset) / SH_C0
        changed = maps.clone()
        changed[..., color] = (maps[..., color] @ self.matrix.T + shift) * mask[..., None]
        return changed


def draw_color_change(config: AugmentConfig, random: np.random.Generator) -> ColorChange:
    """A random change of skin, hair and clothes together: gains, saturation, offset."""
    gain = np.exp(config.brightness * random.standard_normal() + config.tint * random.standard_normal(3))
    saturation = 1 + config.saturation * random.uniform(-1, 1)
    offset = config.offset * random.standard_normal(3)
    to_grey = np.tile(np.asarray(_LUMA), (3, 1))
    matrix = (saturation * np.eye(3) + (1 - saturation) * to_grey) * gain[:, None]
    return ColorChange(torch.from_numpy(matrix).float(), torch.from_numpy(offset).float())


@dataclass(frozen=True)
class Framing:
    """A shift and a scale of a source image, in fractions of its size (shift right and down are positive)."""

    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0

    def apply(self, source: Tensor) -> Tensor:
        """Resample `[B, 3, I, I]`; what comes in from outside is white."""
        return reframed(source, [self] * len(source))

    @property
    def matrix(self) -> list[list[float]]:
        """From places in the result to places in the source, both in -1..1: `[2, 3]`."""
        inverse = 1 / self.scale
        return [[inverse, 0, -2 * self.shift[0] * inverse], [0, inverse, -2 * self.shift[1] * inverse]]


def reframed(sources: Tensor, framings: Sequence[Framing]) -> Tensor:
    """Resample each of `[B, 3, I, I]` as its own framing says."""
    theta = upload(torch.tensor([framing.matrix for framing in framings], dtype=sources.dtype), sources.device)
    grid = F.affine_grid(theta, list(sources.shape), align_corners=False)
    return F.grid_sample(sources - 1, grid, align_corners=False) + 1


def framed(
    photographs: Photographs, framings: Sequence[Framing], slips: Sequence[tuple[float, float]] | None = None
) -> Photographs:
    """Photographs framed anew; where they show the head moves with them.

    Args:
        photographs: K of each of B people.
        framings: `B * K`, in order.
        slips: as many further shifts of the places alone, right and down, in fractions of the pictures' size. Default
            is none.
    """
    people, count = photographs.images.shape[:2]
    images = reframed(photographs.images.flatten(0, 1), framings).unflatten(0, (people, count))
    if photographs.views is None:
        return Photographs(images, None)
    slips = slips or [(0.0, 0.0)] * len(framings)
    moves = [
        (2 * (framing.shift[0] + slip[0]), 2 * (framing.shift[1] + slip[1]), framing.scale)
        for framing, slip in zip(framings, slips, strict=True)
    ]
    change = upload(torch.tensor(moves, dtype=images.dtype), images.device).unflatten(0, (people, count))
    return Photographs(images, photographs.views.moved(change[..., :2], change[..., 2]))


def draw_framing(config: AugmentConfig, random: np.random.Generator) -> Framing:
    """A random framing of a source photograph."""
    shift = random.uniform(-config.shift, config.shift, 2)
    return Framing((float(shift[0]), float(shift[1])), float(1 + config.scale * random.uniform(-1, 1)))


def draw_slip(config: AugmentConfig, random: np.random.Generator) -> tuple[float, float]:
    """A random shift of where the head is looked for in a photograph, right and down, in fractions of its size."""
    right, down = random.uniform(-config.misalign, config.misalign, 2)
    return float(right), float(down)

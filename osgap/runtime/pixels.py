"""Images as floats in 0..1 and as bytes: one rule of rounding for all that is shown, written or compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def to_bytes(images: Tensor) -> Tensor:
    """Floats in 0..1 (what is beyond is clamped) to uint8, on the same device.

    The nearest byte; of two that are equally near, the even one.
    """
    return images.detach().clamp(0, 1).mul_(255).round_().to(torch.uint8)


def to_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 in 0..255 to floats in 0..1, on the same device."""
    return images.to(dtype) / 255


def tiled(rows: Sequence[Sequence[Tensor]]) -> np.ndarray:
    """Images `[H, W, 3]` in 0..1, all of one size, on any devices, without gaps: `[R H, C W, 3]` uint8."""
    return torch.cat([torch.cat([to_bytes(image).cpu() for image in row], dim=1) for row in rows]).numpy()

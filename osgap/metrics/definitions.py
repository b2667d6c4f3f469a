"""What the metrics are made of, for those who write them in torch and for those who compile them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

SSIM_WINDOW = 11  # taps
SSIM_SIGMA = 1.5  # px
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2

LPIPS_EPSILON = 1e-8
"""Added to squared lengths of features."""


@functools.lru_cache(maxsize=8)
def gaussian_window(device: torch.device, dtype: torch.dtype) -> Tensor:
    """The window of SSIM in one direction, `[11]`, symmetric, of sum 1."""
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    return (weights / weights.sum()).to(device, dtype)


def check_images(images: Tensor, targets: Tensor) -> None:
    """Raise ValueError unless both are `[..., H, W, C]` of one shape."""
    if images.shape != targets.shape or images.ndim < 3:
        raise ValueError(
            f"expected two batches of images [..., H, W, C] of one shape, got {tuple(images.shape)} and "
            f"{tuple(targets.shape)}"
        )

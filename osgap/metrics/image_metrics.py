"""PSNR and SSIM of images, differentiable, as the Gaussian splatting literature measures them.

Images are `[..., H, W, C]` floats in 0..1, linear in whatever space the files are in (sRGB for captures). Every
function returns one number per image, `[...]`; callers choose how to average.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from osgap.metrics.definitions import SSIM_C1, SSIM_C2, SSIM_WINDOW, check_images, gaussian_window

_PERFECT_MSE = 1e-10  # equal images get 100 dB rather than infinity, which JSON and averages cannot hold


def psnr(images: Tensor, targets: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in 0..1, at most 100 dB.

    Args:
        images: `[..., H, W, C]`.
        targets: The same shape.

    Returns:
        `[...]`, one value per image: -10 log10 of its mean squared error over pixels and channels.

    Raises:
        ValueError: when the shapes differ or are not images.
    """
    check_images(images, targets)
    error = (images - targets).square().mean(dim=(-3, -2, -1))
    return -10.0 * torch.log10(error.clamp_min(_PERFECT_MSE))


def ssim(images: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13) of images in 0..1: the mean of `ssim_map`.

    Args:
        images: `[..., H, W, C]`.
        targets: The same shape.

    Returns:
        `[...]`, one value per image: the mean over pixels (borders included) and channels.

    Raises:
        ValueError: when the shapes differ or are not images.
    """
    return ssim_map(images, targets).mean(dim=(-3, -2, -1))


def ssim_map(images: Tensor, targets: Tensor) -> Tensor:
    """Structural similarity at every pixel and channel.

    The window is 11x11, Gaussian with sigma 1.5 px, and zero beyond the image border; C1 = 1e-4 and C2 = 9e-4
    (the definition of the 3D Gaussian splatting literature, whose borders differ from implementations that crop
    or reflect). Differentiable in both arguments. Float32 images take a compiled path, which has no second derivatives;
    everything else is written in torch.

    Args:
        images: `[..., H, W, C]`.
        targets: The same shape.

    Returns:
        `[..., H, W, C]`, at most 1.

    Raises:
        ValueError: when the shapes differ or are not images.
    """
    check_images(images, targets)
    if images.dtype == targets.dtype == torch.float32 and not targets.requires_grad:
        if images.device.type == "cpu":
            return _CompiledSsim.apply(images, targets)
        if images.device.type == "cuda" and images.numel():
            from osgap.metrics import ssim_triton  # compiled code: loaded by those who need it only

            return ssim_triton.ssim_map(images, targets)
    return _ssim_map_in_torch(images, targets)


class _CompiledSsim(torch.autograd.Function):
    """`ssim_map` by `osgap.metrics.ssim_kernels`; differentiable in the images only."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, targets: Tensor) -> Tensor:
        from osgap.metrics import ssim_kernels  # compiled code: loaded by those who need it only

        x, y = _rows(images), _rows(targets)
        window = gaussian_window(torch.device("cpu"), torch.float32).numpy()
        values = np.empty_like(x)
        partials = np.empty((len(x) if ctx.needs_input_grad[0] else 0, 3, *x.shape[1:]), np.float32)
        constants = np.float32(SSIM_C1), np.float32(SSIM_C2)
        ssim_kernels.forward(x, y, images.shape[-1], window, *constants, values, partials)
        ctx.saved = x, y, images.shape, window, partials
        return torch.from_numpy(values).view(images.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        from osgap.metrics import ssim_kernels

        x, y, shape, window, partials = ctx.saved
        result = np.empty_like(x)
        ssim_kernels.backward(x, y, shape[-1], window, partials, _rows(gradient), result)
        return torch.from_numpy(result).view(shape), None


def _rows(images: Tensor) -> np.ndarray:
    """`[B, H, W * C]`, one plane per image, channels interleaved."""
    height, width, channels = images.shape[-3:]
    return images.detach().reshape(-1, height, width * channels).contiguous().numpy()


def _ssim_map_in_torch(images: Tensor, targets: Tensor) -> Tensor:
    x = images.movedim(-1, -3).contiguous()
    y = targets.movedim(-1, -3).contiguous()
    mean_x, mean_y, square_x, square_y, product = _blur(torch.stack([x, y, x * x, y * y, x * y])).unbind()
    means = mean_x * mean_y
    mean_squares = mean_x * mean_x + mean_y * mean_y
    luminance = (2 * means + SSIM_C1) / (mean_squares + SSIM_C1)
    structure = (2 * (product - means) + SSIM_C2) / (square_x + square_y - mean_squares + SSIM_C2)
    return (luminance * structure).movedim(-3, -1)


def _blur(planes: Tensor) -> Tensor:
    """Separable Gaussian blur of `[..., H, W]` with zeros beyond the border."""
    height, width = planes.shape[-2:]
    kernel = gaussian_window(planes.device, planes.dtype)
    flat = planes.reshape(-1, 1, height, width)
    flat = functional.conv2d(flat, kernel.view(1, 1, 1, -1), padding=(0, SSIM_WINDOW // 2))
    flat = functional.conv2d(flat, kernel.view(1, 1, -1, 1), padding=(SSIM_WINDOW // 2, 0))
    return flat.reshape(planes.shape)

"""The part of LPIPS that follows the backbone, on CUDA: features of two images to one number per pixel.

With x, y the features of a pixel, w the weights of the channels and e what is added to squared lengths,

    a = (|x|^2 + e)^-1/2       t = 2 w (a x - b y)        d = sum(w (a x - b y)^2)
    b = (|y|^2 + e)^-1/2       dd/dx = a t - a^3 (x.t) x

A program takes some pixels with all their channels, so that features cross the memory's bus once forward, and once
with their gradient backward. Written in torch it is a dozen passes over float32 copies of them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from osgap.metrics.definitions import LPIPS_EPSILON

_TILE = 4096  # values of a program


def difference(found: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """`osgap.metrics.lpips.difference_in_torch` as `[M]` float32; differentiable in `found`, once.

    Args:
        found: `[M, C, h, w]`, in any floating-point type; fastest where channels come last in memory.
        wanted: likewise.
        weights: `[C]` float32.
    """
    return _Difference.apply(found, wanted, weights)


class _Difference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
        x, y = (features.permute(0, 2, 3, 1).contiguous() for features in (found, wanted))
        pixels, channels = x.numel() // x.shape[-1], x.shape[-1]
        values = torch.empty(pixels, dtype=torch.float32, device=x.device)
        with torch.cuda.device_of(x):
            _forward[_grid(pixels, channels)](x, y, weights, values, pixels, channels, **_constants(channels))
        ctx.save_for_backward(x, y, weights)
        return values.view(len(x), -1).mean(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, y, weights = ctx.saved_tensors
        pixels, channels = x.numel() // x.shape[-1], x.shape[-1]
        size = pixels // len(x)  # of an image
        result, gradient = torch.empty_like(x), gradient.contiguous() / size
        with torch.cuda.device_of(x):
            _backward[_grid(pixels, channels)](
                x, y, weights, gradient, result, pixels, channels, size, **_constants(channels)
            )
        return result.permute(0, 3, 1, 2), None, None


def _constants(channels: int) -> dict[str, Any]:
    width = triton.next_power_of_2(channels)
    # Products are added in one rounding: not every version of Triton does so unless told.
    return {"CHANNELS": width, "PIXELS": max(1, _TILE // width), "EPSILON": LPIPS_EPSILON, "enable_fp_fusion": True}


def _grid(pixels: int, channels: int) -> tuple[int]:
    return (triton.cdiv(pixels, _constants(channels)["PIXELS"]),)


@triton.jit
def _read(
    x_ptr, y_ptr, weights_ptr, pixels, channels,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr, EPSILON: tl.constexpr,
):  # fmt: skip
    """The program's pixels, the places of their features and which of these exist; w, x, a and a x - b y."""
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    place = pixel[:, None] * channels + channel[None, :]
    weights = tl.load(weights_ptr + channel, mask=channel < channels, other=0.0)[None, :]
    x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(y_ptr + place, mask=inside, other=0.0).to(tl.float32)
    a = 1 / tl.sqrt(tl.sum(x * x, axis=1) + EPSILON)[:, None]
    b = 1 / tl.sqrt(tl.sum(y * y, axis=1) + EPSILON)[:, None]
    return pixel, place, inside, weights, x, a, a * x - b * y


@triton.jit
def _forward(
    x_ptr, y_ptr, weights_ptr, values_ptr, pixels, channels,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr, EPSILON: tl.constexpr,
):  # fmt: skip
    """d of every pixel."""
    pixel, _, _, weights, _, _, apart = _read(x_ptr, y_ptr, weights_ptr, pixels, channels, CHANNELS, PIXELS, EPSILON)
    tl.store(values_ptr + pixel, tl.sum(weights * apart * apart, axis=1), mask=pixel < pixels)


@triton.jit
def _backward(
    x_ptr, y_ptr, weights_ptr, gradient_ptr, result_ptr, pixels, channels, size,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr, EPSILON: tl.constexpr,
):  # fmt: skip
    """The gradient with respect to x; what comes from above is one number per image of `size` pixels."""
    pixel, place, inside, weights, x, a, apart = _read(
        x_ptr, y_ptr, weights_ptr, pixels, channels, CHANNELS, PIXELS, EPSILON
    )
    above = tl.load(gradient_ptr + pixel // size, mask=pixel < pixels, other=0.0)[:, None]
    t = 2 * weights * apart
    along = tl.sum(x * t, axis=1)[:, None]
    result = above * (a * t - a * a * a * along * x)
    tl.store(result_ptr + place, result.to(result_ptr.dtype.element_ty), mask=inside)

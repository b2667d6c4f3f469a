"""GroupNorm of channels_last maps on CUDA.

torch's own lays such a map out anew, and convolutions lay out its result and gradients again: 4.5 of the 39 ms that a
GPU computes in a step of the `surface` network's training. Here a map is read where it lies, twice: for the sums, and
for the result. With x a value, of a group with
mean m and standard deviation s, and w and b of its channel,

    y = w (x - m) / s + b = a x + c                     a = w / s,  c = b - a m
    dx = a dy + u x + v                                 u = -q / s^2,  v = -p / s - u m
    p, q = the group's means of w dy and w dy (x - m) / s

(Wu and He 2018, eq. 1 to 3, differentiated). Sums are float32 and have a fixed order.

The two operators are opaque to torch.compile. They are registered without `torch.library.custom_op`, whose first call
imports the compiler, for as many seconds as a whole avatar takes.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHANNELS = 128  # of one program, at most
_VALUES = 4096  # of one step of a program
_STEPS = 4  # of a program that sums


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Groups of adjacent channels with mean 0 and variance 1 in each map, then a scale and a shift of each channel.

    Differentiable once.

    Args:
        x: `[B, H, W, C]`, contiguous.
        weight: `[C]`.
        bias: `[C]`.
        eps: added to the variance.

    Returns:
        `[B, H, W, C]` in the precision of `x`, contiguous.
    """
    return _GroupNorm.apply(x, groups, weight, bias, eps)


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, means, factors = torch.ops.osgap.group_norm(x, groups, weight, bias, eps)
        ctx.save_for_backward(x, weight, means, factors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        x, weight, means, factors = ctx.saved_tensors
        by_x, shares = torch.ops.osgap.group_norm_gradients(gradient, x, weight, means, factors)
        by_weight, by_bias = shares.sum(dim=0).to(weight.dtype)
        return by_x, None, by_weight, by_bias, None


torch.library.define(
    "osgap::group_norm",
    "(Tensor x, int groups, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor, Tensor)",
)
torch.library.define(
    "osgap::group_norm_gradients",
    "(Tensor gradient, Tensor x, Tensor weight, Tensor means, Tensor factors) -> (Tensor, Tensor)",
)


@torch.library.impl("osgap::group_norm", "default")
def _normalise(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The result; means, `[B, G]`; and their inverse standard deviations, `[B, G]`, both float32."""
    x = x.contiguous()
    maps, channels = len(x), x.shape[3]
    y = torch.empty_like(x)
    means, factors = (x.new_empty(maps, groups, dtype=torch.float32) for _ in range(2))
    scales, shifts = x.new_empty(2, maps, channels, dtype=torch.float32)
    with torch.cuda.device_of(x):
        shares = _summed(x, None)
        _settle[maps, groups](
            shares, weight, bias, means, factors, scales, shifts, _sizes(x)[0], shares.shape[1], channels,
            channels // groups, eps, SIZE=triton.next_power_of_2(channels // groups),
        )  # fmt: skip
        _apply[_grid(x, 1)](x, None, scales, shifts, None, y, *_sizes(x), groups, **_block(x))
    return y, means, factors


@torch.library.register_fake("osgap::group_norm")
def _(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    means, factors = (x.new_empty(len(x), groups, dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x, memory_format=torch.contiguous_format), means, factors


@torch.library.impl("osgap::group_norm_gradients", "default")
def _gradients(gradient: Tensor, x: Tensor, weight: Tensor, means: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """By `x`, and each map's share of those by weight and bias, `[B, 2, C]`, float32."""
    gradient, x = gradient.contiguous(), x.contiguous()
    maps, channels, groups = len(x), x.shape[3], means.shape[1]
    by_x = torch.empty_like(x)
    by_channel = x.new_empty(maps, 2, channels, dtype=torch.float32)
    scales = x.new_empty(maps, channels, dtype=torch.float32)
    by_group, shifts = x.new_empty(2, maps, groups, dtype=torch.float32)
    with torch.cuda.device_of(x):
        shares = _summed(x, gradient)
        _settle_gradients[maps, groups](
            shares, weight, means, factors, by_channel, scales, by_group, shifts, _sizes(x)[0],
            shares.shape[1], channels, channels // groups, SIZE=triton.next_power_of_2(channels // groups),
        )  # fmt: skip
        _apply[_grid(x, 1)](x, gradient, scales, shifts, by_group, by_x, *_sizes(x), groups, **_block(x))
    return by_x, by_channel


@torch.library.register_fake("osgap::group_norm_gradients")
def _(gradient: Tensor, x: Tensor, weight: Tensor, means: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    by_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    return by_x, x.new_empty(len(x), 2, x.shape[3], dtype=torch.float32)


def _summed(x: Tensor, gradient: Tensor | None) -> Tensor:
    """Sums over parts of each map, `[B, parts, 2, C]`: of x and x^2, or of the gradient and the gradient times x."""
    parts, *grid = _grid(x, _STEPS)
    shares = x.new_empty(len(x), parts, 2, x.shape[3], dtype=torch.float32)
    _sum[parts, *grid](x, gradient, shares, *_sizes(x), **_block(x), STEPS=_STEPS)
    return shares


def _block(x: Tensor) -> dict[str, int]:
    """Channels of one program, and pixels of one of its steps."""
    block = min(_CHANNELS, triton.next_power_of_2(x.shape[3]))
    return {"BLOCK": block, "ROWS": _VALUES // block}


def _sizes(x: Tensor) -> tuple[int, int]:
    """Pixels and channels of a map."""
    return x.shape[1] * x.shape[2], x.shape[3]


def _grid(x: Tensor, steps: int) -> tuple[int, int, int]:
    """Parts of a map, blocks of channels, and maps."""
    pixels, channels = _sizes(x)
    block = _block(x)
    return triton.cdiv(pixels, steps * block["ROWS"]), triton.cdiv(channels, block["BLOCK"]), len(x)


@triton.jit
def _sum(
    x_ptr, gradient_ptr, shares_ptr, pixels, channels, BLOCK: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr
):  # fmt: skip
    part, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.zeros([ROWS, BLOCK], tl.float32)
    second = tl.zeros([ROWS, BLOCK], tl.float32)
    for step in range(STEPS):
        pixel = (part * STEPS + step) * ROWS + tl.arange(0, ROWS)
        there = (pixel[:, None] < pixels) & (channel[None, :] < channels)
        at = (image * pixels + pixel[:, None]) * channels + channel[None, :]
        x = tl.load(x_ptr + at, mask=there, other=0).to(tl.float32)
        if gradient_ptr is not None:
            factor = tl.load(gradient_ptr + at, mask=there, other=0).to(tl.float32)
            first += factor
        else:
            factor = x
            first += x
        second += factor * x
    target = shares_ptr + (image * tl.num_programs(0) + part) * 2 * channels + channel
    tl.store(target, tl.sum(first, axis=0), mask=channel < channels)
    tl.store(target + channels, tl.sum(second, axis=0), mask=channel < channels)


@triton.jit
def _group(shares_ptr, image, group, parts, channels, width, SIZE: tl.constexpr):
    """The two sums of each channel of a group, over all parts of a map; the channels; and which of them are there."""
    here = tl.arange(0, SIZE) < width
    channel = group * width + tl.arange(0, SIZE)
    first = tl.zeros([16, SIZE], tl.float32)
    second = tl.zeros([16, SIZE], tl.float32)
    for start in range(0, parts, 16):
        part = start + tl.arange(0, 16)
        there = (part[:, None] < parts) & here[None, :]
        at = shares_ptr + (image * parts + part[:, None]) * 2 * channels + channel[None, :]
        first += tl.load(at, mask=there, other=0)
        second += tl.load(at + channels, mask=there, other=0)
    return tl.sum(first, axis=0), tl.sum(second, axis=0), channel, here


@triton.jit
def _settle(
    shares_ptr, weight_ptr, bias_ptr, means_ptr, factors_ptr, scales_ptr, shifts_ptr, pixels, parts, channels, width,
    eps, SIZE: tl.constexpr,
):  # fmt: skip
    image, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, second, channel, here = _group(shares_ptr, image, group, parts, channels, width, SIZE)
    count = (pixels * width).to(tl.float32)
    mean = tl.sum(first, axis=0) / count
    variance = tl.maximum(tl.sum(second, axis=0) / count - mean * mean, 0.0)
    factor = 1.0 / tl.sqrt(variance + eps)
    scale = tl.load(weight_ptr + channel, mask=here, other=0).to(tl.float32) * factor
    shift = tl.load(bias_ptr + channel, mask=here, other=0).to(tl.float32) - scale * mean
    tl.store(means_ptr + image * tl.num_programs(1) + group, mean)
    tl.store(factors_ptr + image * tl.num_programs(1) + group, factor)
    tl.store(scales_ptr + image * channels + channel, scale, mask=here)
    tl.store(shifts_ptr + image * channels + channel, shift, mask=here)


@triton.jit
def _settle_gradients(
    shares_ptr, weight_ptr, means_ptr, factors_ptr, by_channel_ptr, scales_ptr, by_group_ptr, shifts_ptr, pixels,
    parts, channels, width, SIZE: tl.constexpr,
):  # fmt: skip
    image, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first, second, channel, here = _group(shares_ptr, image, group, parts, channels, width, SIZE)
    count = (pixels * width).to(tl.float32)
    mean = tl.load(means_ptr + image * tl.num_programs(1) + group)
    factor = tl.load(factors_ptr + image * tl.num_programs(1) + group)
    weight = tl.load(weight_ptr + channel, mask=here, other=0).to(tl.float32)
    second = factor * (second - mean * first)
    p = tl.sum(weight * first, axis=0) / count
    q = tl.sum(weight * second, axis=0) / count
    by_x = -q * factor * factor
    target = by_channel_ptr + image * 2 * channels + channel
    tl.store(target, second, mask=here)
    tl.store(target + channels, first, mask=here)
    tl.store(scales_ptr + image * channels + channel, weight * factor, mask=here)
    tl.store(by_group_ptr + image * tl.num_programs(1) + group, by_x)
    tl.store(shifts_ptr + image * tl.num_programs(1) + group, -p * factor - by_x * mean)


@triton.jit
def _apply(
    x_ptr, gradient_ptr, scales_ptr, shifts_ptr, by_group_ptr, y_ptr, pixels, channels, groups, BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """`scale x + shift` of each channel, or, of a gradient, `scale dy + u x + v`, with u and v of each group."""
    image = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here = channel < channels
    scale = tl.load(scales_ptr + image * channels + channel, mask=here, other=0)[None, :]
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = (pixel[:, None] < pixels) & here[None, :]
    at = (image * pixels + pixel[:, None]) * channels + channel[None, :]
    x = tl.load(x_ptr + at, mask=there, other=0).to(tl.float32)
    if gradient_ptr is not None:
        group = image * groups + channel // (channels // groups)
        by_x = tl.load(by_group_ptr + group, mask=here, other=0)[None, :]
        shift = tl.load(shifts_ptr + group, mask=here, other=0)[None, :]
        gradient = tl.load(gradient_ptr + at, mask=there, other=0).to(tl.float32)
        y = scale * gradient + by_x * x + shift
    else:
        shift = tl.load(shifts_ptr + image * channels + channel, mask=here, other=0)[None, :]
        y = scale * x + shift
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=there)

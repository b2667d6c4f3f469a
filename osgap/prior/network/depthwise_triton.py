"""3x3 depthwise convolution of channels_last maps on CUDA.

Its few operations per value take less time than reading and writing the map, if the window stays in registers: a
program takes a row of a map and a block of channels and goes along the row, so that a value is read three times, mostly
from the cache. Products and sums are float32. Sums over the map have a fixed order.

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

_BLOCK = 512  # channels: 4 per thread
_TAPS = 9


def depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each channel with its own 3x3 window, zeros beyond the borders; differentiable once.

    Args:
        x: `[B, H, W, C]`.
        weight: `[C, 1, 3, 3]`, as `nn.Conv2d` has it.
        bias: `[C]`.

    Returns:
        `[B, H, W, C]` in the precision of `x`, contiguous.
    """
    return _Depthwise.apply(x, weight, bias)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.ops.osgap.depthwise(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        by_weight, by_bias = torch.ops.osgap.depthwise_gradients(gradient, x)
        by_x = torch.ops.osgap.depthwise(gradient, weight.flip(2, 3), None)
        return by_x, by_weight.to(weight.dtype), by_bias.to(weight.dtype)


torch.library.define("osgap::depthwise", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
torch.library.define("osgap::depthwise_gradients", "(Tensor gradient, Tensor x) -> (Tensor, Tensor)")


@torch.library.impl("osgap::depthwise", "default")
def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    result = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _filter[_grid(x)](x, weight, bias, result, *x.shape[1:], BLOCK=_BLOCK, enable_fp_fusion=True)
    return result


@torch.library.register_fake("osgap::depthwise")
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.impl("osgap::depthwise_gradients", "default")
def _weight_gradients(gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """`[C, 1, 3, 3]` and `[C]`, float32."""
    gradient, x = gradient.contiguous(), x.contiguous()
    lines, channels = x.shape[0] * x.shape[1], x.shape[3]
    shares = x.new_empty(lines, _TAPS + 1, channels, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _correlate[_grid(x)](gradient, x, shares, *x.shape[1:], BLOCK=_BLOCK, enable_fp_fusion=True)
    sums = shares.sum(dim=0)
    return sums[:_TAPS].T.contiguous().view(channels, 1, 3, 3), sums[_TAPS].clone()


@torch.library.register_fake("osgap::depthwise_gradients")
def _(gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    channels = x.shape[3]
    return x.new_empty(channels, 1, 3, 3, dtype=torch.float32), x.new_empty(channels, dtype=torch.float32)


def _grid(x: Tensor) -> tuple[int, int]:
    """Rows of all maps, and blocks of channels."""
    return x.shape[0] * x.shape[1], triton.cdiv(x.shape[3], _BLOCK)


@triton.jit
def _filter(x_ptr, weight_ptr, bias_ptr, result_ptr, rows, columns, channels, BLOCK: tl.constexpr):
    line = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    left_weights = _weights(weight_ptr, channel, channels)
    middle_weights = _weights(weight_ptr + 1, channel, channels)
    right_weights = _weights(weight_ptr + 2, channel, channels)
    bias = tl.zeros([BLOCK], tl.float32)
    if bias_ptr is not None:
        bias += tl.load(bias_ptr + channel, mask=channel < channels, other=0).to(tl.float32)
    left = (tl.zeros([BLOCK], tl.float32),) * 3
    middle = _column(x_ptr, line, 0, rows, columns, channels, channel)
    for column in range(columns):
        right = _column(x_ptr, line, column + 1, rows, columns, channels, channel)
        total = _dot(left_weights, left) + _dot(middle_weights, middle) + _dot(right_weights, right) + bias
        target = result_ptr + (line * columns + column) * channels + channel
        tl.store(target, total.to(result_ptr.dtype.element_ty), mask=channel < channels)
        left = middle
        middle = right


@triton.jit
def _correlate(gradient_ptr, x_ptr, shares_ptr, rows, columns, channels, BLOCK: tl.constexpr):
    """A row's share of the gradients by the nine weights and by the bias: `[B H, 10, C]`."""
    line = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    by_left = (tl.zeros([BLOCK], tl.float32),) * 3
    by_middle = (tl.zeros([BLOCK], tl.float32),) * 3
    by_right = (tl.zeros([BLOCK], tl.float32),) * 3
    by_bias = tl.zeros([BLOCK], tl.float32)
    left = (tl.zeros([BLOCK], tl.float32),) * 3
    middle = _column(x_ptr, line, 0, rows, columns, channels, channel)
    for column in range(columns):
        right = _column(x_ptr, line, column + 1, rows, columns, channels, channel)
        source = gradient_ptr + (line * columns + column) * channels + channel
        gradient = tl.load(source, mask=channel < channels, other=0).to(tl.float32)
        by_left = _add(by_left, gradient, left)
        by_middle = _add(by_middle, gradient, middle)
        by_right = _add(by_right, gradient, right)
        by_bias += gradient
        left = middle
        middle = right
    target = shares_ptr + line * 10 * channels + channel
    for row in tl.static_range(3):
        tl.store(target + 3 * row * channels, by_left[row], mask=channel < channels)
        tl.store(target + (3 * row + 1) * channels, by_middle[row], mask=channel < channels)
        tl.store(target + (3 * row + 2) * channels, by_right[row], mask=channel < channels)
    tl.store(target + 9 * channels, by_bias, mask=channel < channels)


@triton.jit
def _weights(weight_ptr, channel, channels):
    """One column of the window, downwards."""
    at = weight_ptr + channel * 9
    above = tl.load(at, mask=channel < channels, other=0)
    here = tl.load(at + 3, mask=channel < channels, other=0)
    below = tl.load(at + 6, mask=channel < channels, other=0)
    return above.to(tl.float32), here.to(tl.float32), below.to(tl.float32)


@triton.jit
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@triton.jit
def _add(sums, factor, values):
    return sums[0] + factor * values[0], sums[1] + factor * values[1], sums[2] + factor * values[2]


@triton.jit
def _column(x_ptr, line, column, rows, columns, channels, channel):
    """The values above, at and below a place, zeros beyond the borders; a line is a row of any of the maps."""
    row = line % rows
    at = x_ptr + (line * columns + column) * channels + channel
    there = tl.where(column < columns, channels, 0)
    above = tl.load(at - columns * channels, mask=channel < tl.where(row > 0, there, 0), other=0)
    here = tl.load(at, mask=channel < there, other=0)
    below = tl.load(at + columns * channels, mask=channel < tl.where(row + 1 < rows, there, 0), other=0)
    return above.to(tl.float32), here.to(tl.float32), below.to(tl.float32)

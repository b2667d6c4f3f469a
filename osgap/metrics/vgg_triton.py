"""VGG-16 on CUDA in 16 bits: what lies between its convolutions, which torch does in passes that take as long as they.

Its convolutions are the library's, without their biases: bias and ReLU are one pass in place here, where torch adds
biases of channels_last maps in a pass of their own, at a fraction of the memory's speed. Pooling keeps no indices.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_TILE = 4096  # values of a program
_MULTIPLE = 8  # channels of 16 bits that tensor cores read at a time


def features(backbone: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """What torchmetrics' backbone of LPIPS returns for `[M, 3, H, W]`: features at five depths, `[M, C, h, w]`.

    Its parameters are constants: gradients are those by the images, once.

    Raises:
        TypeError: when the network has other layers than VGG-16 has.
    """
    extra = -images.shape[1] % _MULTIPLE
    x = F.pad(images, (0, 0, 0, 0, 0, extra)).contiguous(memory_format=torch.channels_last)
    levels = []
    for part in backbone.children():
        for layer in part.children():
            if isinstance(layer, nn.Conv2d):
                extra = x.shape[1] - layer.in_channels
                weight = F.pad(layer.weight, (0, 0, 0, 0, 0, extra)) if extra else layer.weight
                x, bias = F.conv2d(x, weight, None, layer.stride, layer.padding), layer.bias
                x = x.contiguous(memory_format=torch.channels_last)
            elif isinstance(layer, nn.ReLU):
                x = _Activation.apply(x, bias)
            elif isinstance(layer, nn.MaxPool2d) and layer.kernel_size == layer.stride == 2 and not layer.ceil_mode:
                x = _Pooling.apply(x)
            else:
                raise TypeError(f"{layer} is not a layer of VGG-16")
        levels.append(x)
    return tuple(levels)


class _Activation(torch.autograd.Function):
    """`relu(x + bias)` of `[M, C, h, w]`, in place; of constant biases."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        pixels, channels = _pixels(x), x.shape[1]
        with torch.cuda.device_of(x):
            _activate[_grid(pixels, channels)](_flat(x), bias, pixels, channels, **_constants(channels))
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, y, 0), None


class _Pooling(torch.autograd.Function):
    """Largest of 2x2 values, `[M, C, h, w]` to `[M, C, h // 2, w // 2]`; the gradient goes to the first of equals."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        result = x.new_empty(batch, height // 2, width // 2, channels).permute(0, 3, 1, 2)
        pixels = _pixels(result)
        with torch.cuda.device_of(x):
            _pool[_grid(pixels, channels)](_flat(x), result, pixels, height, width, channels, **_constants(channels))
        ctx.save_for_backward(x)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        batch, channels, height, width = x.shape
        result = torch.empty_like(x)
        windows = batch * -(-height // 2) * -(-width // 2)  # those that the border cuts off, too
        with torch.cuda.device_of(x):
            _unpool[_grid(windows, channels)](
                _flat(x), _flat(gradient.contiguous(memory_format=torch.channels_last)), _flat(result),
                windows, height, width, channels, **_constants(channels),
            )  # fmt: skip
        return result


def _flat(x: Tensor) -> Tensor:
    """`[M, C, h, w]` as it must lie in memory: `[M, h, w, C]`."""
    x = x.permute(0, 2, 3, 1)
    assert x.is_contiguous()
    return x


def _pixels(x: Tensor) -> int:
    return x.numel() // x.shape[1]


def _constants(channels: int) -> dict[str, Any]:
    width = triton.next_power_of_2(channels)
    return {"CHANNELS": width, "PIXELS": max(1, _TILE // width)}


def _grid(pixels: int, channels: int) -> tuple[int]:
    return (triton.cdiv(pixels, _constants(channels)["PIXELS"]),)


@triton.jit
def _activate(x_ptr, bias_ptr, pixels, channels, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    pixel = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    place = x_ptr + pixel[:, None] * channels + channel[None, :]
    bias = tl.load(bias_ptr + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    x = tl.load(place, mask=inside, other=0.0).to(tl.float32) + bias
    x = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(place, x.to(x_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _pool(x_ptr, result_ptr, pixels, height, width, channels, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)[None, :]
    inside = (pixel < pixels)[:, None] & (channel < channels)
    row, column = pixel // (width // 2), pixel % (width // 2)
    row = row // (height // 2) * height + row % (height // 2) * 2  # of all images
    at = x_ptr + (row.to(tl.int64) * width + column * 2)[:, None] * channels + channel
    first = _larger(tl.load(at, mask=inside, other=0.0), tl.load(at + channels, mask=inside, other=0.0))
    at += width * channels
    second = _larger(tl.load(at, mask=inside, other=0.0), tl.load(at + channels, mask=inside, other=0.0))
    place = pixel.to(tl.int64)[:, None] * channels + channel
    tl.store(result_ptr + place, _larger(first, second), mask=inside)


@triton.jit
def _unpool(
    x_ptr, gradient_ptr, result_ptr, windows, height, width, channels,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    window = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)[None, :]
    inside = (window < windows)[:, None] & (channel < channels)
    across, down = (width + 1) // 2, (height + 1) // 2
    column = window % across
    image, row = window // across // down, window // across % down
    right, below = (column * 2 + 1 < width)[:, None], (row * 2 + 1 < height)[:, None]
    pooled = (image * (height // 2) + row).to(tl.int64) * (width // 2) + column
    whole = inside & right & below
    gradient = tl.load(gradient_ptr + pooled[:, None] * channels + channel, mask=whole, other=0.0)
    place = ((image * height + row * 2).to(tl.int64) * width + column * 2)[:, None] * channels + channel
    under = place + width * channels
    a = tl.load(x_ptr + place, mask=whole, other=0.0)
    b = tl.load(x_ptr + place + channels, mask=whole, other=0.0)
    c = tl.load(x_ptr + under, mask=whole, other=0.0)
    d = tl.load(x_ptr + under + channels, mask=whole, other=0.0)
    # Which of them torch takes: the first of equals, row by row.
    upper, lower = tl.maximum(a, b), tl.maximum(c, d)
    top = upper >= lower
    tl.store(result_ptr + place, tl.where(top & (a >= b), gradient, 0.0), mask=inside)
    tl.store(result_ptr + place + channels, tl.where(top & (a < b), gradient, 0.0), mask=inside & right)
    tl.store(result_ptr + under, tl.where((upper < lower) & (c >= d), gradient, 0.0), mask=inside & below)
    last = (upper < lower) & (c < d)
    tl.store(result_ptr + under + channels, tl.where(last, gradient, 0.0), mask=inside & right & below)

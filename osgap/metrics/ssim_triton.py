"""SSIM on CUDA, as `osgap.metrics.ssim_kernels` on the CPU: the map, or the mean of its loss together with L1.

With x, y the images, G* the window's mean, and

    A1 = 2 mx my + C1          mx = G*x          B1 = mx^2 + my^2 + C1
    A2 = 2 (exy - mx my) + C2  exy = G*(x y)     B2 = e2 - mx^2 - my^2 + C2     e2 = G*(x^2 + y^2)

the map is m = A1 A2 / (B1 B2) (Wang et al. 2004, eq. 13), and the gradient of sum(g m) with respect to x is

    G*(g p) + 2 x G*(g q) + y G*(g r)      q = dm/de2 = -m / B2,  r = dm/dexy = 2 A1 / (B1 B2)
                                           p = dm/dmx = 2 my (A2 - A1) / (B1 B2) + 2 mx m (1/B2 - 1/B1)

The forward kernel makes m, p, q and r of the images, the backward kernel the gradient of p, q and r. The window is
separable. A program takes a strip of rows and a block of columns and goes down: of each row it sums along the row,
from the cache, and adds the sum to the ten windows below it that are not complete yet, which stay in registers; so
nothing but the results is written. What crosses the memory's bus, in bytes per value (pixel and channel), where the
gradient of a mean is one number rather than an image:

    forward   x 4, y 1 (bytes) or 4 (floats)   ->  p, q, r 12 (if x requires a gradient), the map 4 (if wanted)
    backward  p, q, r 12, x 4, y 1 or 4, the map's gradient 4 (if it was wanted)   ->  4

That is 17 and 21 for the loss of 8-bit targets. Programs also read a margin of 5 px on each side, which is 1.4 times
their own values in all; the margins are their neighbours' and mostly in the cache. Sums have a fixed order, so that
results are the same bits in every run.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from osgap.metrics.definitions import SSIM_C1, SSIM_C2, check_images, gaussian_window

_ROWS = 64
_BLOCK = 128  # columns: one per thread, whose sums take 40 registers


def ssim_map(images: Tensor, targets: Tensor) -> Tensor:
    """`osgap.metrics.image_metrics.ssim_map` of float32 images `[..., H, W, C]`, differentiable in `images` only."""
    return _SsimMap.apply(images, targets)


def photometric_loss(images: Tensor, targets: Tensor, ssim_weight: float) -> Tensor:
    """`(1 - w) L1 + w (1 - SSIM)`, the mean over all values; differentiable in `images`, once.

    Args:
        images: `[..., H, W, C]` float32, not empty.
        targets: The same shape, float32 or uint8, whose 0..255 stand for 0..1.
        ssim_weight: w.

    Raises:
        ValueError: when the shapes differ or are not images.
    """
    check_images(images, targets)
    return _PhotometricLoss.apply(images, targets, ssim_weight)


class _SsimMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, targets: Tensor) -> Tensor:
        values = torch.empty_like(images, memory_format=torch.contiguous_format)
        _forward(ctx, images, targets, values, (0.0, 0.0), mean=False)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _backward(ctx, gradient.contiguous(), (0.0, 0.0), mean=False), None


class _PhotometricLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, targets: Tensor, ssim_weight: float) -> Tensor:
        ctx.weights = (1 - ssim_weight) / images.numel(), ssim_weight / images.numel()
        shares = images.new_empty(_grid(images))
        _forward(ctx, images, targets, shares, ctx.weights, mean=True)
        return shares.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _backward(ctx, gradient, ctx.weights, mean=True), None, None


def _forward(ctx: Any, images: Tensor, targets: Tensor, out: Tensor, weights: tuple[float, float], mean: bool) -> None:
    """Fill `out`: the map, or with `mean` each program's share of the loss; keep what the gradient needs."""
    x, y = images.contiguous(), targets.contiguous()
    keep = ctx.needs_input_grad[0]
    height, columns = x.shape[-3], x.shape[-2] * x.shape[-1]
    parts = x.new_empty(x.numel() // columns, 3, columns) if keep else out
    with torch.cuda.device_of(x):
        _similarity[_grid(x)](
            x, y, out, parts, *weights, height, columns, **_constants(x), C1=SSIM_C1, C2=SSIM_C2, MEAN=mean, KEEP=keep
        )
    if keep:
        ctx.save_for_backward(x, y, parts)


def _backward(ctx: Any, gradient: Tensor, weights: tuple[float, float], mean: bool) -> Tensor:
    x, y, parts = ctx.saved_tensors
    height, columns = x.shape[-3], x.shape[-2] * x.shape[-1]
    result = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _gradient[_grid(x)](x, y, parts, gradient, result, *weights, height, columns, **_constants(x), MEAN=mean)
    return result


def _grid(x: Tensor) -> tuple[int, int]:
    """Strips of rows of all images, and blocks of columns; channels are interleaved columns."""
    height, width, channels = x.shape[-3:]
    images = x.numel() // (height * width * channels)
    return images * triton.cdiv(height, _ROWS), triton.cdiv(width * channels, _BLOCK)


def _constants(x: Tensor) -> dict[str, Any]:
    # Products are added in one rounding: not every version of Triton does so unless told.
    return {
        "WINDOW": _window(), "CHANNELS": x.shape[-1], "ROWS": _ROWS, "BLOCK": _BLOCK, "enable_fp_fusion": True,
    }  # fmt: skip


@functools.cache
def _window() -> tuple[float, ...]:
    """The taps, which become immediate operands."""
    return tuple(gaussian_window(torch.device("cpu"), torch.float32).tolist())


@triton.jit
def _similarity(
    x_ptr, y_ptr, out_ptr, parts_ptr, l1_weight, ssim_weight, rows, columns,
    WINDOW: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    C1: tl.constexpr, C2: tl.constexpr, MEAN: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """m, or with MEAN the program's share of the loss; with KEEP also p, q, r, `[B, H, 3, W C]`."""
    REACH: tl.constexpr = len(WINDOW) // 2
    line, top, height, column = _place(rows, ROWS, BLOCK)
    inside = column < columns
    x_sums = _nothing(WINDOW, BLOCK)
    y_sums = _nothing(WINDOW, BLOCK)
    square_sums = _nothing(WINDOW, BLOCK)
    product_sums = _nothing(WINDOW, BLOCK)
    share = tl.zeros([BLOCK], tl.float32)
    for step in range(height + 2 * REACH):
        row = top - REACH + step
        start = (line + row) * columns + column
        x_sum = tl.zeros([BLOCK], tl.float32)
        y_sum = tl.zeros([BLOCK], tl.float32)
        square_sum = tl.zeros([BLOCK], tl.float32)
        product_sum = tl.zeros([BLOCK], tl.float32)
        if (row >= 0) & (row < rows):
            for tap in tl.static_range(2 * REACH + 1):
                shift = (tap - REACH) * CHANNELS
                there = (column + shift >= 0) & (column + shift < columns)
                x = tl.load(x_ptr + start + shift, mask=there, other=0)
                y = _unit(tl.load(y_ptr + start + shift, mask=there, other=0))
                x_sum += WINDOW[tap] * x
                y_sum += WINDOW[tap] * y
                square_sum += WINDOW[tap] * (x * x + y * y)
                product_sum += WINDOW[tap] * (x * y)
                if MEAN and tap == REACH:
                    share += tl.where((row >= top) & (row < top + height), l1_weight * tl.abs(x - y), 0.0)
        mx, x_sums = _add(x_sums, x_sum, WINDOW)
        my, y_sums = _add(y_sums, y_sum, WINDOW)
        e2, square_sums = _add(square_sums, square_sum, WINDOW)
        exy, product_sums = _add(product_sums, product_sum, WINDOW)

        complete = inside & (step >= 2 * REACH)
        a1 = 2 * mx * my + C1
        a2 = 2 * (exy - mx * my) + C2
        i1 = 1 / (mx * mx + my * my + C1)
        i2 = 1 / (e2 - mx * mx - my * my + C2)
        m = (a1 * i1) * (a2 * i2)
        if MEAN:
            share += tl.where(complete, ssim_weight * (1 - m), 0.0)
        else:
            tl.store(out_ptr + (line + row - REACH) * columns + column, m, mask=complete)
        if KEEP:
            target = parts_ptr + (line + row - REACH) * 3 * columns + column
            p = 2 * my * (a2 - a1) * (i1 * i2) + 2 * mx * m * (i2 - i1)
            tl.store(target, p, mask=complete)
            tl.store(target + columns, -m * i2, mask=complete)
            tl.store(target + 2 * columns, 2 * a1 * (i1 * i2), mask=complete)
    if MEAN:
        tl.store(out_ptr + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), tl.sum(share))


@triton.jit
def _gradient(
    x_ptr, y_ptr, parts_ptr, gradient_ptr, result_ptr, l1_weight, ssim_weight, rows, columns,
    WINDOW: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, MEAN: tl.constexpr,
):  # fmt: skip
    """The gradient with respect to x: of the loss, whose gradient is one number, or of the map, whose is an image."""
    REACH: tl.constexpr = len(WINDOW) // 2
    line, top, height, column = _place(rows, ROWS, BLOCK)
    inside = column < columns
    p_sums = _nothing(WINDOW, BLOCK)
    q_sums = _nothing(WINDOW, BLOCK)
    r_sums = _nothing(WINDOW, BLOCK)
    for step in range(height + 2 * REACH):
        row = top - REACH + step
        start = (line + row) * 3 * columns + column
        p_sum = tl.zeros([BLOCK], tl.float32)
        q_sum = tl.zeros([BLOCK], tl.float32)
        r_sum = tl.zeros([BLOCK], tl.float32)
        if (row >= 0) & (row < rows):
            for tap in tl.static_range(2 * REACH + 1):
                shift = (tap - REACH) * CHANNELS
                there = (column + shift >= 0) & (column + shift < columns)
                weight = WINDOW[tap]
                if not MEAN:
                    weight *= tl.load(gradient_ptr + (line + row) * columns + column + shift, mask=there, other=0)
                p_sum += weight * tl.load(parts_ptr + start + shift, mask=there, other=0)
                q_sum += weight * tl.load(parts_ptr + start + columns + shift, mask=there, other=0)
                r_sum += weight * tl.load(parts_ptr + start + 2 * columns + shift, mask=there, other=0)
        p, p_sums = _add(p_sums, p_sum, WINDOW)
        q, q_sums = _add(q_sums, q_sum, WINDOW)
        r, r_sums = _add(r_sums, r_sum, WINDOW)

        complete = inside & (step >= 2 * REACH)
        target = (line + row - REACH) * columns + column
        x = tl.load(x_ptr + target, mask=complete, other=0)
        y = _unit(tl.load(y_ptr + target, mask=complete, other=0))
        gradient = p + 2 * x * q + y * r
        if MEAN:
            sign = tl.where(x > y, 1.0, tl.where(x < y, -1.0, 0.0))
            gradient = tl.load(gradient_ptr) * (l1_weight * sign - ssim_weight * gradient)
        tl.store(result_ptr + target, gradient, mask=complete)


@triton.jit
def _place(rows, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Where this program works: the line its image starts at (lines of all images are one sequence; 64 bit), its first
    row in the image, how many rows, and its columns."""
    strips = tl.cdiv(rows, ROWS)
    line = (tl.program_id(0) // strips).to(tl.int64) * rows
    top = tl.program_id(0) % strips * ROWS
    return line, top, tl.minimum(rows - top, ROWS), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _unit(value):
    """Bytes as 0..1, good to a last digit; 255 is exactly 1, as a white background is."""
    if value.dtype == tl.uint8:
        value = value.to(tl.float32) * (1 / 255)
    return value


@triton.jit
def _nothing(WINDOW: tl.constexpr, BLOCK: tl.constexpr):
    """The sums so far of the windows that are not complete."""
    return (tl.zeros([BLOCK], tl.float32),) * (len(WINDOW) - 1)


@triton.jit
def _add(sums, value, WINDOW: tl.constexpr):
    """Add a row to the windows that it is in: the one that it completes, and the others, next to complete first.

    The window is symmetric: a row's weight in the one that it completes is that of the first tap.
    """
    rest = sums[:0]  # an empty tuple
    for tap in tl.static_range(1, len(WINDOW) - 1):
        rest += (sums[tap] + WINDOW[tap] * value,)
    rest += (WINDOW[len(WINDOW) - 1] * value,)
    return sums[0] + WINDOW[0] * value, rest

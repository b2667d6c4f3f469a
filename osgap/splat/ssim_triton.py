"""SSIM on CUDA: the map, and in the same passes what its gradient needs, as `osgap.splat.ssim_kernels` on the CPU.

The window is separable, so that each direction is a pass of its own: down the columns, then along the rows. With
x, y the images, G* the window's mean, and

    A1 = 2 mx my + C1          mx = G*x          B1 = mx^2 + my^2 + C1
    A2 = 2 (exy - mx my) + C2  exy = G*(x y)     B2 = exx + eyy - mx^2 - my^2 + C2

the map is m = A1 A2 / (B1 B2) (Wang et al. 2004, eq. 13), and the gradient of sum(g m) with respect to x is

    G*(g p) + 2 x G*(g q) + y G*(g r)      q = dm/dexx = -m / B2,  r = dm/dexy = 2 A1 / (B1 B2)
                                           p = dm/dmx = 2 my (A2 - A1) / (B1 B2) + 2 mx m (1/B2 - 1/B1)

All of it is memory traffic; nothing but m, p, q, r and the columns' sums is written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 512


def forward(x: Tensor, y: Tensor, window: Tensor, c1: float, c2: float, partials: bool) -> tuple[Tensor, Tensor | None]:
    """The map of float32 images `[B, H, W, C]`, contiguous; with `partials` also p, q and r, `[3, B, H, W, C]`."""
    sums, values = x.new_empty(5, *x.shape), torch.empty_like(x)
    parts = x.new_empty(3, *x.shape) if partials else None
    with torch.cuda.device(x.device):
        _sum_columns[_grid(x)](x, y, window, sums, *_extent(x), **_constants(x, window))
        _similarity[_grid(x)](
            sums, window, values, values if parts is None else parts, c1, c2, *_extent(x), **_constants(x, window),
            PARTIALS=partials,
        )  # fmt: skip
    return values, parts


def backward(x: Tensor, y: Tensor, window: Tensor, parts: Tensor, gradient: Tensor) -> Tensor:
    """Gradient with respect to `x`, of the map's `gradient`; all `[B, H, W, C]`, contiguous."""
    sums, result = torch.empty_like(parts), torch.empty_like(x)
    with torch.cuda.device(x.device):
        _sum_gradients[_grid(x)](parts, gradient, window, sums, *_extent(x), **_constants(x, window))
        _gradient[_grid(x)](x, y, sums, window, result, *_extent(x), **_constants(x, window))
    return result


def _grid(x: Tensor) -> tuple[int, int]:
    """One program per row of an image and block of columns; channels are interleaved columns."""
    return x.shape[0] * x.shape[1], triton.cdiv(x.shape[2] * x.shape[3], _BLOCK)


def _extent(x: Tensor) -> tuple[int, int, int]:
    """Rows, columns, and how far the planes of a stack are apart."""
    return x.shape[1], x.shape[2] * x.shape[3], x.numel()


def _constants(x: Tensor, window: Tensor) -> dict[str, int]:
    return {"TAPS": len(window), "CHANNELS": x.shape[3], "BLOCK": _BLOCK}


@triton.jit
def _sum_columns(
    x_ptr, y_ptr, window_ptr, sums_ptr, rows, columns, plane,
    TAPS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Window sums down the columns of x, y, x^2, y^2 and x y."""
    line = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    row = line % rows
    x_sum = tl.zeros([BLOCK], tl.float32)
    y_sum = tl.zeros([BLOCK], tl.float32)
    xx_sum = tl.zeros([BLOCK], tl.float32)
    yy_sum = tl.zeros([BLOCK], tl.float32)
    xy_sum = tl.zeros([BLOCK], tl.float32)
    for tap in tl.static_range(TAPS):
        shift = tap - TAPS // 2
        there = inside & (row + shift >= 0) & (row + shift < rows)
        place = (line + shift).to(tl.int64) * columns + column
        weight = tl.load(window_ptr + tap)
        x = tl.load(x_ptr + place, mask=there, other=0.0)
        y = tl.load(y_ptr + place, mask=there, other=0.0)
        x_sum += weight * x
        y_sum += weight * y
        xx_sum += weight * x * x
        yy_sum += weight * y * y
        xy_sum += weight * x * y
    target = sums_ptr + line.to(tl.int64) * columns + column
    stride = plane.to(tl.int64)
    tl.store(target, x_sum, mask=inside)
    tl.store(target + stride, y_sum, mask=inside)
    tl.store(target + 2 * stride, xx_sum, mask=inside)
    tl.store(target + 3 * stride, yy_sum, mask=inside)
    tl.store(target + 4 * stride, xy_sum, mask=inside)


@triton.jit
def _similarity(
    sums_ptr, window_ptr, values_ptr, parts_ptr, c1, c2, rows, columns, plane,
    TAPS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, PARTIALS: tl.constexpr,
):  # fmt: skip
    """Window sums along the rows, then m, and p, q, r."""
    line = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    stride = plane.to(tl.int64)
    base = line.to(tl.int64) * columns
    mx = tl.zeros([BLOCK], tl.float32)
    my = tl.zeros([BLOCK], tl.float32)
    exx = tl.zeros([BLOCK], tl.float32)
    eyy = tl.zeros([BLOCK], tl.float32)
    exy = tl.zeros([BLOCK], tl.float32)
    for tap in tl.static_range(TAPS):
        other = column + (tap - TAPS // 2) * CHANNELS
        there = (other >= 0) & (other < columns)
        place = sums_ptr + base + other
        weight = tl.load(window_ptr + tap)
        mx += weight * tl.load(place, mask=there, other=0.0)
        my += weight * tl.load(place + stride, mask=there, other=0.0)
        exx += weight * tl.load(place + 2 * stride, mask=there, other=0.0)
        eyy += weight * tl.load(place + 3 * stride, mask=there, other=0.0)
        exy += weight * tl.load(place + 4 * stride, mask=there, other=0.0)
    a1 = 2 * mx * my + c1
    a2 = 2 * (exy - mx * my) + c2
    b1 = mx * mx + my * my + c1
    b2 = exx + eyy - mx * mx - my * my + c2
    m = (a1 / b1) * (a2 / b2)
    tl.store(values_ptr + base + column, m, mask=inside)
    if PARTIALS:
        target = parts_ptr + base + column
        p = 2 * my * (a2 - a1) / (b1 * b2) + 2 * mx * m * (1 / b2 - 1 / b1)
        tl.store(target, p, mask=inside)
        tl.store(target + stride, -m / b2, mask=inside)
        tl.store(target + 2 * stride, 2 * a1 / (b1 * b2), mask=inside)


@triton.jit
def _sum_gradients(
    parts_ptr, gradient_ptr, window_ptr, sums_ptr, rows, columns, plane,
    TAPS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Window sums down the columns of g p, g q and g r."""
    line = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    row = line % rows
    stride = plane.to(tl.int64)
    p = tl.zeros([BLOCK], tl.float32)
    q = tl.zeros([BLOCK], tl.float32)
    r = tl.zeros([BLOCK], tl.float32)
    for tap in tl.static_range(TAPS):
        shift = tap - TAPS // 2
        there = inside & (row + shift >= 0) & (row + shift < rows)
        place = (line + shift).to(tl.int64) * columns + column
        weighted = tl.load(window_ptr + tap) * tl.load(gradient_ptr + place, mask=there, other=0.0)
        p += weighted * tl.load(parts_ptr + place, mask=there, other=0.0)
        q += weighted * tl.load(parts_ptr + stride + place, mask=there, other=0.0)
        r += weighted * tl.load(parts_ptr + 2 * stride + place, mask=there, other=0.0)
    target = sums_ptr + line.to(tl.int64) * columns + column
    tl.store(target, p, mask=inside)
    tl.store(target + stride, q, mask=inside)
    tl.store(target + 2 * stride, r, mask=inside)


@triton.jit
def _gradient(
    x_ptr, y_ptr, sums_ptr, window_ptr, result_ptr, rows, columns, plane,
    TAPS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Window sums along the rows, and the chain rule."""
    line = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    stride = plane.to(tl.int64)
    base = line.to(tl.int64) * columns
    p = tl.zeros([BLOCK], tl.float32)
    q = tl.zeros([BLOCK], tl.float32)
    r = tl.zeros([BLOCK], tl.float32)
    for tap in tl.static_range(TAPS):
        other = column + (tap - TAPS // 2) * CHANNELS
        there = (other >= 0) & (other < columns)
        place = sums_ptr + base + other
        weight = tl.load(window_ptr + tap)
        p += weight * tl.load(place, mask=there, other=0.0)
        q += weight * tl.load(place + stride, mask=there, other=0.0)
        r += weight * tl.load(place + 2 * stride, mask=there, other=0.0)
    x = tl.load(x_ptr + base + column, mask=inside, other=0.0)
    y = tl.load(y_ptr + base + column, mask=inside, other=0.0)
    tl.store(result_ptr + base + column, p + 2 * x * q + y * r, mask=inside)

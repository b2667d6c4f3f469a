"""Compiled SSIM for float32 images on the CPU: its map and, in the same pass, what its gradient needs.

One image is a plane of `H` rows and `W * C` columns, channels interleaved. Each row of the five window means (of x, y,
x^2, y^2 and x y) is first summed over rows of the image, then along the row, `C` columns apart. That is 22
multiplications per mean and pixel, all of them in loops that LLVM vectorises; six times faster than matrix products.

Everything the kernels call is in this file, because Numba notices changes to a cached kernel by its file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

_TAPS = 11
_HALF = _TAPS // 2


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.njit`, cached on disk where there is a place to write to."""
    options: dict[str, Any] = {"fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy", "nogil": True}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder is writable
        return numba.njit(**options)(function)


@_jit
def _sum_rows(out, image, row, kernel):
    """Window sum down the columns around one row; zeros beyond the image."""
    for column in range(out.shape[0]):
        out[column] = 0
    for other in range(max(0, row - _HALF), min(image.shape[0], row + _HALF + 1)):
        weight = kernel[other - row + _HALF]
        source = image[other]
        for column in range(out.shape[0]):
            out[column] += weight * source[column]


@_jit
def _sum_columns(out, padded, channels, kernel):
    """Window sum along a row that is padded with zeros on both sides."""
    for column in range(out.shape[0]):
        total = np.float32(0)
        for tap in range(_TAPS):
            total += kernel[tap] * padded[column + tap * channels]
        out[column] = total


@_jit
def forward(x, y, channels, kernel, c1, c2, values, partials):
    """SSIM at every pixel and channel.

    Args:
        x, y: `[B, H, W * C]` float32.
        channels: C.
        kernel: `[11]` float32 window.
        c1, c2: float32 constants of the definition.
        values: `[B, H, W * C]`, written.
        partials: `[B, 3, H, W * C]`, written: derivatives with respect to the window means of x, x^2 and x y; or
            `[0, ...]` when no gradient is needed.
    """
    count, height, width = x.shape
    two = np.float32(2)
    products = np.empty((3, height, width), np.float32)
    padded = np.zeros((5, width + 2 * _HALF * channels), np.float32)
    inner = slice(_HALF * channels, _HALF * channels + width)
    means = np.empty((5, width), np.float32)
    for b in range(count):
        for i in range(height):
            for j in range(width):
                products[0, i, j] = x[b, i, j] * x[b, i, j]
                products[1, i, j] = y[b, i, j] * y[b, i, j]
                products[2, i, j] = x[b, i, j] * y[b, i, j]
        for i in range(height):
            _sum_rows(padded[0, inner], x[b], i, kernel)
            _sum_rows(padded[1, inner], y[b], i, kernel)
            for k in range(3):
                _sum_rows(padded[2 + k, inner], products[k], i, kernel)
            for k in range(5):
                _sum_columns(means[k], padded[k], channels, kernel)
            mean_x, mean_y, square_x, square_y, product = means[0], means[1], means[2], means[3], means[4]
            for j in range(width):
                cross = mean_x[j] * mean_y[j]
                squares = mean_x[j] * mean_x[j] + mean_y[j] * mean_y[j]
                a1, a2 = two * cross + c1, two * (product[j] - cross) + c2
                b1, b2 = squares + c1, square_x[j] + square_y[j] - squares + c2
                inverse = np.float32(1) / (b1 * b2)
                value = a1 * a2 * inverse
                values[b, i, j] = value
                if len(partials):
                    by_square = -value / b2
                    by_product = two * a1 * inverse
                    partials[b, 1, i, j] = by_square
                    partials[b, 2, i, j] = by_product
                    partials[b, 0, i, j] = mean_y[j] * (two * a2 * inverse - by_product) - two * mean_x[j] * (
                        value / b1 + by_square
                    )


@_jit
def backward(x, y, channels, kernel, partials, upstream, gradient):
    """Gradient with respect to x, for an upstream gradient of the map.

    Args:
        x, y, channels, kernel, partials: as of `forward`.
        upstream: `[B, H, W * C]` float32.
        gradient: `[B, H, W * C]`, written.
    """
    count, height, width = x.shape
    two = np.float32(2)
    weighted = np.empty((3, height, width), np.float32)
    padded = np.zeros((3, width + 2 * _HALF * channels), np.float32)
    inner = slice(_HALF * channels, _HALF * channels + width)
    sums = np.empty((3, width), np.float32)
    for b in range(count):
        for k in range(3):
            for i in range(height):
                for j in range(width):
                    weighted[k, i, j] = partials[b, k, i, j] * upstream[b, i, j]
        for i in range(height):
            for k in range(3):
                _sum_rows(padded[k, inner], weighted[k], i, kernel)
                _sum_columns(sums[k], padded[k], channels, kernel)
            for j in range(width):
                gradient[b, i, j] = sums[0, j] + two * x[b, i, j] * sums[1, j] + y[b, i, j] * sums[2, j]

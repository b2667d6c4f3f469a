"""Compiled silhouettes on the CPU: every triangle's pixels, one triangle after the other.

Everything the kernel calls is in this file, because Numba notices changes to a cached kernel by its file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`numba.njit`, cached on disk where there is a place to write to."""
    options: dict[str, Any] = {"error_model": "numpy", "nogil": True}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder is writable
        return numba.njit(**options)(function)


@_jit
def fill(points, faces, inside):
    """Set the pixels of `inside` `[H, W]` whose centre lies in a triangle of `faces` `[F, 3]`; its corners are `points`
    `[V, 2]`, x right and y down, in pixels."""
    height, width = inside.shape
    half, zero = np.float32(0.5), np.float32(0)
    for face in range(faces.shape[0]):
        a, b, c = points[faces[face, 0]], points[faces[face, 1]], points[faces[face, 2]]
        first = max(0, int(np.ceil(min(a[0], b[0], c[0]) - half)))
        last = min(width - 1, int(np.floor(max(a[0], b[0], c[0]) - half)))
        top = max(0, int(np.ceil(min(a[1], b[1], c[1]) - half)))
        bottom = min(height - 1, int(np.floor(max(a[1], b[1], c[1]) - half)))
        for row in range(top, bottom + 1):
            y = np.float32(row) + half
            for column in range(first, last + 1):
                x = np.float32(column) + half
                # Twice the signed areas that the pixel's centre spans with each edge.
                one = (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
                two = (c[0] - b[0]) * (y - b[1]) - (c[1] - b[1]) * (x - b[0])
                three = (a[0] - c[0]) * (y - c[1]) - (a[1] - c[1]) * (x - c[0])
                positive = one >= zero and two >= zero and three >= zero
                if positive or (one <= zero and two <= zero and three <= zero):
                    inside[row, column] = True

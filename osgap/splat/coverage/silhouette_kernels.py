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
        i, j, k = faces[face, 0], faces[face, 1], faces[face, 2]
        ax, ay, bx, by, cx, cy = points[i, 0], points[i, 1], points[j, 0], points[j, 1], points[k, 0], points[k, 1]
        first = max(0, int(np.ceil(min(ax, bx, cx) - half)))
        last = min(width - 1, int(np.floor(max(ax, bx, cx) - half)))
        top = max(0, int(np.ceil(min(ay, by, cy) - half)))
        bottom = min(height - 1, int(np.floor(max(ay, by, cy) - half)))
        for row in range(top, bottom + 1):
            y = np.float32(row) + half
            for column in range(first, last + 1):
                if inside[row, column]:
                    continue
                x = np.float32(column) + half
                # Twice the signed areas that the pixel's centre spans with each edge.
                one = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
                two = (cx - bx) * (y - by) - (cy - by) * (x - bx)
                three = (ax - cx) * (y - cy) - (ay - cy) * (x - cx)
                positive = one >= zero and two >= zero and three >= zero
                if positive or (one <= zero and two <= zero and three <= zero):
                    inside[row, column] = True

"""`osgap.splat.coverage.silhouette.silhouettes` on CUDA: a program for every triangle in every image."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 16  # rows and columns that are looked at together; most triangles of a head are smaller


def fill(points: Tensor, faces: Tensor, width: int, height: int) -> Tensor:
    """Which pixels' centres lie in a triangle, `[B, height, width]` bool.

    Args:
        points: `[B, V, 2]` float32 vertices in pixels, x right and y down.
        faces: `[F, 3]` int64.
    """
    points, faces = points.contiguous(), faces.contiguous()
    inside = torch.zeros(len(points), height, width, dtype=torch.uint8, device=points.device)
    with torch.cuda.device_of(points):
        _fill[(len(faces), len(points))](points, faces, inside, points.shape[1], width, height, BLOCK=_BLOCK)
    return inside.bool()


@triton.jit
def _fill(points_ptr, faces_ptr, inside_ptr, vertices, width, height, BLOCK: tl.constexpr):
    face, image = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    points_ptr += image * vertices * 2
    inside_ptr += image * width * height
    a = points_ptr + tl.load(faces_ptr + face * 3) * 2
    b = points_ptr + tl.load(faces_ptr + face * 3 + 1) * 2
    c = points_ptr + tl.load(faces_ptr + face * 3 + 2) * 2
    ax, ay = tl.load(a), tl.load(a + 1)
    bx, by = tl.load(b), tl.load(b + 1)
    cx, cy = tl.load(c), tl.load(c + 1)
    first = tl.maximum(tl.ceil(tl.minimum(tl.minimum(ax, bx), cx) - 0.5), 0.0).to(tl.int32)
    last = tl.minimum(tl.floor(tl.maximum(tl.maximum(ax, bx), cx) - 0.5), width - 1.0).to(tl.int32)
    top = tl.maximum(tl.ceil(tl.minimum(tl.minimum(ay, by), cy) - 0.5), 0.0).to(tl.int32)
    bottom = tl.minimum(tl.floor(tl.maximum(tl.maximum(ay, by), cy) - 0.5), height - 1.0).to(tl.int32)
    for row in range(top, bottom + 1, BLOCK):
        rows = row + tl.arange(0, BLOCK)[:, None]
        y = rows.to(tl.float32) + 0.5
        for column in range(first, last + 1, BLOCK):
            columns = column + tl.arange(0, BLOCK)[None, :]
            x = columns.to(tl.float32) + 0.5
            # Twice the signed areas that the pixel's centre spans with each edge.
            one = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
            two = (cx - bx) * (y - by) - (cy - by) * (x - bx)
            three = (ax - cx) * (y - cy) - (ay - cy) * (x - cx)
            covered = ((one >= 0) & (two >= 0) & (three >= 0)) | ((one <= 0) & (two <= 0) & (three <= 0))
            tl.store(inside_ptr + rows * width + columns, 1, mask=covered & (rows <= bottom) & (columns <= last))

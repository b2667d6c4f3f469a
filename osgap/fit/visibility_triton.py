"""`osgap.fit.losses.visibility` on CUDA: one pass over the Gaussians of all images."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from osgap.splat.cameras import Cameras

_BLOCK = 128


def count(means: Tensor, scales: Tensor, cameras: Cameras, sigmas: float, min_depth: float) -> Tensor:
    """In how many images each Gaussian is seen, `[N]` float32.

    Args:
        means: `[B, N, 3]` float32.
        scales: `[B, N, 3]` float32.
        cameras: `[B]`.
        sigmas: how many standard deviations a Gaussian reaches.
        min_depth: least divisor of a projection.
    """
    means, scales = means.contiguous(), scales.contiguous()
    batch, number = means.shape[:2]
    seen = means.new_empty(number)
    with torch.cuda.device_of(means):
        _count[(triton.cdiv(number, _BLOCK),)](
            means, scales, cameras.world_to_camera.contiguous(), cameras.intrinsics.contiguous(), seen,
            number, batch, cameras.width, cameras.height, sigmas, min_depth, BLOCK=_BLOCK,
        )  # fmt: skip
    return seen


@triton.jit
def _count(
    means_ptr, scales_ptr, world_to_camera_ptr, intrinsics_ptr, seen_ptr,
    number, batch, width, height, sigmas, min_depth, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = index < number
    seen = tl.zeros([BLOCK], tl.float32)
    for image in range(batch):
        place = (image * number + index.to(tl.int64)) * 3
        x = tl.load(means_ptr + place, mask=mask, other=0.0)
        y = tl.load(means_ptr + place + 1, mask=mask, other=0.0)
        z = tl.load(means_ptr + place + 2, mask=mask, other=0.0)
        longest = tl.load(scales_ptr + place, mask=mask, other=0.0)
        longest = tl.maximum(longest, tl.load(scales_ptr + place + 1, mask=mask, other=0.0))
        longest = tl.maximum(longest, tl.load(scales_ptr + place + 2, mask=mask, other=0.0))
        camera = world_to_camera_ptr + image * 16
        across = _transformed(camera, x, y, z)
        down = _transformed(camera + 4, x, y, z)
        depth = _transformed(camera + 8, x, y, z)
        divisor = tl.maximum(depth, min_depth)
        in_row = _overlaps(intrinsics_ptr + image * 9, 0, 2, across, divisor, sigmas * longest, width)
        in_column = _overlaps(intrinsics_ptr + image * 9, 4, 5, down, divisor, sigmas * longest, height)
        seen += (in_row & in_column & (depth > 0)).to(tl.float32)
    tl.store(seen_ptr + index, seen, mask=mask)


@triton.jit
def _transformed(row_ptr, x, y, z):
    """One coordinate in camera space: a row of the world-to-camera matrix times the point."""
    return tl.load(row_ptr) * x + tl.load(row_ptr + 1) * y + tl.load(row_ptr + 2) * z + tl.load(row_ptr + 3)


@triton.jit
def _overlaps(intrinsics_ptr, FOCAL: tl.constexpr, CENTER: tl.constexpr, position, divisor, reach, size):
    """Whether an interval overlaps the image along one axis."""
    focal = tl.load(intrinsics_ptr + FOCAL)
    pixel = position / divisor * focal + tl.load(intrinsics_ptr + CENTER)
    reach = reach / divisor * focal
    return (pixel + reach > 0) & (pixel - reach < size)

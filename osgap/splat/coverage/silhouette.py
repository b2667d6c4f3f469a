"""Which pixels a mesh covers."""

from __future__ import annotations

import torch
from torch import Tensor

from osgap.splat.cameras import Cameras


@torch.no_grad()
def silhouettes(vertices: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    """The union of a mesh's projected triangles: pixels whose centre lies in one of them, or on its border.

    Compiled kernels on either device; nothing waits for a GPU.

    Args:
        vertices: `[B, V, 3]`, or `[V, 3]` for one mesh that all cameras see; all in front of the cameras.
        faces: `[F, 3]` int64.
        cameras: `[B]`.

    Returns:
        `[B, H, W]` bool, on the device of the vertices.
    """
    rotation, translation = cameras.world_to_camera[:, :3, :3], cameras.world_to_camera[:, :3, 3]
    points = vertices @ rotation.transpose(1, 2) + translation[:, None]
    focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, None, :2]
    pixels = (points[..., :2] / points[..., 2:] * focal + cameras.intrinsics[:, None, :2, 2]).float().contiguous()
    if pixels.is_cuda:
        from osgap.splat.coverage import silhouette_triton  # compiled code: loaded by those who need it only

        return silhouette_triton.fill(pixels, faces, cameras.width, cameras.height)
    from osgap.splat.coverage import silhouette_kernels

    inside = torch.zeros(len(pixels), cameras.height, cameras.width, dtype=torch.bool, device=pixels.device)
    for image, points_in_image in zip(inside, pixels, strict=True):
        silhouette_kernels.fill(points_in_image.numpy(), faces.numpy(), image.numpy())
    return inside


def eroded(inside: Tensor, pixels: int) -> Tensor:
    """What is at least so many pixels from the outside: steps to the four neighbours; beyond the image is outside.

    Two steps are the same as a disc of two pixels' radius.

    Args:
        inside: `[B, H, W]` bool.
        pixels: steps.
    """
    for _ in range(pixels):
        shrunk = torch.zeros_like(inside)
        shrunk[:, 1:-1, 1:-1] = (
            inside[:, 1:-1, 1:-1] & inside[:, :-2, 1:-1] & inside[:, 2:, 1:-1] & inside[:, 1:-1, :-2]
        ) & inside[:, 1:-1, 2:]
        inside = shrunk
    return inside

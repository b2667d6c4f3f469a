"""Cameras all around a head, above the shoulders: where a capture's cameras do not look from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from osgap.splat.cameras import Cameras

CLOSED = 0.95
"""Least alpha of a closed surface."""

LARGEST = 256
"""Largest rows and columns of a picture [pixels]: a pixel is 1.5 millimetres of a head with its neck."""

BORDER = 2
"""How much of a silhouette's border is not looked at [pixels]."""

_SMALLEST = 48  # pixels
_FIELD_OF_VIEW = math.radians(20)  # a portrait lens
_MARGIN = 1.03  # of the sphere around the head in its picture
_MIN_LENGTH = 1e-6


def even_directions(count: int, turn: float = 0.0) -> Tensor:
    """Directions that are spread evenly over the upper half sphere, `[count, 3]` unit vectors, y up, highest first.

    A Fibonacci spiral: equal steps in height, hence in area, and the golden angle between neighbours (Swinbank and
    Purser, "Fibonacci grids", Q. J. R. Meteorol. Soc. 2006, section 2, with heights above zero only).

    Args:
        count: how many.
        turn: of all of them about the vertical axis, radians.
    """
    index = torch.arange(count, dtype=torch.float64)
    height = 1 - (index + 0.5) / count
    return _directions(height, index * math.pi * (3 - math.sqrt(5)) + turn).float()


def random_directions(count: int, seed: int) -> Tensor:
    """Random directions, uniform on the upper half sphere, `[count, 3]` unit vectors, y up."""
    random = torch.Generator().manual_seed(seed)
    height, turn = torch.rand(2, count, generator=random, dtype=torch.float64)
    return _directions(height, 2 * math.pi * turn).float()


def _directions(height: Tensor, turn: Tensor) -> Tensor:
    radius = (1 - height.square()).sqrt()
    return torch.stack((radius * turn.sin(), height, radius * turn.cos()), dim=-1)


def surrounding_cameras(vertices: Tensor, directions: Tensor, size: int) -> Cameras:
    """Square pictures that hold a whole head, from given directions; nothing waits for a GPU.

    The field of view is 20 degrees. The sphere around the middle of the vertices' bounding box that holds them all just
    fits into the picture, so that all heads are shown at their own scale and all vertices lie in front of the camera.

    Args:
        vertices: `[B, V, 3]`, or `[V, 3]` for one head that all cameras look at; world units, y up.
        directions: `[B, 3]` unit vectors from the head to each camera, not straight up or down; on the vertices'
            device.
        size: rows and columns of the picture [pixels].

    Returns:
        `[B]` cameras.
    """
    middle, distance = _placed(vertices.detach())
    right = torch.stack((directions[:, 2], torch.zeros_like(directions[:, 0]), -directions[:, 0]), dim=-1)
    right = right / right.norm(dim=-1, keepdim=True).clamp_min(_MIN_LENGTH)
    down = torch.linalg.cross(right, directions, dim=-1)
    rotation = torch.stack((right, down, -directions), dim=-2)
    world_to_camera = torch.eye(4, device=vertices.device, dtype=vertices.dtype).repeat(len(directions), 1, 1)
    world_to_camera[:, :3, :3] = rotation
    world_to_camera[:, :3, 3] = -(rotation @ middle[..., None])[..., 0]
    world_to_camera[:, 2, 3] += distance
    focal = size / 2 / math.tan(_FIELD_OF_VIEW / 2)
    intrinsics = torch.zeros_like(world_to_camera[:, :3, :3])
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, :2, 2] = size / 2
    intrinsics[:, 2, 2] = 1
    return Cameras(world_to_camera, intrinsics, size, size)


def picture_size(vertices: Tensor, cameras: Cameras) -> int:
    """Rows and columns of a picture that shows the head as large as photographs do, at most `LARGEST` [pixels].

    In larger pictures the surface would end before its silhouette does: a renderer widens each Gaussian by half a pixel
    (`osgap.splat.render`), so that those that were fitted to photographs are narrower by half of a photograph's pixel.

    Args:
        vertices: `[V, 3]` of the head at some moment.
        cameras: `[C]` that took the photographs; the median of their scales counts.
    """
    middle, distance = _placed(vertices.detach())
    depth = (cameras.world_to_camera[:, 2, :3] @ middle) + cameras.world_to_camera[:, 2, 3]
    scale = (cameras.intrinsics[:, 0, 0] / depth).median()
    size = 2 * math.tan(_FIELD_OF_VIEW / 2) * distance * scale
    return min(max(8 * round(float(size) / 8), _SMALLEST), LARGEST)


def _placed(vertices: Tensor) -> tuple[Tensor, Tensor]:
    """The middle `[..., 3]` of the bounding boxes of vertices `[..., V, 3]`, and how far from it the cameras are."""
    middle = (vertices.amin(dim=-2) + vertices.amax(dim=-2)) / 2
    radius = (vertices - middle[..., None, :]).norm(dim=-1).amax(dim=-1)
    return middle, _MARGIN * radius / math.sin(_FIELD_OF_VIEW / 2)

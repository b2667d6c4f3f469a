"""Cameras that no capture has: around a head, of another size, or placed so that the head fills the picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from osgap.splat.cameras import Cameras

FRONT = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
"""World-to-camera rotation `[3, 3]` of a camera that looks a person in the face: FLAME's world has y up, and heads look
along +z."""

FIELD_OF_VIEW = math.radians(20)
"""Vertical, of a camera that nobody described: a portrait lens, from about two metres."""

LARGEST = 1 << 14
"""Pixels of a picture, either way."""

_MARGIN = 1.1  # of a head in its picture


def scaled(cameras: Cameras, scale: float) -> Cameras:
    """The same view in images `scale` times as large, rounded to even sizes as video codecs want them."""
    width, height = (max(2, 2 * round(scale * size / 2)) for size in (cameras.width, cameras.height))
    factors = cameras.intrinsics.new_tensor([width / cameras.width, height / cameras.height, 1.0])
    return Cameras(cameras.world_to_camera, cameras.intrinsics * factors[:, None], width, height)


def resized(cameras: Cameras, width: int, height: int) -> Cameras:
    """The same view in images of another size: as large as fits, centred; where proportions differ, more is seen."""
    scale = min(width / cameras.width, height / cameras.height)
    intrinsics = cameras.intrinsics * cameras.intrinsics.new_tensor([scale, scale, 1.0])[:, None]
    intrinsics[..., 0, 2] += (width - scale * cameras.width) / 2
    intrinsics[..., 1, 2] += (height - scale * cameras.height) / 2
    return Cameras(cameras.world_to_camera, intrinsics, width, height)


def orbit(
    camera: Cameras, pivot: Tensor, yaw: Tensor, elevation: Tensor | float = 0.0, distance: Tensor | float = 1.0
) -> Cameras:
    """Swing one camera around a point, about the camera's own upright axis; size and intrinsics stay.

    Args:
        camera: a single camera.
        pivot: `[3]`, world units.
        yaw: `[M]` radians; positive moves the camera to its right.
        elevation: radians, also `[M]`; positive raises the camera.
        distance: from the pivot, as a multiple of the camera's, also `[M]`.

    Returns:
        `[M]` cameras that see the pivot where the first one did.
    """
    # In camera axes: x' = R (x - p) + d p, with p the pivot and R = R_x R_y (y points down, hence the signs).
    rotation, translation = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
    local = rotation @ pivot + translation
    turn = _about_x(torch.as_tensor(elevation).to(yaw).expand_as(yaw)) @ _about_y(yaw)
    away = torch.as_tensor(distance).to(yaw).expand_as(yaw)[:, None] * local
    world_to_camera = torch.eye(4, dtype=rotation.dtype, device=rotation.device).repeat(len(yaw), 1, 1)
    world_to_camera[:, :3, :3] = turn @ rotation
    world_to_camera[:, :3, 3] = (turn @ (translation - local)[:, None])[..., 0] + away
    return Cameras(world_to_camera, camera.intrinsics.expand(len(yaw), 3, 3), camera.width, camera.height)


def _about_x(angle: Tensor) -> Tensor:
    cos, sin, zero, one = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=-1).unflatten(-1, (3, 3))


def _about_y(angle: Tensor) -> Tensor:
    cos, sin, zero, one = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], dim=-1).unflatten(-1, (3, 3))


def swing(count: int, period: float, amplitude: float) -> Tensor:
    """Yaw of an orbit in each frame, `[count]` radians; it starts in the middle and repeats after `period` frames.

    Args:
        period: frames.
        amplitude: radians to either side, as a sine over time; pi goes all the way round, at one speed.
    """
    phase = torch.arange(count, dtype=torch.float64) / period
    if amplitude >= math.pi:
        return (2 * math.pi * (phase % 1)).float()
    return (amplitude * torch.sin(2 * math.pi * phase)).float()


def middle(points: Tensor) -> Tensor:
    """The middle `[3]` of the box around points `[P, 3]`."""
    return (points.amin(dim=0) + points.amax(dim=0)) / 2


def framing(points: Tensor, radii: Tensor, yaw: Tensor, elevation: float, width: int, height: int) -> Cameras:
    """A camera in front of a head, as near as possible so that an orbit with it never cuts off a point.

    A point of radius r at x, y, z from the middle of all points, in the axes of a camera at distance D, is inside the
    picture where |x| + r <= (D + z) tan(a) and |y| + r <= (D + z) tan(b), with a and b half the fields of view; the
    smallest such D is a maximum over points and cameras.

    Args:
        points: `[P, 3]` world units, of the head.
        radii: `[P]` world units.
        yaw: `[M]` radians, of the orbit's cameras.
        elevation: radians, of all of them.
        width: of the picture, px.
        height: of the picture, px.

    Returns:
        A single camera that looks at the middle of the points from the front (`FRONT`), see `orbit`.
    """
    pivot = middle(points)
    turn = _about_x(torch.full_like(yaw, elevation)) @ _about_y(yaw)
    x, y, z = ((points - pivot) @ (turn @ FRONT).transpose(1, 2)).unbind(dim=-1)
    focal = height / 2 / math.tan(FIELD_OF_VIEW / 2)
    tangents = width / 2 / focal / _MARGIN, height / 2 / focal / _MARGIN
    distance = torch.maximum((x.abs() + radii) / tangents[0] - z, (y.abs() + radii) / tangents[1] - z).amax()
    world_to_camera = torch.eye(4)
    world_to_camera[:3, :3] = FRONT
    world_to_camera[:3, 3] = -FRONT @ pivot + torch.stack([distance.new_zeros(()), distance.new_zeros(()), distance])
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Cameras(world_to_camera, intrinsics, width, height)

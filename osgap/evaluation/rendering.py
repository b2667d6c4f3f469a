"""Rendering many frames of one avatar in bounded memory, and cameras that no capture has."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render

_PIXELS_AT_ONCE = 1 << 20  # 93 frames of 88x128, 2 of 550x802


def frames_at_once(cameras: Cameras) -> int:
    """How many images of this size are rendered (and should be decoded) together."""
    return max(1, _PIXELS_AT_ONCE // (cameras.width * cameras.height))


@torch.no_grad()
def render_frames(avatar: Avatar, head: HeadModel, params: FlameParams, rows: Tensor, cameras: Cameras) -> Tensor:
    """Render an avatar on white, all frames at once.

    Args:
        params: `U` timesteps of motion, see `osgap.evaluation.protocols.motion`.
        rows: `[M]` int64, which of the `U` timesteps each frame shows; timesteps are posed once however often used.
        cameras: `[M]`.

    Returns:
        `[M, H, W, 3]` float RGB, clamped to [0, 1].
    """
    used, slots = torch.unique(rows, return_inverse=True)
    posed = avatar.gaussians(head, params=params.select(used))
    # Colours and opacities do not move, so all frames share one copy.
    gaussians = Gaussians(
        means=posed.means[slots],
        rotations=posed.rotations[slots],
        scales=posed.scales[slots],
        opacities=avatar.attributes.opacities(),
        colors=avatar.attributes.colors(),
    )
    return render(gaussians, cameras, background=gaussians.means.new_ones(3)).rgb.clamp(0, 1)


def render_all(
    avatar: Avatar, head: HeadModel, params: FlameParams, rows: Tensor, cameras: Cameras
) -> Iterator[Tensor]:
    """`render_frames` for any number of frames: yields `[m, H, W, 3]`, in order, `m` bounded by `frames_at_once`."""
    count = frames_at_once(cameras)
    for start in range(0, len(rows), count):
        part = slice(start, start + count)
        yield render_frames(avatar, head, params, rows[part], cameras[part])


def scaled(cameras: Cameras, scale: float) -> Cameras:
    """The same view in images `scale` times as large, rounded to even sizes as video codecs want them."""
    width, height = (max(2, 2 * round(scale * size / 2)) for size in (cameras.width, cameras.height))
    factors = cameras.intrinsics.new_tensor([width / cameras.width, height / cameras.height, 1.0])
    return Cameras(cameras.world_to_camera, cameras.intrinsics * factors[:, None], width, height)


def orbit(camera: Cameras, pivot: Tensor, yaw: Tensor) -> Cameras:
    """Swing one camera around a point, about the camera's own upright axis; size and intrinsics stay.

    Args:
        camera: a single camera.
        pivot: `[3]`, world units.
        yaw: `[M]` radians; positive moves the camera to its right.

    Returns:
        `[M]` cameras, all looking at the pivot as the first one did.
    """
    # In camera axes: x' = R (x - p) + p, with p the pivot and R a turn about y (down in OpenCV, hence the sign).
    rotation, translation = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
    local = rotation @ pivot + translation
    cos, sin, zero, one = torch.cos(yaw), torch.sin(yaw), torch.zeros_like(yaw), torch.ones_like(yaw)
    turn = torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], dim=-1).unflatten(-1, (3, 3))
    world_to_camera = torch.eye(4, dtype=rotation.dtype, device=rotation.device).repeat(len(yaw), 1, 1)
    world_to_camera[:, :3, :3] = turn @ rotation
    world_to_camera[:, :3, 3] = (turn @ (translation - local)[:, None])[..., 0] + local
    return Cameras(world_to_camera, camera.intrinsics.expand(len(yaw), 3, 3), camera.width, camera.height)

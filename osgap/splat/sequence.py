"""Many frames of one avatar, rendered part by part in bounded memory: for metrics, previews, pictures and clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.runtime.pinned import upload
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import Rendered, render

_PIXELS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 23}  # 93 frames of 88x128, 2 of 550x802; 19 of these on a GPU

Pose = Callable[[Tensor], Gaussians]
"""Timesteps `[b]` of a motion (int64, in host memory) to world-space Gaussians: a set for each, or one for all of them
where they are the same. They are used before the next call."""


def frames_at_once(cameras: Cameras, device: torch.device) -> int:
    """How many images of this size are rendered (and should be decoded) together."""
    return max(1, _PIXELS_AT_ONCE[device.type] // (cameras.width * cameras.height))


@torch.no_grad()
def render_parts(
    pose: Pose, timesteps: Tensor, cameras: Cameras, background: Tensor | None, at_once: int
) -> Iterator[Rendered]:
    """Render one frame for each pair of timestep and camera; not differentiable.

    Args:
        pose: see `Pose`; asked for the timesteps of one part after the other.
        timesteps: `[F]` int64 in host memory.
        cameras: `[F]` cameras, or `[1]` that all frames are seen by; on the device that renders.
        background: `[3]` RGB on that device. None: black.
        at_once: frames in a part.

    Yields:
        Images `[b, H, W, ...]` in order, b at most `at_once`.
    """
    for start in range(0, len(timesteps), at_once):
        part = slice(start, start + at_once)
        yield render(pose(timesteps[part]), cameras[part] if len(cameras) > 1 else cameras, background)


def images_on_white(pose: Pose, timesteps: Tensor, cameras: Cameras, at_once: int) -> Iterator[Tensor]:
    """`render_parts` as displays show it and metrics take it: `[b, H, W, 3]` RGB on white, clamped to 0..1."""
    white = cameras.world_to_camera.new_ones(3)
    for rendered in render_parts(pose, timesteps, cameras, white, at_once):
        yield rendered.rgb.clamp(0, 1)


def render_frames(avatar: Avatar, head: HeadModel, params: FlameParams, rows: Tensor, cameras: Cameras) -> Tensor:
    """Render an avatar on white, all frames at once, on the device that avatar and head are on.

    Args:
        params: `U` timesteps of motion, for example `avatar.params.driven_by(other)`.
        rows: `[M]` int64, which of the `U` timesteps each frame shows.
        cameras: `[M]`.

    Returns:
        `[M, H, W, 3]` float RGB, clamped to [0, 1].
    """
    (images,) = images_on_white(posed_once(avatar, head, params), rows, cameras.to(head.device), len(rows))
    return images


@torch.no_grad()
def posed_once(avatar: Avatar, head: HeadModel, params: FlameParams) -> Pose:
    """Poses each timestep of a part once, however many of its frames show it.

    Args:
        avatar: on the device of the head.
        params: the motion, anywhere.
    """
    device = head.device
    params = params.to(device)
    # Colours and opacities do not move, so all frames share one copy.
    opacities, colors = avatar.attributes.opacities(), avatar.attributes.colors()

    def pose(timesteps: Tensor) -> Gaussians:
        used, slots = torch.unique(timesteps, return_inverse=True)
        posed = avatar.gaussians(head, upload(used, device), params)
        slots = upload(slots, device)
        return Gaussians(posed.means[slots], posed.rotations[slots], posed.scales[slots], opacities, colors)

    return pose

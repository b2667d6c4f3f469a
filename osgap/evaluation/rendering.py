"""Rendering many frames of one avatar in bounded memory, as the metrics take them."""

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

_PIXELS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 23}  # 93 frames of 88x128, 2 of 550x802; 19 of these on a GPU


def frames_at_once(cameras: Cameras, device: torch.device) -> int:
    """How many images of this size are rendered (and should be decoded) together."""
    return max(1, _PIXELS_AT_ONCE[device.type] // (cameras.width * cameras.height))


@torch.no_grad()
def render_frames(avatar: Avatar, head: HeadModel, params: FlameParams, rows: Tensor, cameras: Cameras) -> Tensor:
    """Render an avatar on white, all frames at once, on the device that avatar and head are on.

    Args:
        params: `U` timesteps of motion, see `osgap.evaluation.splits.motion`.
        rows: `[M]` int64, which of the `U` timesteps each frame shows; timesteps are posed once however often used.
        cameras: `[M]`.

    Returns:
        `[M, H, W, 3]` float RGB, clamped to [0, 1].
    """
    device = head.device
    used, slots = torch.unique(rows, return_inverse=True)
    posed = avatar.gaussians(head, params=params.select(used).to(device))
    slots = slots.to(device)
    # Colours and opacities do not move, so all frames share one copy.
    gaussians = Gaussians(
        means=posed.means[slots],
        rotations=posed.rotations[slots],
        scales=posed.scales[slots],
        opacities=avatar.attributes.opacities(),
        colors=avatar.attributes.colors(),
    )
    return render(gaussians, cameras.to(device), background=gaussians.means.new_ones(3)).rgb.clamp(0, 1)


def render_all(
    avatar: Avatar, head: HeadModel, params: FlameParams, rows: Tensor, cameras: Cameras
) -> Iterator[Tensor]:
    """`render_frames` for any number of frames: yields `[m, H, W, 3]`, in order, `m` bounded by `frames_at_once`."""
    count = frames_at_once(cameras, head.device)
    for start in range(0, len(rows), count):
        part = slice(start, start + count)
        yield render_frames(avatar, head, params, rows[part], cameras[part])

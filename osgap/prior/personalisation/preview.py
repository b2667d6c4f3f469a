"""Pictures to judge a personalised avatar by."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from osgap.prior.photo import SourcePhoto
from osgap.prior.posing import Rig, white
from osgap.runtime.pixels import tiled
from osgap.splat.cameras import Cameras
from osgap.splat.render import render

_SIDE_VIEW = 40.0  # degrees that the last column is turned by


@torch.no_grad()
def personalisation_preview(photos: list[SourcePhoto], rig: Rig, maps: list[Tensor]) -> np.ndarray:
    """For each photograph it, each of the maps from there, and the last one from the side: `[P H, 5 W, 3]` uint8."""
    device = rig.binding.mask.device
    rows = []
    for photo in photos:
        params, center = photo.params.to(device), photo.params.translation[0]
        views = [photo.camera] * len(maps) + [turned(photo.camera, center, _SIDE_VIEW)]
        images = [photo.image]
        for shown, camera in zip([*maps, maps[-1]], views, strict=True):
            images.append(render(rig.pose(shown[None], [0], [params]), camera.to(device), white(shown)).rgb[0])
        rows.append(images)
    return tiled(rows)


def turned(cameras: Cameras, center: Tensor, degrees: float) -> Cameras:
    """Cameras that have moved around the vertical (y) through `center` `[3]`, still looking at the same point."""
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.eye(4)
    turn[0, 0] = turn[2, 2] = angle.cos()
    turn[0, 2], turn[2, 0] = angle.sin(), -angle.sin()
    there, back = torch.eye(4), torch.eye(4)
    there[:3, 3], back[:3, 3] = -center, center
    return Cameras(cameras.world_to_camera @ back @ turn @ there, cameras.intrinsics, cameras.width, cameras.height)

"""What the prior answers to photographs of one moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from osgap.prior.network.model import GaussianPrior
from osgap.prior.photo import SourcePhoto
from osgap.prior.photographs import Photographs, photographs
from osgap.prior.posing import Rig, white
from osgap.splat.cameras import Cameras
from osgap.splat.render import render

Answer = Callable[[Sequence[SourcePhoto]], Tensor]
"""Maps `[U, U, 14]` to photographs of one moment."""


def answering(model: GaussianPrior, rig: Rig) -> Answer:
    """The prior's own answers about the person of a rig.

    What a network makes of several photographs may be worse in front than what it makes of the first alone: the
    published one has learned to read photographs that are nearly frontal, one by one, and any network is unsure of what
    a photograph hardly shows. Its answer is the one to all of them, the one to the first, or the mean of both,
    whichever looks most like the photographs.

    Args:
        model: on the device of the rig.
    """

    @torch.no_grad()
    def answer(photos: Sequence[SourcePhoto]) -> Tensor:
        said = _said(model, photos, rig)
        if len(photos) == 1:
            return said
        alone = _said(model, photos[:1], rig)
        return min((said, alone, (said + alone) / 2), key=lambda maps: _difference(maps, photos, rig))

    return answer


def _said(model: GaussianPrior, photos: Sequence[SourcePhoto], rig: Rig) -> Tensor:
    """What the network says to photographs, `[U, U, 14]`."""
    shown = read(photos, rig, model.config.input_size)
    with torch.autocast("cuda", torch.bfloat16, enabled=shown.images.is_cuda):
        return model(shown)[0].float()


def _difference(maps: Tensor, photos: Sequence[SourcePhoto], rig: Rig) -> float:
    """How far an avatar `[U, U, 14]` is from photographs of one moment: mean absolute difference over all of them, and
    once more over the first, which shows the face."""
    gaussians = rig.pose(maps[None], [0], [photos[0].params.to(maps.device)])
    drawn = render(gaussians, stacked_cameras(photos).to(maps.device), white(maps)).rgb
    differences = (drawn - torch.stack([photo.image for photo in photos]).to(maps.device)).abs()
    return float(differences.mean() + differences[0].mean())


def read(photos: Sequence[SourcePhoto], rig: Rig, size: int) -> Photographs:
    """Photographs of one moment of the person of a rig, as a network of input size `size` reads them."""
    device = rig.binding.mask.device
    return photographs(
        rig,
        [0],
        [photos[0].params.to(device).select([0] * len(photos))],
        stacked_cameras(photos).to(device),
        torch.stack([photo.image for photo in photos])[None].to(device),
        size,
    )


def stacked_cameras(photos: Sequence[SourcePhoto]) -> Cameras:
    """The cameras of photographs as one batch."""
    cameras = [photo.camera for photo in photos]
    return Cameras(
        torch.cat([camera.world_to_camera for camera in cameras]),
        torch.cat([camera.intrinsics for camera in cameras]),
        cameras[0].width,
        cameras[0].height,
    )

"""What training minimises: maps near the fitted ones, and renderings near the photographs."""

from __future__ import annotations

import torch
from torch import Tensor

from osgap.prior.config import TrainingLosses
from osgap.prior.data import Batch
from osgap.prior.losses import image_terms, map_terms, masked_l1
from osgap.prior.posing import Rig, white
from osgap.splat.render import render


def training_loss(maps: Tensor, batch: Batch, rig: Rig, losses: TrainingLosses) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, and the terms it consists of (one value per sample or image, or a mean).

    Every target is rendered with its own camera, on its own person's head at its own timestep.

    Args:
        maps: predicted, `[S, U, U, 14]`.
    """
    rendered = render(rig.pose(maps, batch.people, batch.params), batch.cameras, white(maps))
    terms = {
        "uv": masked_l1(maps, batch.maps, rig.binding.mask),
        **image_terms(rendered, batch.images, batch.masks),
        **map_terms(maps, rig.binding, losses),
    }
    total = torch.stack([getattr(losses, name) * value.mean() for name, value in terms.items()]).sum()
    return total, terms

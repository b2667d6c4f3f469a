"""What training minimises: maps near the fitted ones, and renderings near the photographs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from osgap.prior.config import TrainingLosses
from osgap.prior.losses import color_terms, coverage_term, image_terms, map_terms, masked_l1, perceptual_on
from osgap.prior.posing import Rig, white
from osgap.prior.training.data import Batch
from osgap.splat.attributes import N_CHANNELS
from osgap.splat.render import Rendered, render


class Look(NamedTuple):
    """How one step looks for holes from where no photograph is, see `osgap.prior.losses.coverage_term`."""

    step: int
    """Of the training."""
    size: int
    """Of the pictures, see `osgap.prior.training.people.size_of_pictures` [pixels]."""
    share: tuple[int, int] = (0, 1)
    """(rank, world) of the processes that train together."""


def training_loss(
    maps: Tensor,
    batch: Batch,
    rig: Rig,
    losses: TrainingLosses,
    *,
    refine: Callable[[Rendered], Tensor] | None = None,
    perceptual: nn.Module | None = None,
    look: Look | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, and the terms it consists of (one value per sample or image, or a mean).

    Every target is rendered with its own camera, on its own person's head at its own timestep.

    Args:
        maps: predicted, `[S, U, U, 14]`; with a refiner `[S, U, U, 14 + K]`.
        refine: a rendering with features to the corrected image `[S * V, H, W, 3]`, which is compared too (terms
            `refined_*`). Default is none: no features are rendered.
        perceptual: see `osgap.prior.losses.load_perceptual`; needed where `losses.lpips` is above 0.
        look: needed for `losses.coverage`; None leaves that out.

    Raises:
        ValueError: when it is needed and not given.
    """
    if losses.lpips and perceptual is None:
        raise ValueError(f"losses.lpips is {losses.lpips:g}, but training_loss got no network to measure it with")
    measure = None if perceptual is None else perceptual_on(perceptual, losses.lpips_crop, batch.corners)
    attributes = maps[..., :N_CHANNELS]
    gaussians = rig.pose(maps if refine is not None else attributes, batch.people, batch.params)
    rendered = render(gaussians, batch.cameras, white(maps), features=refine is not None)
    terms = {
        "uv": masked_l1(attributes, batch.maps, rig.binding.mask),
        **image_terms(rendered, batch.images, batch.masks, measure),
        **map_terms(attributes, rig.binding, losses),
    }
    if losses.coverage and look is not None:
        terms["coverage"] = coverage_term(attributes, rig, batch.people, batch.params, look.size, look.step, look.share)
    weights = {name: getattr(losses, name) for name in terms}
    if refine is not None:
        for name, value in color_terms(refine(rendered), batch.images, measure).items():
            terms[f"refined_{name}"] = value
            weights[f"refined_{name}"] = losses.refined * weights[name]
    total = torch.stack([weights[name] * value.mean() for name, value in terms.items()]).sum()
    return total, terms

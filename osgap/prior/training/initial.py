"""The network before its first step."""

from __future__ import annotations

import torch
from torch import Tensor

from osgap.prior.config import PriorConfig
from osgap.prior.network.backbone_weights import load_weights
from osgap.prior.network.decoder import residual_scales
from osgap.prior.network.model import GaussianPrior
from osgap.prior.network.published import published_decoder, read_published
from osgap.prior.network.surface import SurfaceEncoder, rest_on_texels
from osgap.prior.posing import Rig


def initial_prior(config: PriorConfig, maps: Tensor, rig: Rig, seed: int) -> GaussianPrior:
    """The network before the first step, on the CPU: the published one where the config names its weights, else a
    random encoder whose head predicts the mean of the people.

    Args:
        maps: `[P, S, S, 14]` of the training people.
        rig: of the head, for the maps' texels.
        seed: of the random numbers.

    Raises:
        UserError: see `read_published`, and `osgap.prior.network.backbone_weights.load_weights`.
    """
    mask, template = rig.binding.mask.cpu(), rig.people[0].model.v_template
    scales = residual_scales(maps, mask)
    rest = rest_on_texels(rig.surface.points(template).cpu(), rig.surface.normals(template).cpu(), mask)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GaussianPrior(config.network, maps.mean(dim=0), scales, mask, config.refiner, rest)
        if isinstance(model.encoder, SurfaceEncoder) and config.backbone.file is not None:
            load_weights(model.encoder.backbone, config.backbone.file, "prior.backbone")
        if config.weights is not None:
            model.encoder.load_state_dict(read_published(config.weights, "prior.weights", config.encoder))
            model.decoder = published_decoder(mask, scales, config.refiner.features if config.refiner else 0)
    return model

"""The network before its first step."""

from __future__ import annotations

import torch
from torch import Tensor

from osgap.prior.config import PriorConfig
from osgap.prior.network.decoder import residual_scales
from osgap.prior.network.model import GaussianPrior
from osgap.prior.network.published import published_decoder, read_published


def initial_prior(config: PriorConfig, maps: Tensor, mask: Tensor, seed: int) -> GaussianPrior:
    """The network before the first step: the published one where the config names its weights, else a random encoder
    whose head predicts the mean of the people.

    Args:
        maps: `[P, S, S, 14]` of the training people.
        mask: covered texels, bool `[S, S]`.
        seed: of the random numbers.

    Raises:
        UserError: see `read_published`.
    """
    scales = residual_scales(maps, mask)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GaussianPrior(config.encoder, maps.mean(dim=0), scales, mask, config.refiner)
        if config.weights is not None:
            model.encoder.load_state_dict(read_published(config.weights, "prior.weights", config.encoder))
            model.decoder = published_decoder(mask, scales, config.refiner.features if config.refiner else 0)
    return model

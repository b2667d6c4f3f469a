"""Maps whose surface is closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from osgap.head.params import FlameParams
from osgap.prior.config import OneShotConfig
from osgap.prior.personalisation.answer import stacked_cameras
from osgap.prior.photo import SourcePhoto
from osgap.prior.posing import Rig
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.coverage.closing import closed, spread
from osgap.splat.coverage.views import picture_size

Closing = Callable[[Tensor, FlameParams], Tensor]
"""Maps `[U, U, 14]` and the motion of the moments at which they shall be closed, to maps."""


def closing(config: OneShotConfig, rig: Rig, photos: Sequence[SourcePhoto]) -> Closing:
    """What closes the maps of the person of a rig, see `osgap.splat.coverage.closing`; nothing is done to them where
    coverage has no weight.

    Args:
        rig: on the device that computes.
        photos: which say how large the person is in pictures.
    """

    @torch.no_grad()
    def close(maps: Tensor, motion: FlameParams) -> Tensor:
        if not config.losses.coverage:
            return maps
        vertices = rig.people[0].vertices(motion.select(spread(motion.timesteps)))
        size = picture_size(vertices[0], stacked_cameras(photos).to(maps.device))
        attributes = GaussianAttributes.from_uv(maps, rig.binding)
        return closed(attributes, vertices, rig.bound, rig.closed, size).to_uv(rig.binding)

    return close

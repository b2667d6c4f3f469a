"""A network whose passes are recorded as CUDA graphs.

The `surface` network is some thousand small kernels forward and backward, which a processor launches slower than a GPU
runs them. Recorded once, for each number of photographs, they are launched all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from osgap.prior.network.model import GaussianPrior
from osgap.prior.photographs import Photographs
from osgap.prior.surface import SurfaceViews


class RecordedPrior(nn.Module):
    """A prior in training, as one module whose forward and backward passes are replayed where they were recorded.

    Args:
        prior: on the device that computes.
    """

    def __init__(self, prior: GaussianPrior) -> None:
        super().__init__()
        self.prior = prior
        self._passes: dict[int, Callable[..., Tensor]] = {}  # by the number of photographs
        self._people = 0

    def record(self, people: int, counts: Iterable[int], half: bool) -> None:
        """Record the passes of so many people in each step, with each of these numbers of photographs.

        No graph of autograd that began at the prior's parameters may be alive: its ends would belong to another stream.

        Args:
            half: in bfloat16, as autocast computes.
        """
        decoder = self.prior.decoder
        texels, device = int(decoder.mask.sum()), decoder.mean.device
        size = self.prior.config.input_size
        self._people = people
        pool = torch.cuda.graph_pool_handle()  # one step at a time: all numbers of photographs share their memory
        for count in counts:
            images = torch.rand(people, count, 3, size, size, device=device)
            places = 2 * torch.rand(people, count, texels, 2, device=device) - 1
            visible, facing = torch.rand(2, people, count, texels, device=device)
            normals = nn.functional.normalize(torch.randn(people, count, texels, 3, device=device), dim=-1)
            # A weight that is cast once is not cast in the replays of later steps.
            with torch.autocast("cuda", torch.bfloat16, enabled=half, cache_enabled=False):
                inputs = (images, places, visible, facing, normals)
                passes: Any = torch.cuda.make_graphed_callables(
                    _Passes(self.prior), inputs, allow_unused_input=True, pool=pool
                )
                self._passes[count] = passes

    def forward(self, photographs: Photographs) -> Tensor:
        """Maps with the channels that a refiner reads, see `GaussianPrior`."""
        people, count = photographs.images.shape[:2]
        passes = self._passes.get(count)
        if passes is None or people != self._people or photographs.views is None:
            return self.prior(photographs, with_features=True)
        return passes(photographs.images, *photographs.views)


class _Passes(nn.Module):
    """The prior as a function of tensors."""

    def __init__(self, prior: GaussianPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, images: Tensor, *views: Tensor) -> Tensor:
        return self.prior(Photographs(images, SurfaceViews(*views)), with_features=True)

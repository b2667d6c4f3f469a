"""Stand-in for the backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from osgap.prior.config import BackboneConfig


class Backbone(nn.Module):
    """A pyramid of convolutions at 1/2 to 1/32."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.channels, self.strides = (32, 64, 96, 128, 192), (2, 4, 8, 16, 32)
        inward = (3, *self.channels[:-1])
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(inward, self.channels, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Finest first."""
        maps, x = [], 2 * images - 1
        for conv in self.convs:
            x = F.silu(conv(x))
            maps.append(x)
        return maps

"""The refiner: corrects renderings, from the colours and the feature channels that are rendered with them.

Feature channels that a network decodes after rendering: Thies et al. 2019, "Deferred neural rendering". The network is
a small U-Net (Ronneberger et al. 2015, fig. 1) whose last layer is zero at the start, so that it then changes nothing.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from osgap.prior.network_config import RefinerConfig
from osgap.splat.render import Rendered

_LEVELS = 2  # halvings of the image size; each doubles the channels


class Refiner(nn.Module):
    """A rendering with features to a corrected image, both of any size."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**level for level in range(_LEVELS + 1)]
        self.enter = nn.Conv2d(3 + 1 + config.features, widths[0], 3, padding=1)
        steps = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in steps)
        self.deep = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(fine + coarse, fine, 3, padding=1) for fine, coarse in steps)
        self.out = nn.Conv2d(widths[0], 3, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="leaky_relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.out.weight)

    def forward(self, rendered: Rendered) -> Tensor:
        """The corrected image, `[B, H, W, 3]`; not limited to 0..1.

        Args:
            rendered: B images with features.

        Raises:
            ValueError: when it has no features, or another number of them than the refiner reads.
        """
        found = 0 if rendered.features is None else rendered.features.shape[-1]
        if rendered.features is None or found != self.config.features:
            raise ValueError(f"the refiner reads {self.config.features} feature channels; the rendering has {found}")
        image = torch.cat([rendered.rgb, rendered.alpha[..., None], rendered.features], dim=-1)
        x = F.leaky_relu(self.enter(image.permute(0, 3, 1, 2)))
        finer = []
        for down in self.down:
            finer.append(x)
            x = F.leaky_relu(down(x))
        x = F.leaky_relu(self.deep(x))
        for up, fine in zip(reversed(self.up), reversed(finer), strict=True):
            x = F.leaky_relu(up(torch.cat([fine, F.interpolate(x, size=fine.shape[2:])], dim=1)))
        return rendered.rgb + self.out(x).permute(0, 2, 3, 1).to(rendered.rgb.dtype)

"""From encoder features to the 14-channel map of Gaussian attributes, and to the feature channels beside it.

The map is `[B, S, S, 14]`, before activation, in the channel order of `osgap.splat.attributes` (which also owns the
activations). It is predicted as a mean avatar plus a residual, so that a network whose last layer is zero predicts
exactly the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UVDecoder(nn.Module):
    """Features `[B, C, h, w]` to maps `[B, S, S, 14]`.

    Args:
        channels: C, of the features.
        mean: the mean avatar's map, `[S, S, 14]`.
        residual_scale: what one unit of the network's output means in each channel, `[14]`.
        mask: covered texels, bool `[S, S]`; all others are zero in every map.
        features: K, how many feature channels it predicts beside the attributes. Default is none.
    """

    mean: Tensor
    residual_scale: Tensor
    mask: Tensor

    def __init__(self, channels: int, mean: Tensor, residual_scale: Tensor, mask: Tensor, features: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float().clone())
        self.register_buffer("residual_scale", residual_scale.float().clone())
        self.register_buffer("mask", mask.clone())
        self.out = nn.Conv2d(channels, mean.shape[-1], 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]
        self.features = nn.Conv2d(channels, features, 1) if features else None

    def forward(self, features: Tensor, with_features: bool = False) -> Tensor:
        """Maps `[B, S, S, 14]`; `with_features`: `[B, S, S, 14 + K]`, the attributes first."""
        size = self.mean.shape[0]
        if features.shape[-2:] != (size, size):
            features = F.interpolate(features, size=(size, size), mode="bilinear", align_corners=False)
        residual = self.out(features).permute(0, 2, 3, 1).float()
        maps = self.mean + self.residual_scale * residual
        if with_features and self.features is not None:
            maps = torch.cat([maps, self.features(features).permute(0, 2, 3, 1).float()], dim=-1)
        return maps * self.mask[..., None]


def residual_scales(maps: Tensor, mask: Tensor) -> Tensor:
    """How much each channel differs between people: `[P, S, S, 14]` and `[S, S]` -> `[14]`.

    The standard deviation over people, pooled over covered texels; at least half of that over all texels of all people,
    which is what few people (or a single one) leave to go by: with many, the two are about equal.
    """
    covered = maps[:, mask]  # [P, N, 14]
    between = (covered - covered.mean(dim=0)).square().mean(dim=(0, 1)).sqrt()
    overall = (covered - covered.mean(dim=(0, 1))).square().mean(dim=(0, 1)).sqrt()
    return torch.maximum(between, 0.5 * overall).clamp_min(1e-3)

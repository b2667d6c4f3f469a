"""The terms that training and personalisation minimise."""

from __future__ import annotations

import torch
from torch import Tensor

from osgap.fit.losses import position_loss, scale_loss
from osgap.head.texels import TexelBinding
from osgap.prior.config import RenderLosses
from osgap.splat.attributes import CHANNELS, GaussianAttributes
from osgap.splat.image_metrics import ssim
from osgap.splat.render import Rendered


def image_terms(rendered: Rendered, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """L1, 1 - SSIM and alpha difference of every image, `[B]` each.

    Args:
        images: `[B, H, W, 3]` in 0..1, on white.
        masks: `[B, H, W]` in 0..1.
    """
    return {
        "l1": (rendered.rgb - images).abs().mean(dim=(1, 2, 3)),
        "ssim": 1 - ssim(rendered.rgb, images),
        "alpha": (rendered.alpha - masks).abs().mean(dim=(1, 2)),
    }


def renderable(maps: Tensor) -> Tensor:
    """Whether each of the maps `[B, U, U, 14]` is finite, activated scales included: bool `[B]`."""
    scales = maps[..., CHANNELS["scale"]].exp()
    return (torch.isfinite(maps).flatten(1).all(dim=1)) & torch.isfinite(scales).flatten(1).all(dim=1)


def map_terms(maps: Tensor, binding: TexelBinding, losses: RenderLosses) -> dict[str, Tensor]:
    """The regularisers of positions and scales, means over all texels of all maps `[B, U, U, 14]`."""
    attributes = GaussianAttributes.from_uv(maps, binding)
    position, scale = attributes.position.reshape(-1, 3), attributes.scale.reshape(-1, 3)
    everywhere = torch.ones(len(position), device=maps.device)
    return {
        "position": position_loss(position, everywhere, losses.position_threshold),
        "scale": scale_loss(scale, everywhere, losses.scale_threshold),
    }


def masked_l1(maps: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of maps `[B, S, S, 14]` over covered texels `[S, S]`: one number per map, `[B]`."""
    return (maps[:, mask] - targets[:, mask]).abs().mean(dim=(1, 2))

"""The terms that training and personalisation minimise. None of them waits for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from osgap.fit.losses import position_loss, scale_loss
from osgap.head.params import FlameParams
from osgap.head.texels import TexelBinding
from osgap.metrics import lpips
from osgap.metrics.image_metrics import ssim
from osgap.prior.config import PriorConfig, RenderLosses
from osgap.prior.posing import Rig
from osgap.splat.attributes import CHANNELS, GaussianAttributes
from osgap.splat.coverage.loss import COVERAGE_EVERY, coverage_loss
from osgap.splat.render import Rendered

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""A distance of colours and images, `[B, H, W, 3]` each, to `[B]`."""


def load_perceptual(config: PriorConfig, device: torch.device | str) -> nn.Module | None:
    """The network of `losses.lpips`, in the precision of training; None where that weight is 0.

    Raises:
        UserError: when the file that `prior.vgg` names is missing, has another checksum or is of another network.
    """
    if not config.losses.lpips or config.vgg is None:
        return None
    network = lpips.load_network("vgg", config.vgg, "prior.vgg").to(device)
    if config.precision == "bf16-mixed":
        backbone: nn.Module = network.net  # type: ignore[assignment]
        backbone.to(torch.bfloat16).to(memory_format=torch.channels_last)
    return network


def image_terms(
    rendered: Rendered, images: Tensor, masks: Tensor, perceptual: Perceptual | None = None
) -> dict[str, Tensor]:
    """`color_terms` and the alpha difference of every image, `[B]` each.

    Args:
        images: `[B, H, W, 3]` in 0..1, on white.
        masks: `[B, H, W]` in 0..1.
        perceptual: see `color_terms`. Default is none.
    """
    return {
        **color_terms(rendered.rgb, images, perceptual),
        "alpha": F.l1_loss(rendered.alpha, masks, reduction="none").mean(dim=(1, 2)),
    }


def color_terms(colors: Tensor, images: Tensor, perceptual: Perceptual | None = None) -> dict[str, Tensor]:
    """L1, 1 - SSIM and, where it is measured, LPIPS of every image, `[B]` each.

    Args:
        colors: `[B, H, W, 3]`.
        images: `[B, H, W, 3]` in 0..1, on white.
        perceptual: LPIPS of such pairs, `[B]`. Default is none.
    """
    terms = {
        "l1": F.l1_loss(colors, images, reduction="none").mean(dim=(1, 2, 3)),
        "ssim": 1 - ssim(colors, images),
    }
    if perceptual is not None:
        terms["lpips"] = perceptual(colors, images)
    return terms


def perceptual_on(network: nn.Module, crop: int = 0, corners: Sequence[tuple[float, float]] = ()) -> Perceptual:
    """LPIPS of images `[B, H, W, 3]`, or of a square part of each.

    Args:
        network: see `load_perceptual`.
        crop: the square's side in pixels, at most the images'. Default is whole images.
        corners: where it lies in each of the B images, as fractions of the room that there is down and to the right.
    """

    def measure(colors: Tensor, images: Tensor) -> Tensor:
        if crop:
            colors, images = _cropped(colors, crop, corners), _cropped(images, crop, corners)
        return lpips.distances(network, colors, images)

    return measure


def _cropped(images: Tensor, side: int, corners: Sequence[tuple[float, float]]) -> Tensor:
    """Squares of images `[B, H, W, 3]`, see `perceptual_on`."""
    height, width = (min(side, length) for length in images.shape[1:3])
    parts = []
    for image, (down, right) in zip(images, corners, strict=True):
        top, left = round(down * (image.shape[0] - height)), round(right * (image.shape[1] - width))
        parts.append(image[top : top + height, left : left + width])
    return torch.stack(parts)


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


def coverage_term(
    maps: Tensor,
    rig: Rig,
    people: Sequence[int],
    params: Sequence[FlameParams],
    size: int,
    step: int,
    share: tuple[int, int] = (0, 1),
) -> Tensor:
    """What is open in the surfaces of S avatars, each seen from a direction of its own, `[S]`; it is looked at in one
    step of `COVERAGE_EVERY`, and 0 in the others.

    Args:
        maps: `[S, U, U, 14]`.
        rig: of these people, see `Rig.pose`.
        people: which person each map is of, S indices.
        params: S times that person's parameters, of which the first timestep is looked at.
        size: of the pictures [pixels], see `osgap.splat.coverage.views.picture_size`.
        step: of the optimisation.
        share: (rank, world) of processes that train together.
    """
    if step % COVERAGE_EVERY:
        return maps.new_zeros(len(maps))
    vertices = rig.vertices(people, [part.first() for part in params])
    attributes = GaussianAttributes.from_uv(maps, rig.binding)
    return coverage_loss(attributes, vertices, rig.bound, rig.closed, step, size, share)


def masked_l1(maps: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of maps `[B, S, S, 14]` over covered texels `[S, S]`: one number per map, `[B]`."""
    # Not maps[:, mask]: a GPU would have to say how many texels that are.
    difference = F.l1_loss(maps, targets, reduction="none") * mask[..., None]
    return difference.sum(dim=(1, 2, 3)) / (mask.sum() * maps.shape[-1])

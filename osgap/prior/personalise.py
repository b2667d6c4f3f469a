"""From one photograph to an avatar: the prior's prediction, then a short optimisation against that photograph.

The map is `P(photo) + s * F(R)`: P the prior, whose weights move a little, R a residual map in units of the prior's
channel scales s, and F what carries the residual to texels that the photograph does not show. Only what is seen in the
photograph is compared with it; everything else is held by the prior, by the mirrored half of the face and by the
residual of the texels nearby.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from osgap.prior.augment import draw_framing
from osgap.prior.config import AugmentConfig, OneShotConfig
from osgap.prior.losses import image_terms, map_terms
from osgap.prior.model import GaussianPrior
from osgap.prior.photo import SourcePhoto
from osgap.prior.posing import Rig, white
from osgap.prior.source import prepare_source
from osgap.seeds import derive_seed
from osgap.splat.attributes import CHANNELS
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render


def contribution(gaussians: Gaussians, camera: Cameras) -> Tensor:
    """How many pixels each of N Gaussians fills in a view: the sum of its blending weights over the image, `[N]`."""
    colors = torch.zeros_like(gaussians.colors).requires_grad_()
    probe = Gaussians(gaussians.means, gaussians.rotations, gaussians.scales, gaussians.opacities, colors)
    (weights,) = torch.autograd.grad(render(probe, camera).rgb[..., 0].sum(), colors)
    return weights.reshape(-1, gaussians.count, 3)[..., 0].sum(dim=0)


def spread(residual: Tensor, confidence: Tensor, mirror: float) -> Tensor:
    """Fill in a residual map where confidence is low, from confident texels nearby and on the mirrored side.

    A pyramid of weighted means (Burt 1988; the pull-push of Gortler et al. 1996, sec. 3.4): at every texel the finest
    level with enough confidence decides.

    Args:
        residual: `[U, U, C]`.
        confidence: `[U, U]` in 0..1.
        mirror: weight of the left-right mirrored map, in 0..1. Maps of heads are close to mirror-symmetric; this
            need not be exact.
    """
    values, weights = residual.movedim(-1, 0)[None], confidence[None, None]
    filled = values * weights
    total = weights
    if mirror:
        both = mirror * (1 - weights)
        filled = filled + both * (values * weights).flip(-1)
        total = total + both * weights.flip(-1)
    return _pull_push(filled, total)[0].movedim(0, -1)


def _pull_push(weighted: Tensor, weights: Tensor) -> Tensor:
    """Weighted values `[1, C, U, U]` and weights `[1, 1, U, U]` to values everywhere."""
    size = weighted.shape[-1]
    if size == 1:
        return weighted / weights.clamp_min(1e-6)
    half = (size + 1) // 2
    mean, weight = _halve(weighted), _halve(weights)
    saturated = (4 * weight).clamp_max(1) / weight.clamp_min(1e-6)  # one sure texel of four makes their parent sure
    coarse = _pull_push(mean * saturated, weight * saturated)
    up = F.interpolate(coarse, size=(2 * half, 2 * half), mode="bilinear", align_corners=False)[..., :size, :size]
    missing = (1 - weights).clamp_min(0)
    return (weighted + missing * up) / (weights + missing)


def _halve(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, 2, ceil_mode=True, count_include_pad=False)


class Personalisation:
    """The state of one optimisation: the prior's weights, the residual map, their optimiser, the step.

    Args:
        model: the prior; it is modified.
        photo: the only view.
        rig: of the photo's person alone.
        config: settings.
        seed: of the framings.
    """

    def __init__(self, model: GaussianPrior, photo: SourcePhoto, rig: Rig, config: OneShotConfig, seed: int) -> None:
        self.model, self.photo, self.rig, self.config, self.seed = model.eval(), photo, rig, config, seed
        self.source = prepare_source(photo.image, model.config.input_size)[None]
        with torch.no_grad():
            self.first = model(self.source)[0]
        """The prior's own prediction, `[U, U, 14]`."""
        pixels = contribution(self._gaussians(self.first), photo.camera)
        covered = rig.binding.mask
        self.confidence = torch.zeros(covered.shape).masked_scatter(covered, pixels / (pixels + config.seen))
        self.scale = model.decoder.residual_scale
        self.color = torch.zeros(covered.shape[0], covered.shape[0], 3, requires_grad=True)
        self.geometry = torch.zeros(covered.shape[0], covered.shape[0], CHANNELS["color"].start, requires_grad=True)
        self.optimizer = torch.optim.Adam(
            [
                {"params": list(model.parameters()), "initial_lr": config.network_rate},
                {"params": [self.color], "initial_lr": config.map_rate},
                {"params": [self.geometry], "initial_lr": config.map_rate * config.geometry_rate},
            ]
        )
        self.base: Tensor | None = None
        self.step = 0

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.config.network_steps + self.config.map_steps

    def maps(self) -> Tensor:
        """The avatar as it is now, `[U, U, 14]`."""
        with torch.no_grad():
            return self._with_residual(self.model(self.source)[0])

    def advance(self) -> dict[str, float]:
        """One step; returns the terms of the loss before it."""
        config, tuned = self.config, self.step < self.config.network_steps
        if tuned:
            random = np.random.default_rng(derive_seed(self.seed, "framing", self.step))
            augment = AugmentConfig(shift=config.shift, scale=config.shift)
            base = self.model(draw_framing(augment, random).apply(self.source))[0]
        else:
            if self.base is None:
                with torch.no_grad():
                    self.base = self.model(self.source)[0]
            base = self.base
        maps = self._with_residual(base)
        loss, terms = self._loss(maps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        decay = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * decay
        self.optimizer.step()
        self.step += 1
        return {name: value.item() for name, value in {**terms, "loss": loss}.items()}

    def state(self) -> dict[str, Any]:
        """Everything that the remaining steps depend on."""
        return {
            "model": self.model.state_dict(),
            "residual": [self.color.detach(), self.geometry.detach()],
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            for own, saved in zip((self.color, self.geometry), state["residual"], strict=True):
                own.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def _with_residual(self, base: Tensor) -> Tensor:
        color = spread(self.color, self.confidence, self.config.mirror)
        geometry = self.geometry * self.confidence[..., None]
        return base + torch.cat([geometry, color], dim=-1) * self.scale * self.rig.binding.mask[..., None]

    def _gaussians(self, maps: Tensor) -> Gaussians:
        return self.rig.pose(maps[None], [0], [self.photo.params])

    def _loss(self, maps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        config, mask = self.config, self.rig.binding.mask
        rendered = render(self._gaussians(maps), self.photo.camera, white(maps))
        terms = image_terms(rendered, self.photo.image[None], self.photo.mask[None])
        terms |= map_terms(maps[None], self.rig.binding, config.losses)
        total = torch.stack([getattr(config.losses, name) * value.mean() for name, value in terms.items()]).sum()
        drift = ((maps - self.first) / self.scale)[mask]
        terms["prior"] = ((1 - self.confidence[mask])[:, None] * drift.square()).mean()
        terms["smooth"] = _roughness(torch.cat([self.geometry, self.color], dim=-1))
        return total + config.prior * terms["prior"] + config.smooth * terms["smooth"], terms


def _roughness(values: Tensor) -> Tensor:
    """Mean squared difference of neighbours in a map `[U, U, C]`."""
    return values.diff(dim=0).square().mean() + values.diff(dim=1).square().mean()

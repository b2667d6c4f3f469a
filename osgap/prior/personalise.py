"""From one photograph to an avatar: the prior's prediction, then a short optimisation against that photograph.

The prior's weights move a little, which changes the geometry that it predicts, and a residual map corrects geometry and
colours. Only what the photograph shows is compared with it. Elsewhere, geometry is held near the prior's first
prediction, and colours change as those that are seen: on the other half of the head first, then nearby.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from osgap.errors import UserError
from osgap.prior.augment import draw_framing
from osgap.prior.config import AugmentConfig, OneShotConfig
from osgap.prior.losses import image_terms, map_terms, renderable
from osgap.prior.model import GaussianPrior
from osgap.prior.photo import SourcePhoto
from osgap.prior.posing import Rig, white
from osgap.prior.source import prepare_source
from osgap.seeds import derive_seed
from osgap.splat.attributes import CHANNELS
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render

_ENOUGH = 0.25  # of a part that must be known, so that the rest may follow it


def contribution(gaussians: Gaussians, camera: Cameras, mask: Tensor) -> Tensor:
    """How many pixels of a mask each of N Gaussians fills in a view: the sum of its blending weights, `[N]`.

    Args:
        camera: a batch of one.
        mask: `[H, W]` in 0..1.
    """
    colors = torch.zeros_like(gaussians.colors).requires_grad_()
    probe = Gaussians(gaussians.means, gaussians.rotations, gaussians.scales, gaussians.opacities, colors)
    (weights,) = torch.autograd.grad((render(probe, camera).rgb[..., 0] * mask).sum(), colors)
    return weights.reshape(-1, gaussians.count, 3)[..., 0].sum(dim=0)


def islands(mask: Tensor) -> Tensor:
    """The parts of a UV layout `[U, U]` that no covered texel joins (face, eyes, teeth): bool `[I, U, U]`."""
    labels, count = ndimage.label(mask.cpu().numpy(), structure=np.ones((3, 3)))
    return torch.from_numpy(labels == np.arange(1, count + 1)[:, None, None]).to(mask.device)


def spread(change: Tensor, confidence: Tensor, parts: Tensor, mirror: float) -> Tensor:
    """Carry what is known of a map to where confidence is low.

    Known are confident texels and, less so, the texels opposite to confident ones. They are spread within each part
    by a pyramid of weighted means (the pull-push of Gortler et al. 1996, sec. 3.4): the finest level that knows
    anything decides. In a part of which little is known (teeth between closed lips) nothing is spread.

    Args:
        change: `[U, U, C]`.
        confidence: `[U, U]` in 0..1.
        parts: `[I, U, U]`, see `islands`; texels next to each other in different parts have nothing to do with each
            other (the collar may lie beside the teeth).
        mirror: how much a texel opposite to a confident one is known, in 0..1. Layouts of heads are close to
            mirror-symmetric; this need not be exact.

    Returns:
        `[U, U, C]`, zero outside all parts.
    """
    values, weights = change.movedim(-1, 0)[None], confidence[None, None]
    known, total = values * weights, weights
    if mirror:
        unknown = mirror * (1 - weights)
        known = known + unknown * (values * weights).flip(-1)
        total = total + unknown * weights.flip(-1)
    inside = parts[:, None].to(change.dtype)
    spread_out = _pull_push(known * inside, total * inside)
    enough = (total * inside).sum(dim=(2, 3), keepdim=True) >= _ENOUGH * inside.sum(dim=(2, 3), keepdim=True)
    return (torch.where(enough, spread_out, values * weights) * inside).sum(dim=0).movedim(0, -1)


def _pull_push(weighted: Tensor, weights: Tensor) -> Tensor:
    """Values times weights `[I, C, U, U]`, and the weights `[I, 1, U, U]` in 0..1, to values everywhere."""
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
            self.first = model(self.source)[0]  # [U, U, 14], the prior's own prediction
        pixels = contribution(self._gaussians(self.first), photo.camera, photo.mask)
        covered = rig.binding.mask
        self.confidence = torch.zeros(covered.shape).masked_scatter(
            covered, pixels.square() / (pixels.square() + config.seen**2)
        )
        self.parts = islands(covered)
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
        """One step; returns the terms of the loss before it.

        Raises:
            UserError: when the map or the loss is not finite.
        """
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
        if not renderable(maps.detach()[None]).all():
            raise self._diverged("the map")
        loss, terms = self._loss(maps)
        if not torch.isfinite(loss):
            raise self._diverged(" and ".join(name for name, value in terms.items() if not torch.isfinite(value).all()))
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

    def _diverged(self, what: str) -> UserError:
        return UserError(
            f"one-shot avatar of {self.photo.subject}, step {self.step}: {what} is not finite; lower "
            f"oneshot.network_rate and oneshot.map_rate"
        )

    def _with_residual(self, base: Tensor) -> Tensor:
        color = CHANNELS["color"]
        geometry = base[..., : color.start] + self.scale[: color.start] * self.geometry * self.confidence[..., None]
        change = spread(self.color, self.confidence, self.parts, self.config.mirror)
        colors = self.first[..., color] + self.scale[color] * change
        return torch.cat([geometry, colors], dim=-1) * self.rig.binding.mask[..., None]

    def _gaussians(self, maps: Tensor) -> Gaussians:
        return self.rig.pose(maps[None], [0], [self.photo.params])

    def _loss(self, maps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        config, covered = self.config, self.rig.binding.mask
        rendered = render(self._gaussians(maps), self.photo.camera, white(maps))
        image, mask = self.photo.image[None], self.photo.mask[None]
        # Where the person is not, only alpha may complain: colours must not turn white to hide what sticks out.
        inside = mask[..., None]
        rendered = dataclasses.replace(rendered, rgb=inside * rendered.rgb + (1 - inside) * image)
        terms = image_terms(rendered, image, mask)
        terms |= map_terms(maps[None], self.rig.binding, config.losses)
        total = torch.stack([getattr(config.losses, name) * value.mean() for name, value in terms.items()]).sum()
        geometry = slice(0, CHANNELS["color"].start)
        drift = ((maps - self.first) / self.scale)[covered][:, geometry]
        terms["prior"] = ((1 - self.confidence[covered])[:, None] * drift.square()).mean()
        terms["smooth"] = _roughness(torch.cat([self.geometry, self.color], dim=-1))
        return total + config.prior * terms["prior"] + config.smooth * terms["smooth"], terms


def _roughness(values: Tensor) -> Tensor:
    """Mean squared difference of neighbours in a map `[U, U, C]`."""
    return values.diff(dim=0).square().mean() + values.diff(dim=1).square().mean()

"""From photographs to an avatar: the prior's prediction from one of them, then a short optimisation against all.

The prior's weights move a little, which changes the geometry that it predicts, and a residual map corrects geometry and
colours. Only what the photographs show is compared with them. Elsewhere, geometry is held near the prior's first
prediction, and colours change as those that are seen: on the other half of the head first, then nearby.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from osgap.prior.augment import draw_framing, framed
from osgap.prior.config import AugmentConfig, OneShotConfig
from osgap.prior.losses import image_terms, map_terms, renderable
from osgap.prior.network.model import GaussianPrior
from osgap.prior.personalisation.adam import GroupAdam
from osgap.prior.personalisation.views import Views
from osgap.prior.photo import SourcePhoto
from osgap.prior.photographs import Photographs, photographs
from osgap.prior.posing import Rig, white
from osgap.runtime.errors import UserError
from osgap.runtime.seeds import derive_seed
from osgap.splat.attributes import CHANNELS, GaussianAttributes
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import Rendered, render
from osgap.splat.rig import pose

_ENOUGH = 0.25  # of a part that must be known, so that the rest may follow it
_UNREAD = 16  # steps of a GPU after which the losses are fetched: that waits for it
_GEOMETRY = slice(0, CHANNELS["color"].start)


def contribution(gaussians: Gaussians, cameras: Cameras, masks: Tensor) -> Tensor:
    """How many pixels of the masks each of N Gaussians fills in all views: the sum of its blending weights, `[N]`.

    Args:
        gaussians: one set for all cameras, or one for each.
        cameras: a batch of B.
        masks: `[H, W]` or `[B, H, W]` in 0..1.
    """
    colors = torch.zeros_like(gaussians.colors).requires_grad_()
    probe = Gaussians(gaussians.means, gaussians.rotations, gaussians.scales, gaussians.opacities, colors)
    (weights,) = torch.autograd.grad((render(probe, cameras).rgb[..., 0] * masks).sum(), colors)
    return weights.reshape(-1, gaussians.count, 3)[..., 0].sum(dim=0)


def islands(mask: Tensor) -> Tensor:
    """The parts of a UV layout `[U, U]` that no covered texel joins (face, eyes, teeth): bool `[I, U, U]`."""
    labels, count = ndimage.label(mask.cpu().numpy(), structure=np.ones((3, 3)))
    return torch.from_numpy(labels == np.arange(1, count + 1)[:, None, None]).to(mask.device)


def carry_to_unseen(change: Tensor, confidence: Tensor, parts: Tensor, mirror: float) -> Tensor:
    """Carry what is known of a map to where confidence is low: texels that no photograph shows change as others do.

    Known are confident texels and, less so, the texels opposite to confident ones. They are carried on within each part
    by a pyramid of weighted means (the pull-push of Gortler et al. 1996, sec. 3.4): the finest level that knows
    anything decides. In a part of which little is known (teeth between closed lips) nothing is carried on.

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
    filled = _pull_push(known * inside, total * inside)
    enough = (total * inside).sum(dim=(2, 3), keepdim=True) >= _ENOUGH * inside.sum(dim=(2, 3), keepdim=True)
    return (torch.where(enough, filled, values * weights) * inside).sum(dim=0).movedim(0, -1)


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
    """The state of one optimisation: network, features, residual maps, their optimiser, the step, the losses.

    Args:
        model: the prior, on the device that computes; it is modified.
        photo: what the network reads.
        seen: all that can be seen of the person, in any number of parts; what they show decides what may change.
        rig: of that person alone, on the device of the model.
        config: settings.
        seed: of the framings.
    """

    def __init__(
        self,
        model: GaussianPrior,
        photo: SourcePhoto,
        seen: Iterable[Views],
        rig: Rig,
        config: OneShotConfig,
        seed: int,
    ) -> None:
        self.model, self.subject, self.rig, self.config, self.seed = model.eval(), photo.subject, rig, config, seed
        mask, self.parts = rig.binding.mask, islands(rig.binding.mask)
        self.device = mask.device
        self.step = 0
        self.curve: list[dict[str, float]] = []
        """The terms of the loss before each step, as far as they were read from the device."""
        self._unread: list[dict[str, Tensor]] = []
        params, image = photo.params.to(self.device), photo.image.to(self.device)
        self.source = photographs(
            rig, [0], [params], photo.camera.to(self.device), image[None, None], model.config.input_size
        )
        with torch.no_grad():
            self.features = self._encoded(self.source)
            self.first = self._decoded(self.features)  # the prior's own prediction
        known = self._seen(seen)
        self.confidence = torch.zeros(mask.shape, device=self.device).masked_scatter(mask, known)
        self.unseen = (1 - known)[:, None]
        self.scale = model.decoder.residual_scale
        size = mask.shape[0]
        self.color = torch.zeros(size, size, 3, device=self.device)
        self.geometry = torch.zeros(size, size, _GEOMETRY.stop, device=self.device)
        self.latent = torch.zeros(self.features.shape, device=self.device)
        self.optimizer = self._optimizer()
        self.base: Tensor | None = None

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.config.network_steps + (self.config.map_steps if self._has("geometry", "color") else 0)

    def maps(self) -> Tensor:
        """The avatar as it is now, `[U, U, 14]`."""
        with torch.no_grad():
            return self._with_residual(self._base(self.source))

    def advance(self, views: Views) -> None:
        """One step against photographs.

        Raises:
            UserError: when the map or the loss is not finite; on a GPU at most some steps later.
        """
        maps = self._with_residual(self._predicted())
        loss, terms = self._loss(maps, views)
        self._unread.append({**{name: value.detach().mean() for name, value in terms.items()}, "loss": loss.detach()})
        if self.device.type == "cpu" or len(self._unread) == _UNREAD:
            self.settle()
        loss.backward()
        self.optimizer.step(0.5 * (1 + math.cos(math.pi * self.step / self.steps)))
        self.step += 1

    def settle(self) -> None:
        """Read the losses of the last steps from the device.

        Raises:
            UserError: when one is not finite.
        """
        if not self._unread:
            return
        names = list(self._unread[0])
        rows = torch.stack([torch.stack(list(terms.values())) for terms in self._unread]).tolist()
        self._unread.clear()
        for row in rows:
            broken = [name for name, value in zip(names, row, strict=True) if not math.isfinite(value)]
            if broken:
                raise self._diverged(" and ".join(broken[:-1] or broken), len(self.curve))
            self.curve.append(dict(zip(names, row, strict=True)))

    def state(self) -> dict[str, Any]:
        """Everything that the remaining steps depend on, and the losses of those that are done."""
        self.settle()
        return {
            "model": self.model.state_dict(),
            "residual": [self.color.detach(), self.geometry.detach(), self.latent.detach()],
            "optimizer": self.optimizer.state(),
            "step": self.step,
            "curve": self.curve,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            for own, saved in zip((self.color, self.geometry, self.latent), state["residual"], strict=True):
                own.copy_(saved)
        self.optimizer.restore(state["optimizer"])
        self.step, self.curve = state["step"], list(state["curve"])

    def _has(self, *parts: str) -> bool:
        """Whether one of the parts may change."""
        return any(part in self.config.optimise for part in parts)

    def _optimizer(self) -> GroupAdam:
        config = self.config
        groups: list[tuple[list[Tensor], float]] = []
        self.model.requires_grad_(self._has("network"))
        if self._has("network"):
            groups.append((list(self.model.parameters()), config.network_rate))
        for part, parameter, rate in (
            ("color", self.color, config.map_rate),
            ("geometry", self.geometry, config.map_rate * config.geometry_rate),
            ("latent", self.latent, config.latent_rate),
        ):
            if self._has(part):
                groups.append(([parameter.requires_grad_()], rate))
        return GroupAdam(groups)

    def _seen(self, views: Iterable[Views]) -> Tensor:
        """How well all photographs together show each covered texel, `[N]` in 0..1."""
        pixels = torch.zeros(len(self.rig.binding), device=self.device)
        for part in views:
            with self._finite(self.first):
                pixels = pixels + contribution(self._gaussians(self.first, part), part.cameras, part.masks)
        return pixels.square() / (pixels.square() + self.config.seen**2)

    def _encoded(self, source: Photographs) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            return self.model.encode(source)

    def _decoded(self, features: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            return self.model.decoder(features)[0]

    def _base(self, source: Photographs) -> Tensor:
        """What network and features say, `[U, U, 14]`."""
        features = self._encoded(source) if self._has("network") else self.features
        return self._decoded(features + self.latent if self._has("latent") else features)

    def _predicted(self) -> Tensor:
        """The same in this step: trained in the first steps, and fixed from then on."""
        if self.step < self.config.network_steps and self._has("network"):
            random = np.random.default_rng(derive_seed(self.seed, "framing", self.step))
            augment = AugmentConfig(shift=self.config.shift, scale=self.config.shift)
            return self._base(framed(self.source, [draw_framing(augment, random)]))
        if self.step < self.config.network_steps and self._has("latent"):
            return self._base(self.source)
        if self.base is None:
            with torch.no_grad():
                self.base = self._base(self.source)
        return self.base

    def _with_residual(self, base: Tensor) -> Tensor:
        color = CHANNELS["color"]
        geometry = base[..., _GEOMETRY] + self.scale[_GEOMETRY] * self.geometry * self.confidence[..., None]
        colors = base[..., color]
        if self._has("color"):
            change = carry_to_unseen(self.color, self.confidence, self.parts, self.config.mirror)
            colors = self.first[..., color] + self.scale[color] * change
        return torch.cat([geometry, colors], dim=-1) * self.rig.binding.mask[..., None]

    def _gaussians(self, maps: Tensor, views: Views) -> Gaussians:
        return pose(GaussianAttributes.from_uv(maps, self.rig.binding), views.vertices, self.rig.bound)

    def _rendered(self, maps: Tensor, views: Views) -> Rendered:
        with self._finite(maps):
            return render(self._gaussians(maps, views), views.cameras, white(maps))

    @contextlib.contextmanager
    def _finite(self, maps: Tensor) -> Iterator[None]:
        """The renderer refuses what is not finite, at no cost: asking before would wait for a GPU once more."""
        try:
            yield
        except ValueError as error:
            if renderable(maps.detach()[None]).all():
                raise
            self.settle()  # a loss that was not finite in an earlier step is the cause
            raise self._diverged("the map", self.step) from error

    def _loss(self, maps: Tensor, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        rendered = self._rendered(maps, views)
        # Where the person is not, only alpha may complain: colours must not turn white to hide what sticks out.
        inside = views.masks[..., None]
        rendered = dataclasses.replace(rendered, rgb=inside * rendered.rgb + (1 - inside) * views.images)
        terms = image_terms(rendered, views.images, views.masks)
        terms |= map_terms(maps[None], self.rig.binding, config.losses)
        total = torch.stack([getattr(config.losses, name) * value.mean() for name, value in terms.items()]).sum()
        held = _GEOMETRY if self._has("color") else slice(None)
        drift = GaussianAttributes.from_uv((maps - self.first) / self.scale, self.rig.binding).channels[:, held]
        terms["prior"] = (self.unseen * drift.square()).mean()
        terms["smooth"] = _roughness(torch.cat([self.geometry, self.color], dim=-1))
        # Terms of images are means over the photographs. Dividing these too keeps what each photograph shows in the
        # balance with them that it has where it is the only one.
        regularisers = (config.prior * terms["prior"] + config.smooth * terms["smooth"]) / len(views.images)
        return total + regularisers, terms

    def _diverged(self, what: str, step: int) -> UserError:
        return UserError(
            f"one-shot avatar of {self.subject}, step {step}: {what} is not finite; lower oneshot.network_rate and "
            f"oneshot.map_rate"
        )


def _roughness(values: Tensor) -> Tensor:
    """Mean squared difference of neighbours in a map `[U, U, C]`."""
    return values.diff(dim=0).square().mean() + values.diff(dim=1).square().mean()

"""From a prior's prediction to an avatar: a short optimisation of maps that are added to it, against photographs.

What the photographs show may change: geometry and colours of each texel as far as it is seen. What they do not show
keeps the prior's geometry, and follows in colour what changed among texels that the prior shows to be alike (see
`osgap.prior.personalisation.alike`). The tracked motion of the photographs' moments is refined on the way.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from osgap.head.params import MOTION_WIDTHS, FlameParams
from osgap.prior.config import OneShotConfig
from osgap.prior.losses import coverage_term, renderable
from osgap.prior.personalisation.adam import GroupAdam
from osgap.prior.personalisation.alike import Alike
from osgap.prior.personalisation.objective import compared
from osgap.prior.personalisation.strength import Strength
from osgap.prior.personalisation.views import Views
from osgap.prior.posing import Rig, white
from osgap.runtime.errors import UserError
from osgap.splat.attributes import CHANNELS, SH_C0, GaussianAttributes
from osgap.splat.cameras import Cameras
from osgap.splat.coverage.views import picture_size
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import Rendered, render
from osgap.splat.rig import pose

_UNREAD = 16  # steps of a GPU after which the losses are fetched: that waits for it
_GEOMETRY = slice(0, CHANNELS["color"].start)
_COLOR = CHANNELS["color"]
_ENOUGH = 0.005  # of all texels, how many alike ones must be seen until their change is carried by one half


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


class Personalisation:
    """The state of one optimisation: residual maps, refined motion, their optimiser, the step, the losses.

    Args:
        predicted: `[U, U, 14]` the prior's maps, on the device that computes.
        scale: `[14]` what one unit of a residual means in each channel: how much people differ.
        seen: all that can be seen of the person, in any number of parts; what they show decides what may change.
        motion: the tracked motion of the moments that are shown, R timesteps.
        rig: of that person alone, on the same device.
        config: settings.
        steps: over which the step size falls to zero.
        strength: after which of them it ends, and what is kept then.
        subject: for messages.
    """

    def __init__(
        self,
        predicted: Tensor,
        scale: Tensor,
        seen: Iterable[Views],
        motion: FlameParams,
        rig: Rig,
        config: OneShotConfig,
        steps: int,
        strength: Strength,
        subject: str,
    ) -> None:
        self.first, self.scale, self.rig, self.config, self.subject = predicted, scale, rig, config, subject
        self.strength, self.end = strength, strength.steps
        self._steps = steps
        self.device = predicted.device
        self.step = 0
        self.curve: list[dict[str, float]] = []
        """The terms of the loss before each step, as far as they were read from the device."""
        self._unread: list[dict[str, Tensor]] = []
        self._tracked, self._deviation = motion, _deviations(config, self.device)
        # Residual maps in units of `scale`; apart, because their rates differ.
        self._geometry = torch.zeros_like(predicted[..., _GEOMETRY])
        self._color = torch.zeros_like(predicted[..., _COLOR])
        self.motion = torch.zeros(motion.timesteps, len(self._deviation), device=self.device)
        """`[R, 118]` in units of `tracking`'s standard deviations."""
        self._refines = config.motion_rate > 0 and bool((self._deviation > 0).any())
        parts = iter(seen)
        part = next(parts)
        self._picture_size = picture_size(rig.people[0].vertices(motion.first())[0], part.cameras)
        self.known = self._seen(itertools.chain([part], parts))
        """`[N]` how well each covered texel is seen, in 0..1."""
        mask = rig.binding.mask
        self.confidence = torch.zeros(mask.shape, device=self.device).masked_scatter(mask, self.known)
        colors = predicted[mask][:, _COLOR] * SH_C0 + 0.5
        self._alike = Alike(colors, config.alike, _ENOUGH * len(colors))
        self.optimizer = self._optimizer()

    def maps(self, strength: Strength | None = None) -> Tensor:
        """The avatar as it is now, `[U, U, 14]`. Default is its own strength."""
        with torch.no_grad():
            return self._with_residual(strength or self.strength)

    def params(self) -> FlameParams:
        """The motion of the moments that are shown, refined: R timesteps."""
        with torch.no_grad():
            return self._moved(torch.arange(len(self.motion), device=self.device))

    def advance(self, views: Views, used: Tensor | None = None) -> None:
        """One step against photographs.

        Args:
            views: the photographs.
            used: `[P, H, W]` in 0..1, the parts of them that may be looked at; what is left is only measured (the term
                `held_out`). Default is all.

        Raises:
            UserError: when the map or the loss is not finite; on a GPU at most some steps later.
        """
        loss, terms = self._loss(views, used)
        self._unread.append({**{name: value.detach().mean() for name, value in terms.items()}, "loss": loss.detach()})
        if self.device.type == "cpu" or len(self._unread) == _UNREAD:
            self.settle()
        loss.backward()
        self.optimizer.step(0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self._steps))))
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
            "first": self.first,
            "tables": self.found(),
            "optimizer": self.optimizer.state(),
            "end": self.end,
            "step": self.step,
            "curve": self.curve,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.find(state["tables"])
        self.optimizer.restore(state["optimizer"])
        self.end, self.step, self.curve = state["end"], state["step"], list(state["curve"])

    def found(self) -> list[Tensor]:
        """A copy of what it has found so far: residual maps and motion."""
        return [table.detach().clone() for table in self._tables]

    @torch.no_grad()
    def find(self, found: Sequence[Tensor]) -> None:
        """Go to what `found` returned."""
        for own, saved in zip(self._tables, found, strict=True):
            own.copy_(saved)

    @property
    def _tables(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._color, self._geometry, self.motion

    def _optimizer(self) -> GroupAdam:
        config = self.config
        groups: list[tuple[list[Tensor], float]] = [
            ([self._color.requires_grad_()], config.map_rate),
            ([self._geometry.requires_grad_()], config.map_rate * config.geometry_rate),
        ]
        if self._refines:
            groups.append(([self.motion.requires_grad_()], config.motion_rate))
        return GroupAdam(groups)

    def _seen(self, views: Iterable[Views]) -> Tensor:
        """How well all photographs together show each covered texel, `[N]` in 0..1."""
        pixels = torch.zeros(len(self.rig.binding), device=self.device)
        for part in views:
            with self._finite(self.first):
                pixels = pixels + contribution(self._gaussians(self.first, part), part.cameras, part.masks)
        return pixels.square() / (pixels.square() + self.config.seen**2)

    def _moved(self, moments: Tensor) -> FlameParams:
        """The refined motion of moments `[M]`."""
        tracked = self._tracked.select(moments)
        if not self._refines:
            return tracked
        changes = (self.motion[moments] * self._deviation).split(list(MOTION_WIDTHS.values()), dim=1)
        moved = {name: tracked.motion[name] + change for name, change in zip(MOTION_WIDTHS, changes, strict=True)}
        return tracked.replace(**moved)

    def _with_residual(self, strength: Strength) -> Tensor:
        mask, seen = self.rig.binding.mask, self.confidence[..., None]
        geometry = self.first[..., _GEOMETRY] + strength.geometry * self.scale[_GEOMETRY] * self._geometry * seen
        carried = torch.zeros_like(self._color)
        if strength.carried:
            carried = carried.index_put((mask,), self._alike.carried(self._color[mask], self.known))
        change = strength.color * seen * self._color + strength.carried * (1 - seen) * carried
        colors = self.first[..., _COLOR] + self.scale[_COLOR] * change
        return torch.cat([geometry, colors], dim=-1) * mask[..., None]

    def _gaussians(self, maps: Tensor, views: Views) -> Gaussians:
        vertices = self.rig.people[0].vertices(self._moved(views.moments))
        return pose(GaussianAttributes.from_uv(maps, self.rig.binding), vertices, self.rig.bound)

    def rendered(self, maps: Tensor, views: Views) -> Rendered:
        """Images of maps `[U, U, 14]` in the views, on white."""
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

    def _loss(self, views: Views, used: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        maps = self._with_residual(Strength(self._steps))
        total, terms = compared(maps, self.rendered(maps, views), views, self.rig.binding, config.losses, used)
        terms["prior"] = (self.confidence[..., None] * self._geometry).square().mean()
        terms["smooth"] = _roughness(torch.cat([self._geometry, self._color], dim=-1))
        terms["motion"] = self.motion.square().mean()
        # Terms of images are means over the photographs. Dividing these too keeps what each photograph shows in the
        # balance with them that it has where it is the only one.
        if config.losses.coverage:
            moved = [self._moved(views.moments[:1])]
            terms["coverage"] = coverage_term(maps[None], self.rig, [0], moved, self._picture_size, self.step)
            total = total + config.losses.coverage * terms["coverage"].mean()
        held = config.prior * terms["prior"] + config.smooth * terms["smooth"] + config.motion * terms["motion"]
        return total + held / len(views.images), terms

    def _diverged(self, what: str, step: int) -> UserError:
        return UserError(
            f"one-shot avatar of {self.subject}, step {step}: {what} is not finite; lower oneshot.map_rate"
        )


def _deviations(config: OneShotConfig, device: torch.device) -> Tensor:
    """`[118]` standard deviations of the tracked motion, in the order of `MOTION_WIDTHS`."""
    widths = MOTION_WIDTHS.items()
    return torch.cat([torch.full((width,), getattr(config.tracking, name)) for name, width in widths]).to(device)


def _roughness(values: Tensor) -> Tensor:
    """Mean squared difference of neighbours in a map `[U, U, C]`."""
    return values.diff(dim=0).square().mean() + values.diff(dim=1).square().mean()

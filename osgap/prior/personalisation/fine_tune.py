"""The published code's way of making an avatar: all weights of the network are tuned on the person's photographs.

What no photograph shows changes with the weights, for the better or the worse: `docs/prior.md` has numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from osgap.head.params import FlameParams
from osgap.prior.config import OneShotConfig
from osgap.prior.losses import renderable
from osgap.prior.network.model import GaussianPrior
from osgap.prior.personalisation.adam import GroupAdam
from osgap.prior.personalisation.objective import compared
from osgap.prior.personalisation.views import Views
from osgap.prior.photographs import Photographs
from osgap.prior.posing import Rig, white
from osgap.runtime.errors import UserError
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.render import render
from osgap.splat.rig import pose


class FineTuning:
    """The state of one tuning: the network, its optimiser, the step.

    Args:
        model: the prior, on the device that computes; it is modified.
        photographs: what it reads of the person.
        motion: the tracked motion of the moments that are shown, R timesteps.
        rig: of that person alone.
        config: settings.
        subject: for messages.
    """

    def __init__(
        self,
        model: GaussianPrior,
        photographs: Photographs,
        motion: FlameParams,
        rig: Rig,
        config: OneShotConfig,
        subject: str,
    ) -> None:
        self._model, self._photographs, self._motion, self._rig = model.eval(), photographs, motion, rig
        self._config, self._subject = config, subject
        self.step, self.end = 0, config.network_steps
        self._optimizer = GroupAdam([(list(model.requires_grad_().parameters()), config.network_rate)])

    def advance(self, views: Views) -> None:
        """One step against photographs.

        Raises:
            UserError: when what the network says, or the loss, is not finite.
        """
        device = views.images.device
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            maps = self._model(self._photographs)[0].float()
        if not renderable(maps.detach()[None]).all():
            raise self._diverged("what the network says")
        binding = self._rig.binding
        vertices = self._rig.people[0].vertices(self._motion.select(views.moments))
        gaussians = pose(GaussianAttributes.from_uv(maps, binding), vertices, self._rig.bound)
        rendered = render(gaussians, views.cameras, white(maps))
        loss, _ = compared(maps, rendered, views, binding, self._config.losses, None)
        if not torch.isfinite(loss):
            raise self._diverged("the loss")
        loss.backward()
        self._optimizer.step()
        self.step += 1

    def settle(self) -> None:
        """Nothing is left to be read."""

    def state(self) -> dict[str, Any]:
        """Everything that the remaining steps depend on."""
        model, optimizer = self._model.state_dict(), self._optimizer.state()
        return {"tuning": {"model": model, "optimizer": optimizer, "step": self.step}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        saved = state["tuning"]
        self._model.load_state_dict(saved["model"])
        self._optimizer.restore(saved["optimizer"])
        self.step = saved["step"]

    def _diverged(self, what: str) -> UserError:
        return UserError(
            f"avatar of {self._subject}, step {self.step} of tuning the network: {what} is not finite; lower "
            f"oneshot.network_rate"
        )

"""How well a network in training does on people who are kept out of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from osgap.capture.choice import evenly_spaced
from osgap.head.model import HeadModel
from osgap.head.texels import TexelBinding
from osgap.metrics.image_metrics import psnr
from osgap.prior.config import PriorConfig
from osgap.prior.losses import image_terms, masked_l1
from osgap.prior.network.model import Predictor
from osgap.prior.posing import Rig
from osgap.prior.training.data import Assembly, Plan, TrainingSamples
from osgap.splat.attributes import N_CHANNELS

_TARGETS = 8  # frames of each person, over time and cameras


class Validation:
    """Some people's frames, the same at every measurement; each avatar is from one photograph.

    Args:
        captures: the people's capture stores.
        maps: their fitted maps, `[P, U, U, 14]`.
        head: on the device that computes.
        binding: of the maps' texels.
    """

    def __init__(
        self, captures: Sequence[Path], maps: Tensor, head: HeadModel, binding: TexelBinding, config: PriorConfig
    ) -> None:
        self.samples = TrainingSamples(captures, config, seed=0)
        self.rig = Rig.build(head, binding, self.samples.params)
        self.assembly = Assembly(self.samples, maps, self.rig)
        self._plans = [self._plan(person) for person in range(len(captures))]

    def _plan(self, person: int) -> Plan:
        source = self.samples.source_frames[person][0]
        frames = self.samples.frames[person]
        others = frames[frames[:, 0] != source[0]]
        pool = others if len(others) else frames
        return Plan(person, source[None], pool[evenly_spaced(len(pool), _TARGETS)], seed=None)

    @torch.no_grad()
    def measure(self, predictor: Predictor) -> dict[str, float]:
        """Means over people of PSNR (dB), SSIM, L1, and the distance of the maps from the fitted ones."""
        values: dict[str, list[float]] = {"psnr": [], "ssim": [], "l1": [], "uv": []}
        for plan in self._plans:
            batch = self.assembly.batch(self.samples.decode([plan]))
            maps = predictor.predict(batch.sources).float()
            drawn = predictor.render(self.rig.pose(maps, batch.people, batch.params), batch.cameras)
            terms = image_terms(drawn, batch.images, batch.masks)
            values["psnr"].append(psnr(drawn.rgb.clamp(0, 1), batch.images).mean().item())
            values["ssim"].append(1 - terms["ssim"].mean().item())
            values["l1"].append(terms["l1"].mean().item())
            values["uv"].append(masked_l1(maps[..., :N_CHANNELS], batch.maps, self.rig.binding.mask).mean().item())
        return {name: float(np.mean(value)) for name, value in values.items()}

"""Pictures to judge a prior or an avatar by."""

from __future__ import annotations

import numpy as np
import torch

from osgap.prior.contact import contact_sheet
from osgap.prior.data import Plan, TrainingSamples
from osgap.prior.model import GaussianPrior
from osgap.prior.posing import Rig, white
from osgap.splat.render import render

_PEOPLE = 4


@torch.no_grad()
def training_preview(model: GaussianPrior, samples: TrainingSamples, rig: Rig) -> np.ndarray:
    """A row for each of the first people: source, prediction there, a target, prediction there, the outermost camera.

    The sources are not augmented, and the predictions come from the source alone. `[H, W, 3]` uint8.
    """
    rows = []
    for person in range(min(_PEOPLE, len(samples.stores))):
        frames = samples.frames[person]
        source = samples.source_frames[person][0]
        same_time = frames[frames[:, 0] == source[0]]
        seen = np.stack([source, frames[len(frames) // 2], same_time[0]])
        batch = samples.sample(Plan(person, source, seen, seed=None)).to(rig.binding.mask.device)
        maps = model(batch.sources)
        drawn = render(rig.pose(maps, batch.people, batch.params), batch.cameras, white(maps)).rgb
        rows.append([batch.images[0], drawn[0], batch.images[1], drawn[1], drawn[2]])
    return contact_sheet(rows)

"""Pictures to judge a prior or an avatar by."""

from __future__ import annotations

import numpy as np
import torch

from osgap.prior.network.model import Predictor
from osgap.prior.posing import Rig
from osgap.prior.training.data import Assembly, Plan
from osgap.runtime.pixels import tiled

_PEOPLE = 4


@torch.no_grad()
def training_preview(predictor: Predictor, assembly: Assembly, rig: Rig) -> np.ndarray:
    """A row for each of the first people: source, prediction there, a target, prediction there, the outermost camera.

    The sources are not augmented, and the predictions come from the source alone. `[H, W, 3]` uint8.
    """
    samples, rows = assembly.samples, []
    for person in range(min(_PEOPLE, len(samples.stores))):
        frames = samples.frames[person]
        source = samples.source_frames[person][0]
        same_time = frames[frames[:, 0] == source[0]]
        seen = np.stack([source, frames[len(frames) // 2], same_time[0]])
        batch = assembly.batch(samples.decode([Plan(person, source[None], seen, seed=None)]))
        maps = predictor.predict(batch.sources).float()
        drawn = predictor.render(rig.pose(maps, batch.people, batch.params), batch.cameras).rgb
        rows.append([batch.images[0], drawn[0], batch.images[1], drawn[1], drawn[2]])
    return tiled(rows)

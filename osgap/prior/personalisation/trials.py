"""When an optimisation ends: a trial that does not see all of the photographs tells how long it helps with the rest.

Patches of every photograph are held out. A whole photograph that is held out tells of parts of the head which the
avatar was never shown without it, and ends the optimisation far too early: `docs/prior.md` has numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from osgap.prior.config import OneShotConfig
from osgap.prior.personalisation.optimise import Personalisation
from osgap.prior.personalisation.strength import Strength
from osgap.prior.personalisation.views import FewPhotos
from osgap.prior.photo import SourcePhoto
from osgap.prior.posing import Rig
from osgap.runtime.seeds import derive_seed

_PATCHES = 24  # along the longer side of a photograph
_SMOOTHED = 5  # steps that a curve is averaged over


def personalised(
    predicted: Tensor,
    scale: Tensor,
    photos: Sequence[SourcePhoto],
    rig: Rig,
    config: OneShotConfig,
    strength: Strength,
) -> Personalisation:
    """An optimisation against photographs of one moment, before its first step.

    Args:
        predicted: `[U, U, 14]` what it begins with.
        scale: `[14]`, see `Personalisation`.
        rig: of the person, on the device that computes.
    """
    frames = FewPhotos(photos, scale.device)
    return Personalisation(
        predicted, scale, frames.sample(), frames.motion, rig, config, config.steps, strength, photos[0].subject
    )


def helpful_steps(
    predicted: Tensor,
    scale: Tensor,
    photos: Sequence[SourcePhoto],
    rig: Rig,
    config: OneShotConfig,
    steps: int,
    seed: int,
) -> int:
    """After how many steps the error of what is held out was least; all where nothing is.

    Args:
        steps: at most so many.
    """
    if not config.held_out or not steps:
        return steps
    everything = next(FewPhotos(photos, scale.device).sample())
    size = everything.masks.shape[1:]
    used = torch.stack(
        [patches(size, config.held_out, derive_seed(seed, "held out", index)) for index in range(len(photos))]
    ).to(scale.device)
    trial = personalised(predicted, scale, photos, rig, config, Strength(steps))
    for _ in range(steps + 1):
        trial.advance(everything, used)
    trial.settle()
    return best_step(np.array([terms["held_out"] for terms in trial.curve]))


def best_step(curve: np.ndarray) -> int:
    """Where a curve `[steps + 1]`, averaged over neighbours, is least; the earliest of several."""
    window = min(_SMOOTHED, len(curve))
    padded = np.pad(curve, window // 2, mode="edge")
    return int(np.convolve(padded, np.full(window, 1 / window), mode="valid")[: len(curve)].argmin())


def patches(size: Sequence[int], share: float, seed: int) -> Tensor:
    """Which pixels of a picture of `size` (height, width) are used: 1, or 0 in a `share` of its square patches.

    The patches are drawn at random: `[height, width]`.
    """
    height, width = size
    side = max(1, round(max(height, width) / _PATCHES))
    rows, columns = -(-height // side), -(-width // side)
    count = rows * columns
    drawn = np.random.default_rng(seed).permutation(count)[: max(1, round(share * count))]
    used = np.ones(count, np.float32)
    used[drawn] = 0
    full = used.reshape(rows, columns).repeat(side, axis=0).repeat(side, axis=1)
    return torch.from_numpy(full[:height, :width].copy())

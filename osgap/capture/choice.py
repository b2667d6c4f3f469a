"""Which frames are looked at: all in turn, in random order, or some that are evenly spaced."""

from __future__ import annotations

import functools

import numpy as np

from osgap.runtime.seeds import derive_seed


def chosen(count: int, per_step: int, step: int, seed: int) -> np.ndarray:
    """Which of `count` frames one step sees, `[per_step]` int64.

    Every frame is seen once before any is seen again. The choice depends on the arguments only, so that a resumed
    fit goes on exactly as if it had never stopped.
    """
    positions = np.arange(step * per_step, (step + 1) * per_step)
    return np.array([_shuffled(count, int(p) // count, seed)[int(p) % count] for p in positions], np.int64)


@functools.lru_cache(maxsize=4)
def _shuffled(count: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng(derive_seed(seed, "frames", epoch)).permutation(count)


def evenly_spaced(length: int, count: int) -> np.ndarray:
    """Up to `count` different indices of `length` things, from the first to the last, `[<= count]` int64."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.int64))

"""Which training frames each step sees, and getting them decoded in time."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from osgap.seeds import derive_seed

_AHEAD = 4  # steps that are being decoded while one is computed
_WORKERS = 4
_MIB = 2**20


class FrameStore(Protocol):
    """What is needed of `osgap.capture.store.CaptureStore`."""

    def images(self, frames: np.ndarray) -> np.ndarray:
        """`[B, H, W, 3]` uint8 RGB of frames `[B, 2]` (timestep, camera)."""


@dataclass(frozen=True)
class Batch:
    """The frames of one step."""

    step: int
    frames: np.ndarray
    """`[B, 2]` int64 timestep and camera."""
    images: Tensor
    """`[B, H, W, 3]` uint8 RGB on white."""


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


def batches(
    store: FrameStore,
    frames: np.ndarray,
    per_step: int,
    steps: range,
    seed: int,
    *,
    memory_mib: float,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """The batches of `steps`, in order.

    Args:
        frames: `[M, 2]` int64 (timestep, camera), what may be chosen.
        per_step: frames in one batch.
        steps: which steps to yield.
        seed: of the choice.
        memory_mib: all frames are decoded once and kept when they need at most this many MiB; otherwise each batch is
            decoded in threads a few steps ahead. The batches are the same.
        device: where frames are kept.
    """

    def indices(step: int) -> np.ndarray:
        return chosen(len(frames), per_step, step, seed)

    if not steps:
        return
    sample = store.images(frames[:1])
    if len(frames) * sample.nbytes <= memory_mib * _MIB:
        images = torch.from_numpy(store.images(frames)).to(device)
        for step in steps:
            index = indices(step)
            yield Batch(step, frames[index], images[torch.from_numpy(index)])
        return

    def decode(step: int) -> Batch:
        batch = frames[indices(step)]
        return Batch(step, batch, torch.from_numpy(store.images(batch)).to(device))

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="decode") as pool:
        pending: list[Future[Batch]] = [pool.submit(decode, step) for step in steps[:_AHEAD]]
        for step in steps:
            batch = pending.pop(0).result()
            if step + _AHEAD in steps:
                pending.append(pool.submit(decode, step + _AHEAD))
            yield batch

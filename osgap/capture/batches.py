"""What each step of an optimisation sees: frames of a capture, wherever they fit best until then."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from osgap.capture.choice import chosen
from osgap.capture.prefetch import Decoded, FrameStore, read, read_ahead
from osgap.runtime.pinned import upload

_MIB = 2**20
_RESERVE_MIB = 2048  # of a GPU's memory, for everything but frames and images
_RESERVE_PER_PIXEL = 400  # bytes, of the images of a step: twice all that a step took at 82,774 Gaussians and 550x802


@dataclass(frozen=True)
class Batch:
    """The frames of one step."""

    step: int
    frames: np.ndarray
    """`[B, 2]` int64 timestep and camera."""
    images: Tensor
    """`[B, H, W, 3]` uint8 RGB on white, on the device that computes."""


def batches(
    store: FrameStore,
    frames: np.ndarray,
    per_step: int,
    steps: range,
    seed: int,
    *,
    memory_mib: float,
    gpu_memory_mib: float | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """The batches of `steps`, in order; the same ones wherever frames are kept.

    Args:
        frames: `[M, 2]` int64 (timestep, camera), what may be chosen.
        per_step: frames in one batch.
        steps: which steps to yield.
        seed: of the choice.
        memory_mib: all frames are decoded once and kept in main memory when they need at most this many MiB.
            Otherwise they are decoded ahead of the step that uses them.
        gpu_memory_mib: the same for the memory of the GPU, which is tried first. Default is what it has free, less
            what a fit needs for everything else.
        device: where batches are used.
    """
    if not steps:
        return
    device = torch.device(device)
    choose = functools.partial(chosen, len(frames), per_step, seed=seed)
    sample = store.images(frames[:1])[0]
    need_mib = len(frames) * sample.nbytes / _MIB
    if device.type == "cuda" and gpu_memory_mib is None:
        pixels = per_step * sample.shape[0] * sample.shape[1]
        gpu_memory_mib = torch.cuda.mem_get_info(device)[0] / _MIB - _RESERVE_MIB - pixels * _RESERVE_PER_PIXEL / _MIB
    if device.type == "cuda" and gpu_memory_mib is not None and need_mib <= gpu_memory_mib:
        yield from _from_device(read(store, frames, device), frames, steps, choose)
    elif need_mib <= memory_mib and device.type == "cpu":
        yield from _from_device(read(store, frames), frames, steps, choose)
    elif need_mib <= memory_mib:
        yield from _streamed(Decoded(store, frames), frames, steps, choose, device)
    else:
        yield from _streamed(store, frames, steps, choose, device)


def _from_device(
    images: Tensor, frames: np.ndarray, steps: range, choose: Callable[[int], np.ndarray]
) -> Iterator[Batch]:
    for step in steps:
        index = choose(step)
        yield Batch(step, frames[index], images.index_select(0, upload(torch.from_numpy(index), images.device)))


def _streamed(
    store: FrameStore, frames: np.ndarray, steps: range, choose: Callable[[int], np.ndarray], device: torch.device
) -> Iterator[Batch]:
    images = read_ahead(store, (frames[choose(step)] for step in steps), device)
    for step, part in zip(steps, images, strict=True):
        yield Batch(step, frames[choose(step)], part)

"""Which training frames each step sees, and getting them decoded in time."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from osgap.runtime.pinned import upload
from osgap.runtime.seeds import derive_seed

_AHEAD = 3  # chunks that are being decoded while one is in use
_CHUNK = 16  # frames
_MIB = 2**20
_RESERVE_MIB = 2048  # of a GPU's memory, for everything but frames and images
_RESERVE_PER_PIXEL = 400  # bytes, of the images of a step: twice all that a step took at 82,774 Gaussians and 550x802


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
    """`[B, H, W, 3]` uint8 RGB on white, on the device that computes."""


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


def read(store: FrameStore, frames: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """`[M, H, W, 3]` uint8 images of frames `[M, 2]`, M > 0, decoded in threads."""
    images: Tensor | None = None
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(frames), _CHUNK)]
    for chunk, part in zip(chunks, read_ahead(store, (frames[chunk] for chunk in chunks), device), strict=True):
        if images is None:
            images = part.new_empty(len(frames), *part.shape[1:])
        images[chunk] = part
    assert images is not None
    return images


def read_ahead(store: FrameStore, chunks: Iterable[np.ndarray], device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """Images of chunks of frames, decoded in threads and copied to the device while earlier ones are in use.

    Args:
        chunks: of frames `[b, 2]`, b > 0, each.

    Yields:
        `[b, H, W, 3]` uint8 on the device, for each chunk.
    """
    device = torch.device(device)
    pinned = device.type == "cuda"
    copying = torch.cuda.Stream(device) if pinned else None
    chunks = iter(chunks)
    pending: deque[tuple[Tensor, list[Future[None]]]] = deque()
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        shape: tuple[int, ...] | None = None
        while True:
            while len(pending) < _AHEAD and (chunk := next(chunks, None)) is not None:
                if shape is None:
                    shape = store.images(chunk[:1]).shape[1:]
                images = torch.empty(len(chunk), *shape, dtype=torch.uint8, pin_memory=pinned)
                pending.append((images, [pool.submit(_decode, store, chunk, row, images) for row in range(len(chunk))]))
            if not pending:
                return
            images, decoded = pending.popleft()
            for future in decoded:
                future.result()
            if copying is None:
                yield images
                continue
            using = torch.cuda.current_stream(device)
            with torch.cuda.stream(copying):
                copied = images.to(device, non_blocking=True)
            using.wait_stream(copying)
            copied.record_stream(using)
            yield copied


def _decode(store: FrameStore, frames: np.ndarray, row: int, into: Tensor) -> None:
    into[row] = torch.from_numpy(store.images(frames[row : row + 1])[0])


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


class Decoded:
    """Frames of a store, decoded once into main memory: as a store that need not decode."""

    def __init__(self, store: FrameStore, frames: np.ndarray) -> None:
        """Read them.

        Args:
            frames: `[M, 2]` int64 (timestep, camera), M > 0, that will be asked for.
        """
        self._pixels = read(store, frames).numpy()
        self._rows = {(timestep, camera): row for row, (timestep, camera) in enumerate(frames.tolist())}

    def images(self, frames: np.ndarray) -> np.ndarray:
        """`[B, H, W, 3]` uint8 RGB of frames `[B, 2]`."""
        return self._pixels[[self._rows[timestep, camera] for timestep, camera in frames.tolist()]]

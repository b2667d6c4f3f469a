"""Getting a capture's frames decoded in time: ahead of their use, or all of them once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from osgap.runtime.prefetch import in_threads

_AHEAD = 2  # chunks that are decoded, or being decoded, while one is in use
_CHUNK = 16  # frames


class FrameStore(Protocol):
    """What is needed of `osgap.capture.store.CaptureStore`."""

    def images(self, frames: np.ndarray) -> np.ndarray:
        """`[B, H, W, 3]` uint8 RGB of frames `[B, 2]` (timestep, camera)."""


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

    Every frame is a task of its own, so that small chunks keep all threads busy too.

    Args:
        chunks: of frames `[b, 2]`, b > 0, each; as many in all, but for the last.

    Yields:
        `[b, H, W, 3]` uint8 on the device, for each chunk.
    """
    device = torch.device(device)
    copying = torch.cuda.Stream(device) if device.type == "cuda" else None
    chunks = iter(chunks)
    first = next(chunks, None)
    if first is None:
        return
    shape = store.images(first[:1]).shape[1:]
    tasks = _decoding(store, itertools.chain([first], chunks), shape, pinned=copying is not None)
    with closing(in_threads(tasks, depth=_AHEAD * len(first), name="decode")) as decoded:
        for images in decoded:
            if images is None:  # not the last frame of its chunk
                continue
            yield images if copying is None else _copied(images, copying)


def _decoding(
    store: FrameStore, chunks: Iterable[np.ndarray], shape: tuple[int, ...], pinned: bool
) -> Iterator[Callable[[], Tensor | None]]:
    """What is to be done for each frame; the last one of a chunk has the chunk's images as its result."""
    for chunk in chunks:
        images = torch.empty(len(chunk), *shape, dtype=torch.uint8, pin_memory=pinned)
        for row in range(len(chunk)):
            yield partial(_decode, store, chunk, row, images)


def _decode(store: FrameStore, frames: np.ndarray, row: int, into: Tensor) -> Tensor | None:
    into[row] = torch.from_numpy(store.images(frames[row : row + 1])[0])
    return into if row == len(frames) - 1 else None


def _copied(images: Tensor, copying: torch.cuda.Stream) -> Tensor:
    """Pinned images on the device, by a stream that does not wait for what the device is doing."""
    using = torch.cuda.current_stream(copying.device)
    with torch.cuda.stream(copying):
        copied = images.to(copying.device, non_blocking=True)
    using.wait_stream(copying)
    copied.record_stream(using)
    return copied


class Decoded:
    """Frames of a store, decoded once into main memory: as a store that need not decode."""

    def __init__(self, store: FrameStore, frames: np.ndarray) -> None:
        """Args:
        frames: `[M, 2]` int64 (timestep, camera), M > 0, that will be asked for.
        """
        self._pixels = read(store, frames).numpy()
        self._rows = {(timestep, camera): row for row, (timestep, camera) in enumerate(frames.tolist())}

    def images(self, frames: np.ndarray) -> np.ndarray:
        """`[B, H, W, 3]` uint8 RGB of frames `[B, 2]`."""
        return self._pixels[[self._rows[timestep, camera] for timestep, camera in frames.tolist()]]

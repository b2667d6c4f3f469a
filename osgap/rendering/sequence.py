"""Rendering of many frames: batched, and copied to the host while the next batch is rendered."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.splat.animation import Animation
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import Rendered, render

_AT_ONCE = 16
_PIXELS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 23}  # 16 frames of 550x802 are 7 million

T = TypeVar("T")


def frames(
    avatar: Avatar, head: HeadModel, params: FlameParams, cameras: Cameras, background: Tensor | None = None
) -> Iterator[Tensor]:
    """Render one frame for each pair of timestep and camera, in batches.

    The person's identity is folded into the head once. Frames become bytes on the device; on a GPU the next batch is
    rendered while they are copied into pinned memory. That memory is reused once nobody holds the tensors any more,
    so a consumer that lets go of what it has used needs a few batches of it, whatever the number of frames.

    Args:
        avatar: on the device to render on.
        head: the head model that the avatar is bound to, on the same device.
        params: `F` timesteps, or one that all frames show.
        cameras: `[F]` cameras, or one that all frames are seen by.
        background: `[3]` RGB in [0, 1]. None: transparent.

    Yields:
        `[b, H, W, 3]` uint8 RGB in host memory, in order; `[b, H, W, 4]` with straight (not premultiplied) alpha where
        the background is transparent. `b` is at most 16, and less for large images.

    Raises:
        ValueError: when there are several timesteps and several cameras, but not as many.
        UserError: see `Avatar.gaussians` and `osgap.splat.render.render`.
    """
    if cameras.batch is None:
        cameras = Cameras(cameras.world_to_camera[None], cameras.intrinsics[None], cameras.width, cameras.height)
    counts = {params.timesteps, len(cameras)}
    if 0 in counts or len(counts - {1}) > 1:
        raise ValueError(
            f"frames takes as many timesteps as cameras, or one of either; got {params.timesteps} timesteps and "
            f"{len(cameras)} cameras"
        )
    device = head.device
    background = None if background is None else background.to(device)
    return _render(avatar, head, params.to(device), cameras.to(device), background, max(counts))


@torch.no_grad()
def _render(
    avatar: Avatar, head: HeadModel, params: FlameParams, cameras: Cameras, background: Tensor | None, count: int
) -> Iterator[Tensor]:
    size = max(1, min(_AT_ONCE, _PIXELS_AT_ONCE[head.device.type] // (cameras.width * cameras.height)))
    opacities, colors = avatar.attributes.opacities(), avatar.attributes.colors()  # these do not move
    animation = Animation(avatar, head, params)
    to_host = _ToHost(head.device)
    still: Gaussians | None = None
    copies: deque[_Copy] = deque()
    for start in range(0, count, size):
        part = slice(start, start + size)
        gaussians = still
        if gaussians is None:
            shown = range(count)[part] if params.timesteps > 1 else range(1)
            posed = animation.gaussians(torch.tensor(shown))
            gaussians = Gaussians(posed.means, posed.rotations, posed.scales, opacities, colors)
        if params.timesteps == 1:
            still = gaussians
        views = cameras[part] if len(cameras) > 1 else cameras
        copies.append(to_host.copy(_bytes(render(gaussians, views, background), background is None)))
        if len(copies) > 1 or copies[0].event is None:
            yield copies.popleft().arrived()
    while copies:
        yield copies.popleft().arrived()


def _bytes(rendered: Rendered, transparent: bool) -> Tensor:
    pixels = rendered.rgb
    if transparent:  # rendered over black, colours are multiplied by alpha
        alpha = rendered.alpha[..., None]
        pixels = torch.cat([pixels / alpha.clamp_min(1e-6), alpha], dim=-1)
    return pixels.clamp(0, 1).mul_(255).round_().to(torch.uint8)


@dataclass(frozen=True)
class _Copy:
    """Bytes on their way to the host."""

    pixels: Tensor
    event: torch.cuda.Event | None

    def arrived(self) -> Tensor:
        if self.event is not None:
            self.event.synchronize()
        return self.pixels


class _ToHost:
    """Copies to the host on a stream of their own, beside the rendering."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def copy(self, pixels: Tensor) -> _Copy:
        if self._stream is None:
            return _Copy(pixels, None)
        # torch keeps pinned memory and hands it out again: only the first batches pay for pinning.
        host = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(pixels.device))
        with torch.cuda.stream(self._stream):
            host.copy_(pixels, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        pixels.record_stream(self._stream)
        return _Copy(host, event)


def singly(batches: Iterable[Tensor]) -> Iterator[np.ndarray]:
    """One frame `[H, W, C]` after the other of batches in host memory, which they share."""
    for batch in batches:
        yield from batch.numpy()
        del batch  # before the next one is asked for, so that its memory can be that one's


@dataclass(frozen=True)
class _Made(Generic[T]):
    item: T


def ahead(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """Iterate in a thread of its own, so that the next items are made while the consumer is busy with one.

    An error of the producer is raised here, in its turn. When the consumer stops, for whatever reason, the producer is
    closed after the item that it is at, and its thread has ended when the generator is closed; use `closing`, because
    the traceback of an error keeps generators open.

    Args:
        items: whatever makes them is run in the thread.
        depth: how many items may be made and wait.
    """
    made: SimpleQueue[_Made[T] | BaseException | None] = SimpleQueue()
    free = threading.Semaphore(depth)
    stopped = threading.Event()

    def produce() -> None:
        end: BaseException | None = None
        iterator = iter(items)
        try:
            while True:
                free.acquire()
                if stopped.is_set():
                    break
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                made.put(_Made(item))
                del item  # it is the consumer's: here it would outlive the use of it
            if (close := getattr(iterator, "close", None)) is not None:
                close()
        except BaseException as error:
            end = error
        made.put(end)

    thread = threading.Thread(target=produce, name="render-ahead", daemon=True)
    thread.start()
    try:
        while isinstance(found := made.get(), _Made):
            free.release()
            yield found.item
            del found
        if found is not None:
            raise found
    finally:
        stopped.set()
        free.release()
        thread.join()

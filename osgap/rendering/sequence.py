"""The frames of a clip: bytes in host memory, copied there while the next ones are rendered."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.runtime.pixels import to_bytes
from osgap.splat.animation import Animation
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import Rendered
from osgap.splat.sequence import Pose, frames_at_once, render_parts

_AT_ONCE = 16  # frames, or less where these have too many pixels: 16 of 550x802 are few enough on a GPU


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
    timesteps = torch.arange(count) if params.timesteps > 1 else torch.zeros(count, dtype=torch.int64)
    size = min(_AT_ONCE, frames_at_once(cameras, head.device))
    to_host = _ToHost(head.device)
    copies: deque[_Copy] = deque()
    for rendered in render_parts(_posing(avatar, head, params), timesteps, cameras, background, size):
        copies.append(to_host.copy(_bytes(rendered, background is None)))
        del rendered  # its memory is the next part's
        if len(copies) > 1 or copies[0].event is None:
            yield copies.popleft().arrived()
    while copies:
        yield copies.popleft().arrived()


def _posing(avatar: Avatar, head: HeadModel, params: FlameParams) -> Pose:
    animation = Animation(avatar, head, params)
    opacities, colors = avatar.attributes.opacities(), avatar.attributes.colors()  # these do not move

    def pose(timesteps: Tensor) -> Gaussians:
        posed = animation.gaussians(timesteps)
        return Gaussians(posed.means, posed.rotations, posed.scales, opacities, colors)

    if params.timesteps > 1:
        return pose
    still = pose(torch.zeros(1, dtype=torch.int64))
    return lambda timesteps: still


def _bytes(rendered: Rendered, transparent: bool) -> Tensor:
    pixels = rendered.rgb
    if transparent:  # rendered over black, colours are multiplied by alpha
        alpha = rendered.alpha[..., None]
        pixels = torch.cat([pixels / alpha.clamp_min(1e-6), alpha], dim=-1)
    return to_bytes(pixels)


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

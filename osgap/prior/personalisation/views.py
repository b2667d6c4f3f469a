"""What the avatar is compared with in each step: all photographs of one moment, or some of all training frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from osgap.capture.batches import batches
from osgap.capture.choice import chosen
from osgap.prior.personalisation.answer import stacked_cameras
from osgap.prior.photo import ShownCapture, SourcePhoto
from osgap.runtime.pinned import upload
from osgap.runtime.pixels import to_float
from osgap.runtime.seeds import derive_seed
from osgap.splat.cameras import Cameras

_SAMPLE = 64  # frames of `all_frames` that decide what is seen of the head
_FRAME_MEMORY_MIB = 3072  # of decoded training frames; more are decoded ahead of each step


@dataclass(frozen=True)
class Views:
    """Photographs of one person as renderings are compared with them: P of them, all on one device."""

    images: Tensor
    """`[P, H, W, 3]` RGB in 0..1, on white."""
    masks: Tensor
    """`[P, H, W]` coverage, 0..1."""
    cameras: Cameras
    """A batch of P."""
    moments: Tensor
    """`[P]` int64 which of the moments that are shown each is of; `[1]` where all are of one moment."""


class FewPhotos:
    """Photographs of one moment: every step is compared with all of them."""

    def __init__(self, photos: Sequence[SourcePhoto], device: torch.device) -> None:
        self.motion = photos[0].params.to(device)
        """The tracked motion of the moments that are shown: one."""
        self.first = 0
        """Which of the moments the network reads."""
        self._views = Views(
            images=torch.stack([photo.image for photo in photos]).to(device),
            masks=torch.stack([photo.mask for photo in photos]).to(device),
            cameras=stacked_cameras(photos).to(device),
            moments=torch.zeros(1, dtype=torch.int64, device=device),
        )

    def sample(self) -> Iterator[Views]:
        """All that is seen."""
        yield self._views

    def views(self, steps: range) -> Iterator[Views]:
        """What each of the steps is compared with."""
        return itertools.repeat(self._views, len(steps))


class AllFrames:
    """All training frames: every step is compared with some of them, each with the head at its own moment.

    Frames are decoded once where memory allows and the steps come round to them again, else ahead of their steps.
    """

    def __init__(self, shown: ShownCapture, device: torch.device, per_step: int, seed: int) -> None:
        self._shown, self._device, self._per_step, self._seed = shown, device, per_step, seed
        timesteps = np.unique(shown.frames[:, 0])
        self._rows = {timestep: row for row, timestep in enumerate(timesteps.tolist())}
        self.motion = shown.motion(timesteps).to(device)
        """The tracked motion of the moments that are shown."""
        self.first = self._rows[int(shown.frames[0, 0])]
        """Which of the moments the network reads."""

    def sample(self) -> Iterator[Views]:
        """Some of the frames, which show what is seen at all."""
        frames = self._shown.frames
        steps = max(1, min(_SAMPLE, len(frames)) // self._per_step)
        sample = frames[chosen(len(frames), steps * self._per_step, 0, derive_seed(self._seed, "sample"))]
        return self._batches(sample, range(steps), memory_mib=0)

    def views(self, steps: range) -> Iterator[Views]:
        """What each of the steps is compared with."""
        again = len(steps) * self._per_step > len(self._shown.frames)
        return self._batches(self._shown.frames, steps, memory_mib=_FRAME_MEMORY_MIB if again else 0)

    def _batches(self, frames: np.ndarray, steps: range, memory_mib: float) -> Iterator[Views]:
        for batch in batches(
            self._shown,
            frames,
            self._per_step,
            steps,
            self._seed,
            memory_mib=memory_mib,
            gpu_memory_mib=0,  # the network needs it
            device=self._device,
        ):
            rows = torch.tensor([self._rows[timestep] for timestep in batch.frames[:, 0].tolist()])
            cameras = self._shown.cameras(batch.frames)
            yield Views(
                images=to_float(batch.images[..., :3]),
                masks=to_float(batch.images[..., 3]),
                cameras=Cameras(
                    upload(cameras.world_to_camera, self._device),
                    upload(cameras.intrinsics, self._device),
                    cameras.width,
                    cameras.height,
                ),
                moments=upload(rows, self._device),
            )

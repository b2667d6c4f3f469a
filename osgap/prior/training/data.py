"""Training samples: which source and which targets every step sees, a function of the seed and the step alone.

Loader processes decode frames and nothing else (`TrainingSamples`); the training process makes of them what the network
and the losses read, on its device (`Assembly`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from osgap.capture.choice import chosen
from osgap.capture.store import CaptureStore
from osgap.head.params import FlameParams
from osgap.prior.augment import ColorChange, Framing, draw_color_change, draw_framing, reframed
from osgap.prior.config import PriorConfig
from osgap.prior.source import near_frontal, prepare_source
from osgap.runtime.errors import UserError
from osgap.runtime.pinned import upload
from osgap.runtime.pixels import to_float
from osgap.runtime.seeds import derive_seed
from osgap.splat.cameras import Cameras


@dataclass(frozen=True)
class Plan:
    """The frames of one sample; rows are (timestep, camera index)."""

    person: int
    source: np.ndarray
    """`[2]`."""
    targets: np.ndarray
    """`[V, 2]`, none of the source's timestep where the person has others."""
    seed: int | None
    """Of the sample's augmentation; None leaves it out."""


@dataclass(frozen=True)
class Frames:
    """What the S plans of a step show, as it was captured."""

    plans: list[Plan]
    images: Tensor
    """`[S, 1 + V, H, W, 3]` uint8 RGB on white; first the source, then the targets."""
    masks: Tensor
    """`[S, 1 + V, H, W]` uint8 coverage."""

    def pin_memory(self) -> Frames:
        """In memory that copies to a GPU do not wait for (torch's loader calls this)."""
        return Frames(self.plans, self.images.pin_memory(), self.masks.pin_memory())


@dataclass(frozen=True)
class Batch:
    """S sources, each with V targets of the same person; target `s * V + v` belongs to source `s`."""

    names: list[str]
    """One per source: person, source frame and target frames, for messages."""
    people: list[int]
    """One per source: which of the training people it shows."""
    sources: Tensor
    """`[S, 3, I, I]` RGB in 0..1, as the network reads them."""
    maps: Tensor
    """`[S, U, U, 14]` fitted maps, zero outside the covered texels."""
    images: Tensor
    """`[S * V, H, W, 3]` target images, RGB in 0..1, on white."""
    masks: Tensor
    """`[S * V, H, W]` coverage of the targets, 0..1."""
    cameras: Cameras
    """`S * V` cameras of the targets."""
    params: list[FlameParams]
    """One per source: the V timesteps of its targets."""


class TrainingSamples(Dataset[Frames]):
    """The frames of every step; picklable, so that loader processes can decode.

    Args:
        captures: one capture store per person; only frames of the `train` split are used.
        config: settings of the stage.
        seed: of all choices.
        rank: this process, of `world` that train together; each sees other samples.

    Raises:
        UserError: a capture without training frames, or captures of different image sizes.
    """

    def __init__(self, captures: Sequence[Path], config: PriorConfig, seed: int, rank: int = 0, world: int = 1) -> None:
        self.stores = [CaptureStore(path) for path in captures]
        self.config, self.seed = config, seed
        self.rank, self.world = rank, world
        self.frames = [np.asarray(store.split("train")) for store in self.stores]
        for store, path, frames in zip(self.stores, captures, self.frames, strict=True):
            if len(frames) < 2:
                raise UserError(f"{path}: {len(frames)} training frames of {store.subject}; the prior needs 2 or more")
        sizes = {store.subject: (store.cameras.width, store.cameras.height) for store in self.stores}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{subject} {width}x{height}" for subject, (width, height) in sizes.items())
            raise UserError(f"the captures' images differ in size ({listed}); import all people at one size")
        self.source_frames = [
            frames[np.isin(frames[:, 1], near_frontal(store.cameras, store.params, frames, config.source_cameras))]
            for store, frames in zip(self.stores, self.frames, strict=True)
        ]

    @property
    def params(self) -> list[FlameParams]:
        """Of every person, as tracked."""
        return [store.params for store in self.stores]  # not kept: loader processes do not need them

    def __len__(self) -> int:
        return self.config.steps

    def plan(self, step: int) -> list[Plan]:
        """What one step of this rank sees: each person once before anyone is seen again."""
        count, turn = self.config.sources, step * self.world + self.rank
        people = chosen(len(self.stores), count, turn, self.seed)
        return [self._plan(int(person), turn * count + i) for i, person in enumerate(people)]

    def _plan(self, person: int, sample: int) -> Plan:
        seed = derive_seed(self.seed, "sample", sample)
        random = np.random.default_rng(seed)
        source = random.choice(self.source_frames[person])
        frames = self.frames[person]
        others = frames[frames[:, 0] != source[0]]
        pool = others if len(others) else frames
        targets = random.choice(pool, self.config.targets, replace=len(pool) < self.config.targets)
        return Plan(person, source, targets, derive_seed(seed, "augment"))

    def __getitem__(self, step: int) -> Frames:
        return self.decode(self.plan(step))

    def decode(self, plans: Sequence[Plan]) -> Frames:
        """Read the frames of plans."""
        images, masks = [], []
        for plan in plans:
            frames = np.concatenate([plan.source[None], plan.targets])
            images.append(torch.from_numpy(self.stores[plan.person].images(frames)))
            masks.append(torch.from_numpy(self.stores[plan.person].masks(frames)))
        return Frames(list(plans), torch.stack(images), torch.stack(masks))


class Assembly:
    """Makes batches of frames on a device, augmented as their plans say.

    Args:
        samples: whose frames they are.
        maps: fitted maps, `[P, U, U, 14]`, in the order of the samples' people.
        mask: covered texels, bool `[U, U]`.
        device: where batches are used.
    """

    def __init__(
        self, samples: TrainingSamples, maps: Tensor, mask: Tensor, device: torch.device | str = "cpu"
    ) -> None:
        self.samples, self.device = samples, torch.device(device)
        self._maps, self._mask = maps.to(device), mask.to(device)
        self._params = [params.to(device) for params in samples.params]
        self._cameras = [store.cameras.to(device) for store in samples.stores]

    def batch(self, frames: Frames) -> Batch:
        """The batch of one step. Nothing here waits for the device."""
        config, plans = self.samples.config, frames.plans
        images = to_float(frames.images.to(self.device, non_blocking=True))
        masks = to_float(frames.masks.to(self.device, non_blocking=True))
        changed = [self._colored(plan, *sample) for plan, *sample in zip(plans, images, masks, strict=True)]
        images, maps = (torch.stack(parts) for parts in zip(*changed, strict=True))
        targets = upload(torch.from_numpy(np.stack([plan.targets for plan in plans])), self.device)
        cameras = [self._cameras[plan.person][row[:, 1]] for plan, row in zip(plans, targets, strict=True)]
        return Batch(
            names=[self._name(plan) for plan in plans],
            people=[plan.person for plan in plans],
            sources=reframed(prepare_source(images[:, 0], config.encoder.input_size), list(map(self._framing, plans))),
            maps=maps,
            images=images[:, 1:].flatten(0, 1),
            masks=masks[:, 1:].flatten(0, 1),
            cameras=Cameras(
                torch.cat([camera.world_to_camera for camera in cameras]),
                torch.cat([camera.intrinsics for camera in cameras]),
                cameras[0].width,
                cameras[0].height,
            ),
            params=[self._params[plan.person].select(row[:, 0]) for plan, row in zip(plans, targets, strict=True)],
        )

    def _colored(self, plan: Plan, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[1 + V, H, W, 3]` and the map `[U, U, 14]` of a sample in its colours."""
        maps = self._maps[plan.person]
        if plan.seed is None:
            return images, maps
        drawn = draw_color_change(self.samples.config.augment, np.random.default_rng(plan.seed))
        both = upload(torch.cat([drawn.matrix, drawn.offset[:, None]], dim=1), self.device)
        change = ColorChange(both[:, :3], both[:, 3])
        return change.image(images, masks), change.uv(maps, self._mask)

    def _framing(self, plan: Plan) -> Framing:
        if plan.seed is None:
            return Framing()
        random = np.random.default_rng(plan.seed)
        draw_color_change(self.samples.config.augment, random)  # comes first in the sequence of random numbers
        return draw_framing(self.samples.config.augment, random)

    def _name(self, plan: Plan) -> str:
        targets = ", ".join(map(_frame, plan.targets))
        return f"{self.samples.stores[plan.person].subject}: source {_frame(plan.source)}, targets {targets}"


def _frame(frame: np.ndarray) -> str:
    return f"t{int(frame[0])}/c{int(frame[1])}"

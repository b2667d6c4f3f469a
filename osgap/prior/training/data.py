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
from osgap.prior.augment import ColorChange, Framing, draw_color_change, draw_framing, draw_slip, framed
from osgap.prior.config import PriorConfig
from osgap.prior.photographs import Photographs, photographs
from osgap.prior.posing import Rig
from osgap.prior.source import near_frontal
from osgap.runtime.errors import UserError
from osgap.runtime.pinned import upload
from osgap.runtime.pixels import to_float
from osgap.runtime.seeds import derive_seed
from osgap.splat.cameras import Cameras


@dataclass(frozen=True)
class Plan:
    """The frames of one sample; rows are (timestep, camera index)."""

    person: int
    sources: np.ndarray
    """`[K, 2]`, what the network reads: photographs of one moment, the first from a frontal camera."""
    targets: np.ndarray
    """`[V, 2]`, none of the sources' timestep where the person has others."""
    seed: int | None
    """Of the sample's augmentation; None leaves it out."""


@dataclass(frozen=True)
class Frames:
    """What the S plans of a step show, as it was captured."""

    plans: list[Plan]
    images: Tensor
    """`[S, K + V, H, W, 3]` uint8 RGB on white; first the sources, then the targets."""
    masks: Tensor
    """`[S, K + V, H, W]` uint8 coverage."""

    def pin_memory(self) -> Frames:
        """In memory that copies to a GPU do not wait for (torch's loader calls this)."""
        return Frames(self.plans, self.images.pin_memory(), self.masks.pin_memory())


@dataclass(frozen=True)
class Batch:
    """S samples, each with V targets of the person whom the network reads; target `s * V + v` belongs to sample `s`."""

    names: list[str]
    """One per sample: person, source frames and target frames, for messages."""
    people: list[int]
    """One per sample: which of the training people it shows."""
    sources: Photographs
    """K of each of S people."""
    maps: Tensor
    """`[S, U, U, 14]` fitted maps, zero outside the covered texels."""
    images: Tensor
    """`[S * V, H, W, 3]` target images, RGB in 0..1, on white."""
    masks: Tensor
    """`[S * V, H, W]` coverage of the targets, 0..1."""
    cameras: Cameras
    """`S * V` cameras of the targets."""
    params: list[FlameParams]
    """One per sample: the V timesteps of its targets."""
    corners: list[tuple[float, float]]
    """One per target: where the part of it lies that LPIPS compares, as fractions of the room down and to the right."""


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
        read = self._photographs(step)
        return [self._plan(int(person), turn * count + i, read) for i, person in enumerate(people)]

    def _photographs(self, step: int) -> int:
        """How many photographs the network reads of each person in one step, on all ranks."""
        if self.config.architecture == "published" or self.config.photographs == 1:
            return 1
        random = np.random.default_rng(derive_seed(self.seed, "photographs", step))
        return 1 if random.random() < 0.5 else int(random.integers(2, self.config.photographs + 1))

    def _plan(self, person: int, sample: int, read: int) -> Plan:
        seed = derive_seed(self.seed, "sample", sample)
        random = np.random.default_rng(seed)
        source = random.choice(self.source_frames[person])
        frames = self.frames[person]
        others = frames[frames[:, 0] != source[0]]
        pool = others if len(others) else frames
        targets = random.choice(pool, self.config.targets, replace=len(pool) < self.config.targets)
        here = frames[(frames[:, 0] == source[0]) & (frames[:, 1] != source[1])]
        here = here if len(here) else source[None]
        further = random.choice(here, read - 1, replace=len(here) < read - 1)
        return Plan(person, np.concatenate([source[None], further]), targets, derive_seed(seed, "augment"))

    def __getitem__(self, step: int) -> Frames:
        return self.decode(self.plan(step))

    def decode(self, plans: Sequence[Plan]) -> Frames:
        """Read the frames of plans."""
        images, masks = [], []
        for plan in plans:
            frames = np.concatenate([plan.sources, plan.targets])
            images.append(torch.from_numpy(self.stores[plan.person].images(frames)))
            masks.append(torch.from_numpy(self.stores[plan.person].masks(frames)))
        return Frames(list(plans), torch.stack(images), torch.stack(masks))


class Assembly:
    """Makes batches of frames on a device, augmented as their plans say.

    Args:
        samples: whose frames they are.
        maps: fitted maps, `[P, U, U, 14]`, in the order of the samples' people.
        rig: of these people, on the device where batches are used.
    """

    def __init__(self, samples: TrainingSamples, maps: Tensor, rig: Rig) -> None:
        self.samples, self.rig, self.device = samples, rig, rig.binding.mask.device
        self._maps = maps.to(self.device)
        self._params = [params.to(self.device) for params in samples.params]
        self._cameras = [store.cameras.to(self.device) for store in samples.stores]

    def batch(self, frames: Frames) -> Batch:
        """The batch of one step. Nothing here waits for the device."""
        plans = frames.plans
        read = len(plans[0].sources)
        images = to_float(frames.images.to(self.device, non_blocking=True))
        masks = to_float(frames.masks.to(self.device, non_blocking=True))
        changed = [self._colored(plan, *sample) for plan, *sample in zip(plans, images, masks, strict=True)]
        images, maps = (torch.stack(parts) for parts in zip(*changed, strict=True))
        cameras, params = self._geometry(plans, [plan.targets for plan in plans])
        return Batch(
            names=[self._name(plan) for plan in plans],
            people=[plan.person for plan in plans],
            sources=self._sources(plans, images[:, :read]),
            maps=maps,
            images=images[:, read:].flatten(0, 1),
            masks=masks[:, read:].flatten(0, 1),
            cameras=cameras,
            params=params,
            corners=[corner for plan in plans for corner in _corners(plan)],
        )

    def _geometry(self, plans: Sequence[Plan], frames: Sequence[np.ndarray]) -> tuple[Cameras, list[FlameParams]]:
        """Cameras of the same number of frames of each plan, all in one batch, and each plan's parameters there."""
        rows = upload(torch.from_numpy(np.stack(frames)), self.device)
        cameras = [self._cameras[plan.person][row[:, 1]] for plan, row in zip(plans, rows, strict=True)]
        together = Cameras(
            torch.cat([camera.world_to_camera for camera in cameras]),
            torch.cat([camera.intrinsics for camera in cameras]),
            cameras[0].width,
            cameras[0].height,
        )
        return together, [self._params[plan.person].select(row[:, 0]) for plan, row in zip(plans, rows, strict=True)]

    def _sources(self, plans: Sequence[Plan], images: Tensor) -> Photographs:
        """What the network reads, of images `[S, K, H, W, 3]`."""
        config = self.samples.config
        cameras, params = self._geometry(plans, [plan.sources for plan in plans])
        people = [plan.person for plan in plans]
        asked = config.architecture != "published"
        read = photographs(self.rig, people, params, cameras, images, config.network.input_size, views=asked)
        drawn = [framing for plan in plans for framing in self._framings(plan)]
        return framed(read, [framing for framing, _ in drawn], [slip for _, slip in drawn])

    def _colored(self, plan: Plan, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[1 + V, H, W, 3]` and the map `[U, U, 14]` of a sample in its colours."""
        maps = self._maps[plan.person]
        if plan.seed is None:
            return images, maps
        drawn = draw_color_change(self.samples.config.augment, np.random.default_rng(plan.seed))
        both = upload(torch.cat([drawn.matrix, drawn.offset[:, None]], dim=1), self.device)
        change = ColorChange(both[:, :3], both[:, 3])
        return change.image(images, masks), change.uv(maps, self.rig.binding.mask)

    def _framings(self, plan: Plan) -> list[tuple[Framing, tuple[float, float]]]:
        """Of each photograph of a sample, its framing and how far places in it slip."""
        if plan.seed is None:
            return [(Framing(), (0.0, 0.0))] * len(plan.sources)
        config, random = self.samples.config.augment, np.random.default_rng(plan.seed)
        draw_color_change(config, random)  # comes first in the sequence of random numbers
        return [(draw_framing(config, random), draw_slip(config, random)) for _ in plan.sources]

    def _name(self, plan: Plan) -> str:
        sources, targets = (", ".join(map(_frame, frames)) for frames in (plan.sources, plan.targets))
        return f"{self.samples.stores[plan.person].subject}: source {sources}, targets {targets}"


def _corners(plan: Plan) -> list[tuple[float, float]]:
    """Of each target of a plan, see `Batch.corners`."""
    if plan.seed is None:
        return [(0.5, 0.5)] * len(plan.targets)
    drawn = np.random.default_rng(derive_seed(plan.seed, "crop")).random((len(plan.targets), 2))
    return [(float(down), float(right)) for down, right in drawn]


def _frame(frame: np.ndarray) -> str:
    return f"t{int(frame[0])}/c{int(frame[1])}"

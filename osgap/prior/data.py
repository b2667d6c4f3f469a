"""Training samples: which source and which targets every step sees, a function of the seed and the step alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from osgap.capture.store import CaptureStore
from osgap.errors import UserError
from osgap.fit.frames import chosen
from osgap.head.params import FlameParams
from osgap.prior.augment import Framing, draw_color_change, draw_framing
from osgap.prior.config import PriorConfig
from osgap.prior.source import near_frontal, prepare_source, to_float
from osgap.seeds import derive_seed
from osgap.splat.cameras import Cameras


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

    def to(self, device: torch.device | str) -> Batch:
        """Everything on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("sources", "maps", "images", "masks", "cameras")}
        return dataclasses.replace(self, **moved, params=[params.to(device) for params in self.params])


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


class TrainingSamples(Dataset[Batch]):
    """The batch of every step; picklable, so that loader processes can decode.

    Args:
        captures: one capture store per person; only frames of the `train` split are used.
        maps: fitted maps, `[P, U, U, 14]`, in the same order.
        mask: covered texels, `[U, U]`.
        config: settings of the stage.
        seed: of all choices.
        rank: this process, of `world` that train together; each sees other samples.

    Raises:
        UserError: a capture without training frames, or captures of different image sizes.
    """

    def __init__(
        self,
        captures: Sequence[Path],
        maps: Tensor,
        mask: Tensor,
        config: PriorConfig,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.stores = [CaptureStore(path) for path in captures]
        self.maps, self.mask, self.config, self.seed = maps, mask, config, seed
        self.rank, self.world = rank, world
        self.params = [store.params for store in self.stores]
        self.frames = [np.asarray(store.split("train")) for store in self.stores]
        for store, path, frames in zip(self.stores, captures, self.frames, strict=True):
            if len(frames) < 2:
                raise UserError(f"{path}: {len(frames)} training frames of {store.subject}; the prior needs 2 or more")
        sizes = {store.subject: (store.cameras.width, store.cameras.height) for store in self.stores}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{subject} {width}x{height}" for subject, (width, height) in sizes.items())
            raise UserError(f"the captures' images differ in size ({listed}); import all people at one size")
        self.source_frames = [
            frames[np.isin(frames[:, 1], near_frontal(store.cameras, params, frames, config.source_cameras))]
            for store, params, frames in zip(self.stores, self.params, self.frames, strict=True)
        ]

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

    def __getitem__(self, step: int) -> Batch:
        return collate([self.sample(plan) for plan in self.plan(step)])

    def sample(self, plan: Plan) -> Batch:
        """Decode and augment one sample (a batch with S = 1)."""
        store, augment = self.stores[plan.person], self.config.augment
        frames = np.concatenate([plan.source[None], plan.targets])
        images = to_float(torch.from_numpy(store.images(frames)))
        masks = to_float(torch.from_numpy(store.masks(frames)))
        maps = self.maps[plan.person]
        framing = Framing()
        if plan.seed is not None:
            random = np.random.default_rng(plan.seed)
            change = draw_color_change(augment, random)
            images, maps = change.image(images, masks), change.uv(maps, self.mask)
            framing = draw_framing(augment, random)
        return Batch(
            names=[f"{store.subject}: source {_name(plan.source)}, targets {', '.join(map(_name, plan.targets))}"],
            people=[plan.person],
            sources=framing.apply(prepare_source(images[:1], self.config.encoder.input_size)),
            maps=maps[None],
            images=images[1:],
            masks=masks[1:],
            cameras=store.cameras[torch.from_numpy(plan.targets[:, 1])],
            params=[self.params[plan.person].select(plan.targets[:, 0])],
        )


def collate(samples: Sequence[Batch]) -> Batch:
    """One batch of several."""
    cameras = [sample.cameras for sample in samples]
    return Batch(
        names=[name for sample in samples for name in sample.names],
        people=[person for sample in samples for person in sample.people],
        sources=torch.cat([sample.sources for sample in samples]),
        maps=torch.cat([sample.maps for sample in samples]),
        images=torch.cat([sample.images for sample in samples]),
        masks=torch.cat([sample.masks for sample in samples]),
        cameras=Cameras(
            torch.cat([camera.world_to_camera for camera in cameras]),
            torch.cat([camera.intrinsics for camera in cameras]),
            cameras[0].width,
            cameras[0].height,
        ),
        params=[params for sample in samples for params in sample.params],
    )


def _name(frame: np.ndarray) -> str:
    return f"t{int(frame[0])}/c{int(frame[1])}"

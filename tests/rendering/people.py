"""People to make clips of: painted avatars on the small head of the tests, and their captures (without pictures)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from osgap.capture.store_writing import Capture, write_store
from osgap.fit.initial import initial_attributes
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.head.params import MOTION_WIDTHS, FlameParams
from osgap.head.texels import bind_texels
from osgap.runtime.provenance import Provenance
from osgap.splat.attributes import GaussianAttributes, rgb_to_sh
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras

WIDTH, HEIGHT = 36, 48
SERIALS = ["100000001", "100000002", "100000003"]
FRONTAL = 1
SEQUENCES = {"EXP-2-eyes": 4, "EMO-1-shout+laugh": 3}
_UV_SIZE = 24


@dataclass(frozen=True)
class Person:
    """A person's files, and what is in them."""

    avatar: Avatar
    folder: Path
    capture: Path


@dataclass(frozen=True)
class World:
    """The head model and two people."""

    assets: HeadAssets
    head: HeadModel
    anna: Person
    bert: Person


def cameras() -> Cameras:
    """Three cameras from left to right at 60 cm, all looking at the origin, the second one from the front."""
    views = torch.eye(4).repeat(len(SERIALS), 1, 1)
    for i, yaw in enumerate(np.radians([-40, 0, 20])):
        back = torch.tensor([np.sin(yaw), 0.0, np.cos(yaw)], dtype=torch.float32)
        right = torch.tensor([np.cos(yaw), 0.0, -np.sin(yaw)], dtype=torch.float32)
        views[i, :3, :3] = torch.stack([right, torch.tensor([0.0, -1.0, 0.0]), -back])
        views[i, :3, 3] = torch.tensor([0.0, 0.0, 0.6])
    intrinsics = torch.tensor([[90.0, 0, WIDTH / 2 + 1], [0, 90.0, HEIGHT / 2 - 1], [0, 0, 1]])
    return Cameras(views, intrinsics.repeat(len(SERIALS), 1, 1), WIDTH, HEIGHT)


def make_world(folder: Path, assets: HeadAssets) -> World:
    head = load_head(assets)
    return World(assets, head, *(_person(folder, head, name, seed) for name, seed in (("anna", 1), ("bert", 2))))


def _person(folder: Path, head: HeadModel, name: str, seed: int) -> Person:
    random = torch.Generator().manual_seed(seed)
    binding = bind_texels(head.uvs, head.uv_faces, _UV_SIZE)
    count = sum(SEQUENCES.values())
    motion = {key: 0.1 * torch.randn(count, width, generator=random) for key, width in MOTION_WIDTHS.items()}
    motion["translation"] = 0.05 * motion["translation"] + 0.01 * seed
    params = FlameParams(torch.randn(300, generator=random), torch.zeros(head.vertex_count, 3), **motion)
    start = initial_attributes(head, binding, head.vertices(params, [0])[0], 0.9)
    attributes = GaussianAttributes.from_parts(
        position=start.position,
        rotation=start.rotation,
        scale=start.scale,
        opacity=start.opacity,
        color=rgb_to_sh(torch.rand(len(binding), 3, generator=random)),
    )
    avatar = Avatar(attributes, binding.faces, params)
    avatar.save(folder / name, {"stage": "fit", "subject": name})
    return Person(avatar, folder / name, _capture(folder / f"{name}.h5", name, params))


def _capture(path: Path, name: str, params: FlameParams) -> Path:
    rig = cameras()
    every = np.array([(t, c) for t in range(params.timesteps) for c in range(len(SERIALS))])
    capture = Capture(
        subject=name,
        serials=SERIALS,
        world_to_camera=rig.world_to_camera.numpy(),
        intrinsics=rig.intrinsics.numpy(),
        width=WIDTH,
        height=HEIGHT,
        timesteps=[(sequence, i) for sequence, count in SEQUENCES.items() for i in range(count)],
        params=params,
        splits={"train": every, "val": every[:0], "test": every[:0]},
    )
    write_store(
        path, capture, [(b"-", b"-")] * len(every), 2 * len(every), Provenance("import", name, 0, {}, {}, {}, {})
    )
    return path

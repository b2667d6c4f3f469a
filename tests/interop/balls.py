"""A ball for a head, and an avatar on it whose top is red: all that exports need, in a few thousand Gaussians."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData

from osgap.fit.initial import initial_attributes
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.head.params import MOTION_WIDTHS, FlameParams
from osgap.head.texels import TexelBinding, bind_texels
from osgap.splat.attributes import GaussianAttributes, rgb_to_sh
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras

UV_SIZE = 64
TIMESTEPS = 4
RADIUS = 0.1
_RINGS, _SECTORS = 13, 24


@dataclass(frozen=True)
class Ball:
    """An avatar on disk and in memory."""

    assets: HeadAssets
    head: HeadModel
    binding: TexelBinding
    avatar: Avatar
    folder: Path
    """Where the avatar is saved, without a `fit.json`."""


def write_head(folder: Path) -> HeadAssets:
    """A ball around the origin, open at the poles; the UV layout is cut along its back, where z is smallest."""
    latitude = np.radians(np.linspace(80, -80, _RINGS))
    ring, sector = (index.ravel() for index in np.meshgrid(np.arange(_RINGS), np.arange(_SECTORS), indexing="ij"))
    longitude = 2 * np.pi * sector / _SECTORS - np.pi
    flat = np.cos(latitude[ring])
    direction = np.stack([flat * np.sin(longitude), np.sin(latitude[ring]), flat * np.cos(longitude)], axis=-1)
    count = len(direction)
    random = np.random.default_rng(2)
    faces, uv_faces = [], []
    for r in range(_RINGS - 1):
        for s in range(_SECTORS):
            quad = [(r, s), (r + 1, s), (r + 1, s + 1), (r, s + 1)]
            v = [a * _SECTORS + b % _SECTORS for a, b in quad]
            t = [a * (_SECTORS + 1) + b for a, b in quad]
            faces += [[v[0], v[1], v[2]], [v[0], v[2], v[3]]]
            uv_faces += [[t[0], t[1], t[2]], [t[0], t[2], t[3]]]
    model = {
        "v_template": RADIUS * direction,
        "shapedirs": random.normal(0, 3e-4, (count, 3, 400)),
        "posedirs": np.zeros((count, 3, 36)),
        "J_regressor": np.full((5, count), 1 / count),
        "weights": np.tile([0, 1.0, 0, 0, 0], (count, 1)),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "f": np.array(faces, np.uint32),
    }
    folder.mkdir(parents=True, exist_ok=True)
    assets = HeadAssets(model=folder / "head.pkl", masks=folder / "masks.pkl", template=folder / "head.obj")
    assets.model.write_bytes(pickle.dumps(model))
    assets.masks.write_bytes(pickle.dumps({"face": np.arange(10)}))
    lines = [f"v {x} {y} {z}" for x, y, z in model["v_template"]]
    lines += [f"vt {s / _SECTORS} {1 - r / (_RINGS - 1)}" for r in range(_RINGS) for s in range(_SECTORS + 1)]
    corners = zip(faces, uv_faces, strict=True)
    lines += ["f " + " ".join(f"{a + 1}/{b + 1}" for a, b in zip(face, uv, strict=True)) for face, uv in corners]
    assets.template.write_text("\n".join(lines) + "\n")
    return assets


def camera_array() -> Cameras:
    """Three cameras from left to right at 60 cm, all looking at the origin, upright in FLAME's axes."""
    world_to_camera = torch.eye(4).repeat(3, 1, 1)
    for index, yaw in enumerate((-0.8, 0.1, 0.9)):
        sin, cos = float(np.sin(yaw)), float(np.cos(yaw))
        world_to_camera[index, :3, :3] = torch.tensor([[cos, 0, -sin], [0, -1, 0], [-sin, 0, -cos]])
        world_to_camera[index, 2, 3] = 0.6
    intrinsics = torch.tensor([[160.0, 0, 34], [0, 160.0, 31], [0, 0, 1]])
    return Cameras(world_to_camera, intrinsics.repeat(3, 1, 1), width=64, height=64)


def motion(vertex_count: int, seed: int = 0, timesteps: int = TIMESTEPS) -> FlameParams:
    """Small turns, shifts and expressions."""
    random = torch.Generator().manual_seed(seed)
    poses = {name: 0.2 * torch.randn(timesteps, width, generator=random) for name, width in MOTION_WIDTHS.items()}
    poses["translation"] *= 0.02
    return FlameParams(torch.randn(300, generator=random), torch.zeros(vertex_count, 3), **poses)


def make_ball(folder: Path) -> Ball:
    """Write the head's three files and the avatar below `folder`."""
    assets = write_head(folder / "head")
    head = load_head(assets)
    binding = bind_texels(head.uvs, head.uv_faces, UV_SIZE)
    random = torch.Generator().manual_seed(5)
    params = motion(head.vertex_count)
    start = initial_attributes(head, binding, head.vertices(params, [0])[0], 0.9)
    rgb = 0.1 + 0.4 * torch.rand(len(binding), 3, generator=random)
    rgb[binding.texels[:, 0] < UV_SIZE // 4] = torch.tensor([1.1, -0.1, 0.0])
    attributes = GaussianAttributes.from_parts(
        position=start.position,
        rotation=3 * torch.randn(len(binding), 4, generator=random),
        scale=start.scale + 0.5 * torch.randn(len(binding), 3, generator=random),
        opacity=start.opacity,
        color=rgb_to_sh(rgb),
    )
    offset = 1e-4 * torch.randn(head.vertex_count, 3, generator=random)
    avatar = Avatar(attributes, binding.faces, params.replace(static_offset=offset))
    avatar.save(folder / "avatar", {"stage": "fit", "subject": "ball"})
    return Ball(assets, head, binding, avatar, folder / "avatar")


def read_as_the_reference(path: Path, sh_degree: int) -> dict[str, np.ndarray]:
    """A point cloud by the reference's rules: some properties by exact name, some by prefix and trailing number."""
    vertex = PlyData.read(str(path)).elements[0]
    names = [p.name for p in vertex.properties]

    def collect(prefix: str) -> np.ndarray:
        found = sorted((n for n in names if n.startswith(prefix)), key=lambda n: int(n.split("_")[-1]))
        return np.stack([vertex[n] for n in found], axis=-1) if found else np.zeros((len(vertex.data), 0))

    assert len([n for n in names if n.startswith("f_rest_")]) == 3 * (sh_degree + 1) ** 2 - 3
    return {
        "xyz": np.stack([vertex[n] for n in "xyz"], axis=-1),
        "opacity": vertex["opacity"],
        "dc": np.stack([vertex[f"f_dc_{i}"] for i in range(3)], axis=-1),
        "rest": collect("f_rest_"),
        "scale": collect("scale_"),
        "rot": collect("rot"),
        "binding": collect("binding").astype(np.int32),
    }

"""A head of 81 vertices, and captures of people on it that the renderer itself has drawn: small, and exact."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from osgap.capture.store import CaptureStore
from osgap.capture.store_writing import Capture, write_store
from osgap.fit.initial import initial_attributes
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import TexelBinding, bind_texels
from osgap.prior.config import AugmentConfig, OneShotConfig, PriorConfig
from osgap.prior.network_config import EncoderConfig
from osgap.runtime.gpus import using
from osgap.runtime.provenance import Provenance
from osgap.splat.attributes import GaussianAttributes, rgb_to_sh
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.render import render
from osgap.splat.uv_maps import save_uv_gt
from prior.runs import TinyBackbone

UV_SIZE = 12
WIDTH, HEIGHT = 22, 32
TIMESTEPS = [("EXP-1-head", 0), ("EXP-1-head", 1), ("EXP-1-head", 2), ("EXP-1-head", 3), ("EXP-2-eyes", 0)]
HELD_OUT = 2  # camera


@dataclass(frozen=True)
class World:
    """Where the files are, and what they were made from."""

    folder: Path
    assets: HeadAssets
    head: HeadModel
    binding: TexelBinding
    cameras: Cameras

    def capture(self, subject: str) -> Path:
        return self.folder / "captures" / f"{subject}.h5"

    def maps(self, subject: str) -> Path:
        return self.folder / "uv_gt" / f"{subject}.npz"


@pytest.fixture(autouse=True)
def _on_the_cpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """All but what is about GPUs: only there are bytes the same again."""
    with using("auto" if request.node.get_closest_marker("gpu") else "cpu"):
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Captures and maps of `red`, `green`, `blue` and `grey`."""
    folder = tmp_path_factory.mktemp("world")
    assets = _write_head(folder / "head")
    head = load_head(assets)
    binding = bind_texels(head.uvs, head.uv_faces, UV_SIZE)
    world = World(folder, assets, head, binding, _cameras())
    colors = {"red": (0.8, 0.3, 0.2), "green": (0.2, 0.7, 0.3), "blue": (0.2, 0.3, 0.8), "grey": (0.5, 0.4, 0.4)}
    for seed, (subject, color) in enumerate(colors.items()):
        random = np.random.default_rng(seed)
        write_person(world, subject, torch.tensor(color), random)
    return world


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Every image and mask that is read of any store: all readers go through these two methods."""
    found: list[tuple[str, int, int]] = []
    read_image, read_mask = CaptureStore.encoded_image, CaptureStore.encoded_mask

    def image(self: CaptureStore, timestep: int, camera: int) -> bytes:
        found.append(("image", timestep, camera))
        return read_image(self, timestep, camera)

    def mask(self: CaptureStore, timestep: int, camera: int) -> bytes:
        found.append(("mask", timestep, camera))
        return read_mask(self, timestep, camera)

    monkeypatch.setattr(CaptureStore, "encoded_image", image)
    monkeypatch.setattr(CaptureStore, "encoded_mask", mask)
    return found


@pytest.fixture
def tiny_prior() -> PriorConfig:
    """Seconds of training."""
    return PriorConfig(
        encoder=EncoderConfig(
            input_size=32,
            width=8,
            token_width=32,
            residual_blocks=(1, 1),
            attention_blocks=1,
            heads=2,
            dilations=(1, 2, 3),
        ),
        augment=AugmentConfig(),
        source_cameras=2,
        sources=2,
        targets=2,
        steps=6,
        warmup=2,
        learning_rate=1e-3,
        ema=0.5,
        precision="32-true",
        workers=0,
        checkpoint_every=2,
    )


@pytest.fixture
def tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The `surface` network reads photographs with a backbone that trains in seconds."""
    monkeypatch.setattr("osgap.prior.network.surface.Backbone", TinyBackbone)


@pytest.fixture
def tiny_oneshot() -> OneShotConfig:
    return OneShotConfig(steps=10, checkpoint_every=3)


def _write_head(folder: Path) -> HeadAssets:
    """A quarter of a sphere, 9 x 9 vertices, that faces +z; everything moves with the root."""
    side = 9
    v, u = np.meshgrid(np.linspace(0, 1, side), np.linspace(0, 1, side), indexing="ij")
    longitude, latitude = (u - 0.5) * np.pi, (v - 0.5) * 0.8 * np.pi
    points = 0.1 * np.stack(
        [np.sin(longitude) * np.cos(latitude), np.sin(latitude), np.cos(longitude) * np.cos(latitude)], axis=-1
    ).reshape(-1, 3)
    index = np.arange(side * side).reshape(side, side)
    a, b, c, d = (x.ravel() for x in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
    faces = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    count = len(points)
    random = np.random.default_rng(0)
    weights = np.zeros((count, 5))
    weights[:, 0] = 1
    model = {
        "v_template": points,
        "shapedirs": 1e-3 * random.standard_normal((count, 3, 400)),
        "posedirs": np.zeros((count, 3, 36)),
        "J_regressor": np.full((5, count), 1 / count),
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "f": faces,
    }
    folder.mkdir(parents=True)
    assets = HeadAssets(model=folder / "model.pkl", masks=folder / "masks.pkl", template=folder / "template.obj")
    assets.model.write_bytes(pickle.dumps(model))
    assets.masks.write_bytes(pickle.dumps({"face": np.arange(count)}))
    uvs = 0.02 + 0.96 * np.stack([u, v], axis=-1).reshape(-1, 2)
    lines = [f"v {x} {y} {z}" for x, y, z in points] + [f"vt {x} {y}" for x, y in uvs]
    lines += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in face) for face in faces]
    assets.template.write_text("\n".join(lines) + "\n")
    return assets


def _cameras() -> Cameras:
    """Five on an arc of 1 m around the head, seen from above left to right; the middle one is held out."""
    world_to_camera = []
    for angle in (-0.7, -0.35, 0.0, 0.3, 0.7):
        forward = -np.array([np.sin(angle), 0.0, np.cos(angle)])
        right = np.array([np.cos(angle), 0.0, -np.sin(angle)])
        rotation = np.stack([right, np.array([0.0, -1.0, 0.0]), forward])
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = rotation, -rotation @ -forward
        world_to_camera.append(matrix)
    intrinsics = np.array([[110.0, 0, WIDTH / 2 + 0.3], [0, 110.0, HEIGHT / 2 - 0.2], [0, 0, 1]])
    stacked = torch.from_numpy(np.stack(world_to_camera)).float()
    return Cameras(stacked, torch.from_numpy(intrinsics).float().repeat(5, 1, 1), WIDTH, HEIGHT)


def write_person(world: World, subject: str, color: torch.Tensor, random: np.random.Generator) -> None:
    """Capture and maps of somebody of about this colour `[3]`, or of these of all texels `[N, 3]`."""
    count = len(TIMESTEPS)

    def normal(scale: float, *shape: int) -> torch.Tensor:
        return torch.from_numpy(scale * random.standard_normal(shape)).float()

    params = FlameParams(
        shape=normal(1, 300),
        static_offset=normal(1e-3, world.head.vertex_count, 3),
        expr=normal(1, count, 100),
        rotation=normal(0.15, count, 3),
        neck_pose=torch.zeros(count, 3),
        jaw_pose=torch.zeros(count, 3),
        eyes_pose=torch.zeros(count, 6),
        translation=normal(0.01, count, 3),
    )
    start = initial_attributes(world.head, world.binding, world.head.vertices(params, 0)[0], 0.95)
    rgb = color * (1 + normal(0.15, len(world.binding), 3)).clamp(0.2, 1.2)
    attributes = GaussianAttributes.from_parts(
        position=start.position, rotation=start.rotation, scale=start.scale, opacity=start.opacity, color=rgb_to_sh(rgb)
    )
    save_uv_gt(world.maps(subject), attributes.to_uv(world.binding))
    avatar = Avatar(attributes, world.binding.faces, params)
    frames = []
    for timestep in range(count):
        drawn = render(avatar.gaussians(world.head, timestep), world.cameras, torch.ones(3))
        for image, alpha in zip(drawn.rgb, drawn.alpha, strict=True):
            pixels = (image.clamp(0, 1) * 255).round().byte().numpy()[..., ::-1]
            mask = (alpha * 255).round().byte().numpy()
            frames.append((cv2.imencode(".png", pixels)[1].tobytes(), cv2.imencode(".png", mask)[1].tobytes()))
    training = [t for t, (sequence, _) in enumerate(TIMESTEPS) if sequence == TIMESTEPS[0][0]]
    cameras = range(len(world.cameras))
    capture = Capture(
        subject=subject,
        serials=[f"cam{c}" for c in cameras],
        world_to_camera=world.cameras.world_to_camera.numpy(),
        intrinsics=world.cameras.intrinsics.numpy(),
        width=WIDTH,
        height=HEIGHT,
        timesteps=TIMESTEPS,
        params=params,
        splits={
            "train": np.array([(t, c) for t in training for c in cameras if c != HELD_OUT]),
            "val": np.array([(t, HELD_OUT) for t in training]),
            "test": np.array([(t, c) for t in range(count) if t not in training for c in cameras]),
        },
    )
    provenance = Provenance(stage="import", subject=subject, seed=0, config={}, inputs={}, code={}, versions={})
    write_store(world.capture(subject), capture, frames, sum(len(i) + len(m) for i, m in frames), provenance)

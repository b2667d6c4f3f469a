"""A small synthetic person: a ball for a head, painted Gaussians on and above it, and a capture rendered from them.

The head is written in FLAME's three files and the capture as a store, so that the stage runs as for a real person. The
truth is known: an avatar with the same texels.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from osgap.capture.store import CaptureStore
from osgap.capture.store_writing import Capture, write_store
from osgap.fit.config import FitConfig
from osgap.fit.initial import initial_attributes
from osgap.fit.stage import FitInputs, FitOutputs
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.params import MOTION_WIDTHS, FlameParams
from osgap.head.texels import bind_texels
from osgap.runtime.provenance import Provenance
from osgap.splat.attributes import GaussianAttributes, rgb_to_sh
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.render import render

SUBJECT = "ball"
UV_SIZE = 24
WIDTH, HEIGHT = 32, 48
CAMERAS, HELD_OUT = 6, 2
TRAIN_TIMES, TEST_TIMES = 5, 2
_RADIUS, _RINGS, _SECTORS = 0.1, 13, 24

QUICK: dict[str, Any] = {
    "uv_size": UV_SIZE,
    "iterations": 60,
    "images_per_step": 2,
    "checkpoint_every": 20,
    "learning_rates": {
        "position": 0.05, "position_final": 0.005, "color": 0.1, "opacity": 0.1, "scale": 0.03, "rotation": 0.01,
        "final_fraction": 0.1,
    },
    "losses": {"scale_threshold": 1.5, "position_threshold": 2},
}  # fmt: skip
"""A schedule for this person."""


def config(**changes: Any) -> FitConfig:
    """`QUICK` with changes; nested mappings are merged one level deep."""
    merged = dict(QUICK)
    for key, value in changes.items():
        merged[key] = {**QUICK[key], **value} if isinstance(value, dict) else value
    return FitConfig.model_validate(merged)


@dataclass(frozen=True)
class World:
    """The person's files, and what only the test knows: the avatar that the images show."""

    inputs: FitInputs
    truth: Avatar

    def outputs(self, folder: Path) -> FitOutputs:
        """Output paths below a folder."""
        avatar = folder / "avatar"
        return FitOutputs(avatar, avatar / "fit.json", avatar / "preview.png", folder / "checkpoints")


def write_head(folder: Path) -> HeadAssets:
    """A ball of 10 cm; expression 0 pushes its front out, expression 1 its top up."""
    latitude = np.radians(np.linspace(80, -80, _RINGS))
    longitude = np.radians(np.linspace(-180, 180, _SECTORS + 1))
    ring, sector = (index.ravel() for index in np.meshgrid(np.arange(_RINGS), np.arange(_SECTORS), indexing="ij"))
    flat = np.cos(latitude[ring])
    direction = np.stack(
        [flat * np.sin(longitude[sector]), np.sin(latitude[ring]), flat * np.cos(longitude[sector])], -1
    )
    count = len(direction)
    shapedirs = np.zeros((count, 3, 400))
    shapedirs[:, 2, 300] = 0.02 * np.clip(direction[:, 2], 0, None) ** 4
    shapedirs[:, 1, 301] = 0.02 * np.clip(direction[:, 1], 0, None)
    weights = np.zeros((count, 5))
    weights[:, 1] = 1
    faces, uv_faces = [], []
    for r in range(_RINGS - 1):
        for s in range(_SECTORS):
            quad = [(r, s), (r + 1, s), (r + 1, s + 1), (r, s + 1)]
            v = [a * _SECTORS + b % _SECTORS for a, b in quad]
            t = [a * (_SECTORS + 1) + b for a, b in quad]
            faces += [[v[0], v[1], v[2]], [v[0], v[2], v[3]]]
            uv_faces += [[t[0], t[1], t[2]], [t[0], t[2], t[3]]]
    uvs = [(s / _SECTORS, 1 - r / (_RINGS - 1)) for r in range(_RINGS) for s in range(_SECTORS + 1)]
    model = {
        "v_template": _RADIUS * direction,
        "shapedirs": shapedirs,
        "posedirs": np.zeros((count, 3, 36)),
        "J_regressor": np.full((5, count), 1 / count),
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "f": np.array(faces, np.uint32),
    }
    folder.mkdir(parents=True, exist_ok=True)
    assets = HeadAssets(model=folder / "head.pkl", masks=folder / "masks.pkl", template=folder / "head.obj")
    assets.model.write_bytes(pickle.dumps(model))
    assets.masks.write_bytes(pickle.dumps({"face": np.arange(10)}))
    lines = [f"v {x} {y} {z}" for x, y, z in model["v_template"]] + [f"vt {u} {v}" for u, v in uvs]
    corners = zip(faces, uv_faces, strict=True)
    lines += ["f " + " ".join(f"{a + 1}/{b + 1}" for a, b in zip(face, uv, strict=True)) for face, uv in corners]
    assets.template.write_text("\n".join(lines) + "\n")
    return assets


def camera_array() -> Cameras:
    """Cameras from left to right at 60 cm, all looking at the origin."""
    world_to_camera = torch.eye(4).repeat(CAMERAS, 1, 1)
    for i, yaw in enumerate(np.radians(np.linspace(-75, 75, CAMERAS))):
        right = torch.tensor([np.cos(yaw), 0.0, -np.sin(yaw)])
        back = torch.tensor([np.sin(yaw), 0.0, np.cos(yaw)])
        world_to_camera[i, :3, :3] = torch.stack([right, torch.tensor([0.0, -1.0, 0.0], dtype=right.dtype), -back])
        world_to_camera[i, 2, 3] = 0.6
    intrinsics = torch.tensor([[80.0, 0, WIDTH / 2 + 1], [0, 80.0, HEIGHT / 2 - 1], [0, 0, 1]])
    return Cameras(world_to_camera, intrinsics.repeat(CAMERAS, 1, 1), WIDTH, HEIGHT)


def motion(vertex_count: int) -> FlameParams:
    """Turns, shifts and expressions of all timesteps; the last ones are the test sequence."""
    random = np.random.default_rng(0)
    count = TRAIN_TIMES + TEST_TIMES
    expr = np.zeros((count, 100))
    expr[:, :2] = random.uniform(-1, 1, (count, 2))
    poses = {name: torch.zeros(count, width) for name, width in MOTION_WIDTHS.items()}
    poses["expr"] = torch.from_numpy(expr).float()
    poses["rotation"] = torch.from_numpy(random.uniform(-0.2, 0.2, (count, 3))).float()
    poses["translation"] = torch.from_numpy(random.uniform(-0.004, 0.004, (count, 3))).float()
    return FlameParams(torch.zeros(300), torch.zeros(vertex_count, 3), **poses)


def splits() -> dict[str, np.ndarray]:
    """One held-out camera, and the last timesteps held out."""
    frames = np.array([(t, c) for t in range(TRAIN_TIMES + TEST_TIMES) for c in range(CAMERAS)])
    train, held_out = frames[:, 0] < TRAIN_TIMES, frames[:, 1] == HELD_OUT
    return {"train": frames[train & ~held_out], "val": frames[train & held_out], "test": frames[~train]}


def make_world(folder: Path) -> World:
    """Write a head and a capture below `folder`."""
    assets = write_head(folder / "head")
    head = load_head(assets)
    binding = bind_texels(head.uvs, head.uv_faces, UV_SIZE)
    params = motion(head.vertex_count)
    painter = np.random.default_rng(3)
    paint = cv2.resize(painter.uniform(0.1, 0.9, (5, 5, 3)).astype(np.float32), (UV_SIZE, UV_SIZE))
    rows, columns = binding.texels.numpy().T
    start = initial_attributes(head, binding, head.vertices(params, [0])[0], 0.95)
    lifted = start.position.clone()
    lifted[:, 1] += torch.from_numpy(np.where(rows < UV_SIZE // 3, 0.6, 0.0)).float()  # hair, above the surface
    truth = Avatar(
        GaussianAttributes.from_parts(
            position=lifted,
            rotation=start.rotation,
            scale=start.scale + 0.3,
            opacity=start.opacity,
            color=rgb_to_sh(torch.from_numpy(paint[rows, columns])),
        ),
        binding.faces,
        params,
    )
    cameras, frames = camera_array(), [(t, c) for t in range(params.timesteps) for c in range(CAMERAS)]
    encoded = []
    for timestep, camera in frames:
        rendered = render(truth.gaussians(head, [timestep]), cameras[[camera]], background=torch.ones(3))
        image = (rendered.rgb[0].clamp(0, 1) * 255).round().byte().numpy()
        encoded.append((_png(image[..., ::-1]), _png((rendered.alpha[0] * 255).round().byte().numpy())))
    capture = Capture(
        subject=SUBJECT,
        serials=[f"{100 + i}" for i in range(CAMERAS)],
        world_to_camera=cameras.world_to_camera.numpy(),
        intrinsics=cameras.intrinsics.numpy(),
        width=WIDTH,
        height=HEIGHT,
        timesteps=[("EXP-1", t) for t in range(TRAIN_TIMES)] + [("EXP-2", t) for t in range(TEST_TIMES)],
        params=params,
        splits=splits(),
    )
    path = folder / "captures" / f"{SUBJECT}.h5"
    write(path, capture, encoded)
    return World(FitInputs(path, assets), truth)


def write(path: Path, capture: Capture, encoded: list[tuple[bytes, bytes]]) -> None:
    """Write a capture store."""
    path.parent.mkdir(parents=True, exist_ok=True)
    provenance = Provenance("import", capture.subject, 0, {}, {}, {}, {})
    write_store(path, capture, encoded, sum(len(image) + len(mask) for image, mask in encoded), provenance)


def rewritten(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a capture store with some fields of `Capture` replaced."""
    store = CaptureStore(source)
    frames = [(t, c) for t in range(len(store.timesteps)) for c in range(len(store.serials))]
    capture = Capture(
        subject=store.subject,
        serials=store.serials,
        world_to_camera=store.cameras.world_to_camera.numpy(),
        intrinsics=store.cameras.intrinsics.numpy(),
        width=store.cameras.width,
        height=store.cameras.height,
        timesteps=store.timesteps,
        params=store.params,
        splits={name: store.split(name) for name in ("train", "val", "test")},
    )
    encoded = [(store.encoded_image(*frame), store.encoded_mask(*frame)) for frame in frames]
    write(target, replace(capture, **changes), encoded)
    return target


def _png(image: np.ndarray) -> bytes:
    ok, encoded = cv2.imencode(".png", image)
    assert ok
    return encoded.tobytes()

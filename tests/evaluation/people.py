"""A synthetic world for the evaluation: a ball for a head, painted people, and captures of them.

The head model is in FLAME's file format and goes through the real loader; a person's images are renderings of a
"true" avatar, so an avatar that equals it must score near the 8-bit limit and any other one lower.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from osgap.capture.store_writing import Capture, write_store
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.editions import Edition
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import bind_texels
from osgap.report.person import PersonFiles
from osgap.runtime.pixels import to_bytes
from osgap.runtime.provenance import Provenance
from osgap.splat.attributes import GaussianAttributes, rgb_to_sh
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.sequence import render_frames
from osgap.splat.uv_maps import save_uv_gt

UV_SIZE = 24
WIDTH, HEIGHT = 36, 48
SERIALS = ["100000001", "100000002", "100000003", "100000004"]
HELD_OUT = 1  # camera index
SEQUENCES = {"EXP-2-eyes": 4, "EMO-1-shout+laugh": 3}  # the second one is held out
PROVENANCE = Provenance("import", None, 0, {}, {}, {}, {})
_RADIUS, _RINGS, _SECTORS = 0.1, 11, 20


def write_head(folder: Path) -> HeadAssets:
    """A ball of 10 cm in FLAME's three files; expression 0 pushes its front out, expression 1 its top up."""
    latitude = np.radians(np.linspace(80, -80, _RINGS))
    longitude = np.radians(np.linspace(-180, 180, _SECTORS + 1))
    ring, sector = np.meshgrid(np.arange(_RINGS), np.arange(_SECTORS), indexing="ij")
    direction = np.stack(
        [
            np.cos(latitude[ring]) * np.sin(longitude[sector]),
            np.sin(latitude[ring]),
            np.cos(latitude[ring]) * np.cos(longitude[sector]),
        ],
        axis=-1,
    ).reshape(-1, 3)
    vertices = _RADIUS * direction
    shapedirs = np.zeros((len(vertices), 3, 400))
    shapedirs[:, :, 0] = 0.01 * direction * [1, 0, 0]
    shapedirs[:, 2, 300] = 0.03 * np.clip(direction[:, 2], 0, None) ** 4
    shapedirs[:, 1, 301] = 0.03 * np.clip(direction[:, 1], 0, None)
    weights = np.zeros((len(vertices), 5))
    weights[:, 1] = 1
    columns, rows = (np.arange(_SECTORS + 1) + 0.02) / (_SECTORS + 0.04), (np.arange(_RINGS) + 0.02) / (_RINGS - 0.96)
    uvs = [(u, 1 - v) for v in rows for u in columns]
    faces, uv_faces = [], []
    for r in range(_RINGS - 1):
        for s in range(_SECTORS):
            quad = [(r, s), (r + 1, s), (r + 1, s + 1), (r, s + 1)]
            v = [a * _SECTORS + b % _SECTORS for a, b in quad]
            t = [a * (_SECTORS + 1) + b for a, b in quad]
            faces += [[v[0], v[1], v[2]], [v[0], v[2], v[3]]]
            uv_faces += [[t[0], t[1], t[2]], [t[0], t[2], t[3]]]
    folder.mkdir(parents=True, exist_ok=True)
    assets = HeadAssets(model=folder / "head.pkl", masks=folder / "masks.pkl", template=folder / "head.obj")
    model = {
        "v_template": vertices,
        "shapedirs": shapedirs,
        "posedirs": np.zeros((len(vertices), 3, 36)),
        "J_regressor": np.full((5, len(vertices)), 1 / len(vertices)),
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "f": np.array(faces, np.uint32),
    }
    assets.model.write_bytes(pickle.dumps(model))
    assets.masks.write_bytes(pickle.dumps({"face": np.arange(10)}))
    lines = [f"v {x} {y} {z}" for x, y, z in vertices] + [f"vt {u} {v}" for u, v in uvs]
    for face, corners in zip(faces, uv_faces, strict=True):
        lines.append("f " + " ".join(f"{v + 1}/{t + 1}" for v, t in zip(face, corners, strict=True)))
    assets.template.write_text("\n".join(lines) + "\n")
    return assets


def cameras() -> Cameras:
    """Four cameras from left to right at 60 cm, all looking at the origin."""
    extrinsics = torch.eye(4).repeat(len(SERIALS), 1, 1)
    for i, yaw in enumerate(np.radians([-40, 0, 20, 45])):
        back = torch.tensor([np.sin(yaw), 0.0, np.cos(yaw)], dtype=torch.float32)
        right = torch.tensor([np.cos(yaw), 0.0, -np.sin(yaw)], dtype=torch.float32)
        extrinsics[i, :3, :3] = torch.stack([right, torch.tensor([0.0, -1.0, 0.0]), -back])
        extrinsics[i, :3, 3] = torch.tensor([0.0, 0.0, 0.6])
    focal = 90.0
    intrinsics = torch.tensor([[focal, 0, WIDTH / 2 + 1], [0, focal, HEIGHT / 2 - 1], [0, 0, 1]])
    return Cameras(extrinsics, intrinsics.repeat(len(SERIALS), 1, 1), WIDTH, HEIGHT)


def attributes(head: HeadModel, paint: np.random.Generator | None, opacity: float = 4.0) -> GaussianAttributes:
    """Opaque texels; painted in large random patches, or grey without a painter."""
    binding = bind_texels(head.uvs, head.uv_faces, UV_SIZE)
    count = len(binding)
    color = np.full((UV_SIZE, UV_SIZE, 3), 0.5, np.float32)
    if paint is not None:
        patches = paint.random((6, 6, 3)).astype(np.float32)
        color = np.kron(patches, np.ones((UV_SIZE // 6, UV_SIZE // 6, 1), np.float32))
    texels = binding.texels.numpy()
    return GaussianAttributes.from_parts(
        position=torch.zeros(count, 3),
        rotation=torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
        scale=torch.full((count, 3), -1.0),
        opacity=torch.full((count, 1), opacity),
        color=rgb_to_sh(torch.from_numpy(color[texels[:, 0], texels[:, 1]])),
    )


def tracked_motion(head: HeadModel, seed: int) -> FlameParams:
    """A few turns, shifts and expressions; the held-out sequence ranges farther."""
    random = np.random.default_rng(seed)
    count = sum(SEQUENCES.values())
    shape = torch.zeros(300)
    shape[0] = float(random.normal())
    expr = torch.zeros(count, 100)
    expr[:, :2] = torch.from_numpy(random.uniform(-1, 1, (count, 2))).float()
    return FlameParams(
        shape=shape,
        static_offset=torch.zeros(head.vertex_count, 3),
        expr=expr,
        rotation=torch.from_numpy(random.uniform(-0.15, 0.15, (count, 3))).float(),
        neck_pose=torch.zeros(count, 3),
        jaw_pose=torch.zeros(count, 3),
        eyes_pose=torch.zeros(count, 6),
        translation=torch.from_numpy(random.uniform(-0.004, 0.004, (count, 3))).float(),
    )


def default_splits() -> dict[str, np.ndarray]:
    """Conventions' union rule: the second sequence is test, camera 1 of the first is val."""
    first = SEQUENCES["EXP-2-eyes"]
    frames = [(t, c) for t in range(sum(SEQUENCES.values())) for c in range(len(SERIALS))]
    return {
        "train": np.array([f for f in frames if f[0] < first and f[1] != HELD_OUT]),
        "val": np.array([f for f in frames if f[0] < first and f[1] == HELD_OUT]),
        "test": np.array([f for f in frames if f[0] >= first]),
    }


@dataclass(frozen=True)
class World:
    """The head, and a folder to put people in."""

    folder: Path
    assets: HeadAssets
    head: HeadModel

    def capture(
        self,
        subject: str,
        seed: int,
        splits: dict[str, np.ndarray] | None = None,
        count: int = len(SERIALS),
        edition: Edition | None = None,
    ) -> tuple[Path, Avatar]:
        """Write a capture store of the first `count` cameras; returns its path and the avatar that its images show."""
        params = tracked_motion(self.head, seed)
        truth = Avatar(attributes(self.head, np.random.default_rng(seed)), self._faces, params)
        array = cameras()[:count]
        frames = torch.tensor([(t, c) for t in range(params.timesteps) for c in range(count)])
        images = to_bytes(render_frames(truth, self.head, params, frames[:, 0], array[frames[:, 1]])).numpy()
        mask = _png(np.full((HEIGHT, WIDTH), 255, np.uint8))
        encoded = [(_png(image[..., ::-1]), mask) for image in images]
        capture = Capture(
            subject=subject,
            serials=SERIALS[:count],
            world_to_camera=array.world_to_camera.numpy(),
            intrinsics=array.intrinsics.numpy(),
            width=WIDTH,
            height=HEIGHT,
            timesteps=[(name, i) for name, count in SEQUENCES.items() for i in range(count)],
            params=params,
            splits=default_splits() if splits is None else splits,
            edition=edition,
        )
        path = self.folder / "captures" / f"{subject}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_store(path, capture, encoded, sum(len(a) + len(b) for a, b in encoded), PROVENANCE)
        return path, truth

    def person(
        self, subject: str, seed: int, splits: dict[str, np.ndarray] | None = None, count: int = len(SERIALS)
    ) -> PersonFiles:
        """A capture and an avatar of every method, from a grey ball to the truth."""
        capture, truth = self.capture(subject, seed, splits, count)
        grey = attributes(self.head, None)
        mean = self.folder / "prior" / "mean_uv.npz"
        save_uv_gt(mean, grey.to_uv(bind_texels(self.head.uvs, self.head.uv_faces, UV_SIZE)))
        avatars = {"mean_avatar": mean}
        shares = {"prior": 0.4, "one_shot": 0.7, "few_shot": 0.8, "all_frames": 0.9, "fit": 1.0}
        for method, share in shares.items():
            mixed = GaussianAttributes(torch.lerp(grey.channels, truth.attributes.channels, share))
            avatars[method] = self.folder / method / subject
            Avatar(mixed, truth.faces, truth.params).save(avatars[method], PROVENANCE.as_dict())
        return PersonFiles(subject, capture, avatars)

    @property
    def _faces(self) -> torch.Tensor:
        return bind_texels(self.head.uvs, self.head.uv_faces, UV_SIZE).faces


def make_world(folder: Path) -> World:
    assets = write_head(folder / "head")
    return World(folder, assets, load_head(assets))


def _png(image: np.ndarray) -> bytes:
    ok, encoded = cv2.imencode(".png", image)
    assert ok
    return encoded.tobytes()

"""The smallest valid inputs of every kind: a head, a tracking export, a capture store, an avatar, maps, a prior."""

from __future__ import annotations

import io
import json
import math
import pickle
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from nersemble_data.constants import SEQUENCE_NAMES

from osgap.capture.nersemble import CATALOGUE, calibration_path, color_calibration_path, video_path
from osgap.capture.store import CaptureStore
from osgap.capture.store_writing import Capture, write_store
from osgap.fit.initial import initial_attributes
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.params import MOTION_WIDTHS, FlameParams, save_flame_param
from osgap.head.texels import bind_texels
from osgap.prior.network.model import GaussianPrior, save_prior
from osgap.prior.network_config import EncoderConfig
from osgap.runtime.provenance import Provenance
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.avatar import Avatar
from osgap.splat.uv_maps import save_uv_gt

SUBJECT, OTHER = "030", "017"
SERIALS = ("222200036", "222200037", "222200038")
WIDTH, HEIGHT = 16, 24
TIMESTEPS = 4
FRAMES = 5
"""Of the videos."""
ROWS, COLUMNS = 6, 8
VERTICES = ROWS * COLUMNS
UV_SIZE = 8

EXPORT = "tracking/030_EMO-1_v16"
UNION = "tracking/UNION_030_v16"
STORE = f"results/captures/{SUBJECT}.h5"
AVATAR = f"results/avatars/{SUBJECT}"
PRIOR = "results/prior/model.pt"
SOURCE, RAW = "source", "results/raw"
"""NeRSemble's tree as it is fetched, and as it was."""
BENCHMARK = f"benchmark/{SUBJECT}"
FOREIGN = "foreign"
SEQUENCE, SECOND = "EMO-1-shout+laugh", "EXP-2-eyes"

ENCODER = EncoderConfig(
    input_size=32, width=8, token_width=32, residual_blocks=(1, 1), attention_blocks=1, heads=2, dilations=(1, 2, 3)
)

UNPOSED = {"check": "warn"}
"""Pictures here are random, so that no head stands where they show one."""

SETTINGS: dict[str, Any] = {
    "results": "WORLD/results",
    "subjects": {"train": [OTHER], "test": [SUBJECT]},
    "flame": {
        "assets": {
            "model": "WORLD/head/head.pkl",
            "masks": "WORLD/head/masks.pkl",
            "template": "WORLD/head/head.obj",
        }
    },
    "capture": {"download": False, "tracking": f"WORLD/{EXPORT}", **UNPOSED},
    # Avatars of so few steps cannot be closed, and trying to takes longest.
    "fit": {
        "uv_size": UV_SIZE,
        "iterations": 2,
        "images_per_step": 1,
        "checkpoint_every": 1,
        "losses": {"coverage": 0.0},
    },
    "oneshot": {"steps": 2, "calibration_people": 0, "losses": {"coverage": 0.0}},
}
"""The config, in which `WORLD` stands for the world's folder."""

DOWNLOADS: dict[str, Any] = {
    "url": "file://WORLD/source",
    "sequences": [SEQUENCE],
    "serials": list(SERIALS),
    "tracking": f"WORLD/{EXPORT}",
    **UNPOSED,
}
"""Its section `capture` where raw videos are part of the run."""


def make_world(folder: Path) -> None:
    """Everything that a user brings, and below `results` what the stages make of it."""
    write_head(folder / "head")
    write_export(folder / EXPORT)
    write_union(folder / UNION)
    write_source(folder / SOURCE)
    write_benchmark(folder / BENCHMARK)
    for subject in (SUBJECT, OTHER):
        write_capture(folder / f"results/captures/{subject}.h5", subject)
    write_results(folder)


# the head ----------------------------------------------------------------------------------------------------


def head_model() -> dict[str, Any]:
    """The content of a model's pickle: a bent sheet of 6 x 8 vertices that faces +z."""
    random = np.random.default_rng(0)
    row, column = np.divmod(np.arange(VERTICES), COLUMNS)
    angle = (column / (COLUMNS - 1) - 0.5) * 2
    corner = (np.arange(ROWS - 1)[:, None] * COLUMNS + np.arange(COLUMNS - 1)).reshape(-1, 1)
    lower = np.concatenate((corner, corner + COLUMNS, corner + 1), axis=-1)
    upper = np.concatenate((corner + 1, corner + COLUMNS, corner + COLUMNS + 1), axis=-1)
    return {
        "v_template": np.stack((0.1 * np.sin(angle), 0.1 - 0.04 * row, 0.1 * np.cos(angle)), axis=-1),
        "shapedirs": random.normal(0, 1e-3, (VERTICES, 3, 400)),
        "posedirs": np.zeros((VERTICES, 3, 36)),
        "J_regressor": np.full((5, VERTICES), 1 / VERTICES),
        "weights": np.tile([1.0, 0, 0, 0, 0], (VERTICES, 1)),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "f": np.concatenate((lower, upper)).astype(np.uint32),
    }


def write_head(folder: Path) -> None:
    """`head.pkl`, `masks.pkl` and `head.obj`."""
    folder.mkdir(parents=True)
    model = head_model()
    row, column = np.divmod(np.arange(VERTICES), COLUMNS)
    uvs = np.stack(((column + 0.3) / COLUMNS, 1 - (row + 0.4) / ROWS), axis=-1)
    (folder / "head.pkl").write_bytes(pickle.dumps(model, protocol=2))
    (folder / "masks.pkl").write_bytes(pickle.dumps({"face": np.flatnonzero(row >= 2)}, protocol=2))
    lines = ["v {:.6f} {:.6f} {:.6f}".format(*position) for position in model["v_template"]]
    lines += ["vt {:.6f} {:.6f}".format(*uv) for uv in uvs]
    lines += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in face) for face in model["f"]]
    (folder / "head.obj").write_text("\n".join(lines) + "\n")


# pictures and numbers ----------------------------------------------------------------------------------------


def png(pixels: np.ndarray) -> bytes:
    """RGB, RGBA or grey."""
    encoded = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])[1]
    return encoded.tobytes()


def picture(seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """`[H, W, 3]` uint8 noise on white."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    inner = pixels[height // 4 : -height // 4, width // 4 : -width // 4]
    inner[:] = np.random.default_rng(seed).integers(0, 256, inner.shape, np.uint8)
    return pixels


def mask(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """`[H, W]` uint8."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[height // 4 : -height // 4, width // 4 : -width // 4] = 255
    return pixels


def motion(count: int) -> dict[str, np.ndarray]:
    """FLAME parameters of `count` timesteps by their names in files."""
    random = np.random.default_rng(1)
    arrays = {name: random.normal(0, 0.05, (count, width)).astype(np.float32) for name, width in MOTION_WIDTHS.items()}
    arrays["translation"] *= 0.1
    return arrays | {
        "shape": random.normal(size=300).astype(np.float32),
        "static_offset": random.normal(0, 1e-4, (1, VERTICES, 3)).astype(np.float32),
    }


def poses() -> np.ndarray:
    """`[C, 4, 4]` world to camera, OpenCV axes: three cameras half a metre in front of the head, side by side."""
    matrices = []
    for angle in (-0.4, 0.0, 0.4):
        matrix = np.eye(4)
        matrix[0, :3] = math.cos(angle), 0, -math.sin(angle)
        matrix[1, :3] = 0, -1, 0
        matrix[2, :3] = -math.sin(angle), 0, -math.cos(angle)
        matrix[2, 3] = 0.6
        matrices.append(matrix)
    return np.stack(matrices)


def intrinsics() -> np.ndarray:
    """`[3, 3]`."""
    return np.array([[40.0, 0, WIDTH / 2], [0, 40.0, HEIGHT / 2], [0, 0, 1]])


# tracking in VHAP's layout -----------------------------------------------------------------------------------


def write_export(folder: Path) -> None:
    """An export of one sequence, with split files."""
    for kind in ("images", "fg_masks", "flame_param"):
        (folder / kind).mkdir(parents=True)
    arrays = motion(TIMESTEPS)
    frames = []
    for t in range(TIMESTEPS):
        rows = {name: array[[t]] if name in MOTION_WIDTHS else array for name, array in arrays.items()}
        np.savez(folder / "flame_param" / f"{t:05d}.npz", **rows)  # type: ignore[arg-type]
        for c in range(len(SERIALS)):
            (folder / "images" / f"{t:05d}_{c:02d}.png").write_bytes(png(picture(10 * t + c)))
            (folder / "fg_masks" / f"{t:05d}_{c:02d}.png").write_bytes(png(mask()))
            frames.append(frame(t, c))
    write_json(folder / "transforms.json", {"frames": frames})


def write_union(folder: Path) -> None:
    """A union of one member, the export beside it."""
    folder.mkdir(parents=True)
    member = f"../{Path(EXPORT).name}/"
    frames = [frame(t, c, member) for t in range(TIMESTEPS) for c in range(len(SERIALS))]
    for split, chosen in (
        ("train", [f for f in frames if f["timestep_index"] < 3 and f["camera_id"] != SERIALS[1]]),
        ("val", [f for f in frames if f["timestep_index"] < 3 and f["camera_id"] == SERIALS[1]]),
        ("test", [f for f in frames if f["timestep_index"] == 3]),
    ):
        write_json(folder / f"transforms_{split}.json", {"frames": chosen})


def frame(timestep: int, camera: int, prefix: str = "") -> dict[str, Any]:
    """One entry of a transforms file."""
    matrix = intrinsics()
    return {
        "timestep_index": timestep,
        "timestep_index_original": timestep,
        "camera_index": camera,
        "camera_id": SERIALS[camera],
        "fl_x": matrix[0, 0],
        "fl_y": matrix[1, 1],
        "cx": matrix[0, 2],
        "cy": matrix[1, 2],
        "w": WIDTH,
        "h": HEIGHT,
        "transform_matrix": (np.linalg.inv(poses()[camera]) @ np.diag([1, -1, -1, 1])).tolist(),
        "file_path": f"{prefix}images/{timestep:05d}_{camera:02d}.png",
        "fg_mask_path": f"{prefix}fg_masks/{timestep:05d}_{camera:02d}.png",
        "flame_param_path": f"{prefix}flame_param/{timestep:05d}.npz",
    }


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# NeRSemble ---------------------------------------------------------------------------------------------------


def video(
    path: Path, frames: int = FRAMES, width: int = 2 * WIDTH, height: int = 2 * HEIGHT, codec: str = "libx264"
) -> None:
    """Frames of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(frames):
            pixels = picture(number, width, height)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def calibration() -> dict[str, Any]:
    """The content of `camera_params.json`, for videos of twice the export's size."""
    matrix = np.diag([2.0, 2.0, 1.0]) @ intrinsics()
    world_to_camera = {serial: pose.tolist() for serial, pose in zip(SERIALS, poses(), strict=True)}
    return {"world_2_cam": world_to_camera, "intrinsics": matrix.tolist()}


def write_source(root: Path) -> None:
    """A NeRSemble tree: participant 30 with one sequence of three cameras."""
    write_json(root / calibration_path(30), calibration())
    write_json(root / color_calibration_path(30), {serial: np.eye(3).tolist() for serial in SERIALS})
    for serial in SERIALS:
        video(root / video_path(30, SEQUENCE, serial))
    rows = [["ID", *SEQUENCE_NAMES]]
    rows += [[str(who), *("x" if name == SEQUENCE else "" for name in SEQUENCE_NAMES)] for who in (17, 30)]
    (root / CATALOGUE).write_text("\n".join(map(",".join, rows)) + "\n")


def write_benchmark(folder: Path) -> None:
    """A participant of the benchmark: two sequences of three cameras."""
    matrices = dict.fromkeys(SERIALS, calibration()["intrinsics"])
    write_json(folder / "calibration/camera_params.json", calibration() | {"intrinsics": matrices})
    for name in (SEQUENCE, SECOND):
        for serial in SERIALS:
            for kind in ("images", "alpha_maps"):
                video(folder / "sequences" / name / kind / f"cam_{serial}.mp4", TIMESTEPS)
        arrays = motion(TIMESTEPS)
        tracked = {"expression": "expr", "neck": "neck_pose", "jaw": "jaw_pose", "eyes": "eyes_pose"}
        tracked = {key: arrays[found] for key, found in tracked.items()}  # type: ignore[misc]
        tracking = folder / "sequences" / name / "tracking/flame2023_tracking_v2.npz"
        tracking.parent.mkdir()
        np.savez(
            tracking,
            shape=arrays["shape"][None],
            translation=arrays["translation"],
            rotation_matrices=np.tile(np.eye(3), (TIMESTEPS, 1, 1)),
            rotation=np.zeros((TIMESTEPS, 3)),
            frames=np.arange(TIMESTEPS),
            scale=np.ones(1),
            **tracked,  # type: ignore[arg-type]
        )


# what stages make --------------------------------------------------------------------------------------------


def write_capture(path: Path, subject: str) -> None:
    """A capture store as `osgap import` writes it: three timesteps of training, one of testing."""
    arrays = motion(TIMESTEPS)
    arrays["static_offset"] = arrays["static_offset"][0]
    count = len(SERIALS)
    frames = [(png(picture(10 * t + c)), png(mask())) for t in range(TIMESTEPS) for c in range(count)]
    everything = [(t, c) for t in range(TIMESTEPS) for c in range(count)]
    capture = Capture(
        subject=subject,
        serials=list(SERIALS),
        world_to_camera=poses(),
        intrinsics=np.tile(intrinsics(), (count, 1, 1)),
        width=WIDTH,
        height=HEIGHT,
        timesteps=[("EMO-1-shout+laugh", 0), ("EMO-1-shout+laugh", 1), ("EMO-1-shout+laugh", 2), ("EXP-2-eyes", 0)],
        params=FlameParams(**{name: torch.from_numpy(array) for name, array in arrays.items()}),
        splits={
            "train": np.array([(t, c) for t, c in everything if t < 3 and c != 1]),
            "val": np.array([(t, c) for t, c in everything if t < 3 and c == 1]),
            "test": np.array([(t, c) for t, c in everything if t == 3]),
        },
    )
    provenance = Provenance(stage="import", subject=subject, seed=0, config={}, inputs={}, code={}, versions={})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_store(path, capture, frames, sum(len(a) + len(b) for a, b in frames), provenance)


def write_results(folder: Path) -> None:
    """A fitted avatar, a prior that was trained on somebody else, that one's mean, and the avatar, its maps and its
    motion as another program left them."""
    head = load_head(
        HeadAssets(model=folder / "head/head.pkl", masks=folder / "head/masks.pkl", template=folder / "head/head.obj")
    )
    binding = bind_texels(head.uvs, head.uv_faces, UV_SIZE)
    params = CaptureStore(folder / STORE).params
    start = initial_attributes(head, binding, head.vertices(params, 0)[0], 0.9)
    color = torch.from_numpy(np.random.default_rng(2).normal(0, 1.5, start.color.shape)).float()
    attributes = GaussianAttributes.from_parts(
        position=start.position, rotation=start.rotation, scale=start.scale, opacity=start.opacity, color=color
    )
    Avatar(attributes, binding.faces, params).save(folder / AVATAR)
    write_json(folder / AVATAR / "fit.json", {"subject": SUBJECT, "uv_size": UV_SIZE})
    maps = attributes.to_uv(binding)
    Avatar(attributes, binding.faces, params).save(folder / FOREIGN / SUBJECT)
    save_flame_param(folder / FOREIGN / "motion.npz", params)
    save_uv_gt(folder / FOREIGN / f"{SUBJECT}.npz", maps)
    save_uv_gt(folder / "results/prior/mean_uv.npz", maps)
    torch.manual_seed(0)
    prior = GaussianPrior(ENCODER, maps, torch.ones(maps.shape[-1]), binding.mask)
    save_prior(folder / PRIOR, prior, [OTHER], {})


def npz(**arrays: Any) -> bytes:
    """The bytes of an `.npz`."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()

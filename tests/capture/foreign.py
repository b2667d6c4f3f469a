"""Videos in the layouts of other trackers, written from a head that is posed and seen by one still camera."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from osgap.head.model import HeadModel
from osgap.head.params import FlameParams

WIDTH, HEIGHT = 24, 20
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass
class Video:
    """What is known of a video: the camera, the head's parameters at every timestep, and the pictures."""

    head: HeadModel
    world_to_camera: np.ndarray
    """`[4, 4]` OpenCV axes."""
    intrinsics: np.ndarray
    """`[3, 3]`."""
    params: FlameParams
    images: np.ndarray
    """`[T, H, W, 3]` uint8, with the room."""
    alphas: np.ndarray
    """`[T, H, W]` uint8."""

    @property
    def seen(self) -> np.ndarray:
        """`[T, V, 3]` vertices as the camera sees them."""
        return in_camera(self.head, self.params, self.world_to_camera)

    @property
    def head_motion(self) -> np.ndarray:
        """`[T, 4, 4]` how the head's rotation and translation move the unposed head, whose joint is `J`:
        `x = R (v - J) + J + t`."""
        params = self.params
        regressor, shapedirs = self.head.joint_regressor[0].numpy(), self.head.shapedirs.numpy()
        moved = np.tile(np.eye(4), (params.timesteps, 1, 1))
        for t in range(params.timesteps):
            shaped = self.head.v_template.numpy() + shapedirs @ np.concatenate([params.shape, params.expr[t]])
            joint, turn = regressor @ shaped, Rotation.from_rotvec(params.rotation[t].numpy()).as_matrix()
            moved[t, :3, :3], moved[t, :3, 3] = turn, joint - turn @ joint + params.translation[t].numpy()
        return moved


def in_camera(head: HeadModel, params: FlameParams, world_to_camera: np.ndarray) -> np.ndarray:
    """`[T, V, 3]` posed vertices in the camera's axes."""
    return head.vertices(params).numpy() @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]


def make_video(head: HeadModel, seed: int, timesteps: int = 5, shape: int = 300, expr: int = 100) -> Video:
    """A random video, whose first `shape` and `expr` coefficients are not 0."""
    random = np.random.default_rng(seed)

    def draw(scale: float, width: int, used: int | None = None) -> torch.Tensor:
        values = random.normal(0, scale, (timesteps, width))
        values[:, width if used is None else used :] = 0
        return torch.from_numpy(values).float()

    params = FlameParams(
        shape=draw(1, 300, shape)[0],
        static_offset=torch.zeros(head.vertex_count, 3),
        expr=draw(1, 100, expr),
        rotation=draw(0.4, 3),
        neck_pose=draw(0.2, 3),
        jaw_pose=draw(0.2, 3),
        eyes_pose=draw(0.2, 6),
        translation=draw(0.05, 3),
    )
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(random.normal([np.pi, 0, 0], 0.2)).as_matrix()
    pose[:3, 3] = random.normal([0, 0, 1.0], 0.05)
    matrix = np.array([[60 + random.random(), 0, WIDTH / 2 + 0.5], [0, 61, HEIGHT / 2 - 0.25], [0, 0, 1]])
    images = random.integers(0, 256, (timesteps, HEIGHT, WIDTH, 3), np.uint8)
    alphas = random.choice(np.array([0, 128, 255], np.uint8), (timesteps, HEIGHT, WIDTH))
    return Video(head, pose, matrix, params, images, alphas)


def six(rotation: np.ndarray) -> np.ndarray:
    """A rotation as six numbers: the first two rows of its matrix."""
    return Rotation.from_rotvec(rotation).as_matrix()[:2].ravel()


def write_rgba(path: Path, image: np.ndarray, alpha: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.dstack([image[..., ::-1], alpha]))


def write_metrical(folder: Path, video: Video, first: int = 3, images: str = "images", expr: int = 100) -> Path:
    """metrical-tracker's checkpoints: the head rests (its neck, too), and the camera moves; frames start at `first`."""
    (folder / "checkpoint").mkdir(parents=True)
    cameras = video.world_to_camera @ video.head_motion
    for t in range(video.params.timesteps):
        eyes = video.params.eyes_pose[t].numpy()
        payload = {
            "flame": {
                "shape": video.params.shape.numpy()[None],
                "exp": video.params.expr.numpy()[t : t + 1, :expr],
                "jaw": six(video.params.jaw_pose[t].numpy())[None].astype(np.float32),
                "eyes": np.concatenate([six(eyes[:3]), six(eyes[3:])])[None].astype(np.float32),
                "eyelids": np.full((1, 2), 0.25, np.float32),
                "tex": np.zeros((1, 140), np.float32),
            },
            "camera": {"fl": np.ones((1, 1), np.float32)},
            "opencv": {"R": cameras[t, None, :3, :3], "t": cameras[t, None, :3, 3], "K": video.intrinsics[None]},
            "img_size": np.array([HEIGHT, WIDTH]),
            "frame_id": f"{first + t:05d}",
            "global_step": 7,
        }
        torch.save(payload, folder / "checkpoint" / f"{first + t:05d}.frame")
        write_rgba(folder / images / f"{first + t:05d}.png", video.images[t], video.alphas[t])
    return folder


def write_imavatar(folder: Path, video: Video, *, rgba: bool = False, pixels: bool = False, expr: int = 50) -> Path:
    """IMavatar's layout: the world is four times FLAME's metres, and translations are in the camera's motion."""
    folder.mkdir(parents=True)
    frames: list[dict[str, Any]] = []
    for t in range(video.params.timesteps):
        params = video.params
        moved = np.eye(4)
        moved[:3, 3] = params.translation[t].numpy()
        world_mat = (OPENGL @ video.world_to_camera @ moved)[:3]
        world_mat[:, 3] *= 4
        joints = (params.rotation[t], params.neck_pose[t], params.jaw_pose[t], params.eyes_pose[t])
        frames.append(
            {
                "file_path": f"./image/{t + 1}",
                "world_mat": world_mat.tolist(),
                "expression": params.expr[t, :expr].tolist(),
                "pose": torch.cat(joints).tolist(),
                "bbox": [-1, -1, 1, 1],
            }
        )
        if rgba:
            write_rgba(folder / "images" / f"{t + 1}.png", video.images[t], video.alphas[t])
        else:
            for kind, picture in (("image", video.images[t][..., ::-1]), ("mask", video.alphas[t])):
                (folder / kind).mkdir(exist_ok=True)
                assert cv2.imwrite(str(folder / kind / f"{t + 1}.png"), picture)
    fx, fy, cx, cy = (video.intrinsics[i] for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    intrinsics = np.array([-fx / WIDTH, fy / HEIGHT, cx / WIDTH, cy / HEIGHT]) * (512 if pixels else 1)
    content = {"frames": frames, "intrinsics": intrinsics.tolist(), "shape_params": video.params.shape[:100].tolist()}
    (folder / "flame_params.json").write_text(json.dumps(content))
    return folder

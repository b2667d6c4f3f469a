"""Sixteen cameras around a head, in the frontal arrangement of the NeRSemble rig.

World: metres, y up, the head looks along +z. Camera axes are OpenCV's (x right, y down, z forward). As in NeRSemble,
all cameras share one intrinsics matrix; their order is the order of `nersemble_data.constants.SERIALS`, which runs
from one side of the head to the other with the frontal camera at index 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nersemble_data.constants import SERIALS

FRONTAL = 8
"""Index of the frontal camera, the one that is held out of training."""

HEAD = (0.0, -0.005, -0.03)
"""Middle of head, hair and collar in metres of the synthetic head model: what the cameras look at."""

_DISTANCE = 1.0  # metres from the head
_SIDE_ANGLE = np.deg2rad(70.0)  # of the outermost cameras, so 140 degrees in all
_ELEVATIONS = np.deg2rad([0.0, -14.0, 15.0])  # three rows of cameras, taken in turn
_FOCAL_PER_WIDTH = 3.6  # a head at one metre fills the portrait frame (the real cameras: 8192 pixels for 2200)
_PRINCIPAL_POINT = (0.512, 0.491)  # of width and height: no real sensor is centred
_JITTER_ANGLE = np.deg2rad(0.8)
_JITTER_METRES = 0.006


@dataclass(frozen=True)
class CameraArray:
    """Calibrated cameras."""

    serials: tuple[str, ...]
    """C serial numbers."""
    world_to_camera: np.ndarray
    """`[C, 4, 4]` float64, metres, OpenCV axes."""
    intrinsics: np.ndarray
    """`[3, 3]` float64, pixels; the centre of pixel i lies at i + 0.5."""
    width: int
    height: int

    @property
    def centers(self) -> np.ndarray:
        """Camera centres in the world, `[C, 3]`."""
        rotation, translation = self.world_to_camera[:, :3, :3], self.world_to_camera[:, :3, 3]
        return -np.einsum("cji,cj->ci", rotation, translation)

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points `[N, 3]` to pixels in every camera, `[C, N, 2]`; NaN behind a camera."""
        local = np.einsum("cij,nj->cni", self.world_to_camera[:, :3, :3], points) + self.world_to_camera[:, None, :3, 3]
        depth = np.where(local[..., 2:] > 0, local[..., 2:], np.nan)
        return (local[..., :2] / depth) * np.diag(self.intrinsics)[:2] + self.intrinsics[:2, 2]


def make_cameras(width: int, height: int, seed: int, target: Sequence[float] = HEAD) -> CameraArray:
    """The cameras as they were calibrated for one person: mounts move by millimetres from one recording to the next.

    Args:
        width: of the images, in pixels.
        height: of the images, in pixels.
        seed: decides the small displacement of every camera.
        target: the point that the cameras look at, in metres.
    """
    random = np.random.default_rng(seed)
    left = np.linspace(-_SIDE_ANGLE, 0.0, FRONTAL, endpoint=False)
    right = np.linspace(0.0, _SIDE_ANGLE, len(SERIALS) - FRONTAL)
    azimuths = np.concatenate([left, right])
    elevations = np.resize(_ELEVATIONS, len(SERIALS))
    elevations[FRONTAL] = 0.0
    azimuths = azimuths + random.uniform(-_JITTER_ANGLE, _JITTER_ANGLE, len(SERIALS))
    elevations = elevations + random.uniform(-_JITTER_ANGLE, _JITTER_ANGLE, len(SERIALS))
    directions = np.stack(
        [np.sin(azimuths) * np.cos(elevations), np.sin(elevations), np.cos(azimuths) * np.cos(elevations)], axis=-1
    )
    distances = _DISTANCE + random.uniform(-_JITTER_METRES, _JITTER_METRES, len(SERIALS))
    targets = np.asarray(target) + random.uniform(-_JITTER_METRES, _JITTER_METRES, (len(SERIALS), 3))
    rolls = random.uniform(-_JITTER_ANGLE, _JITTER_ANGLE, len(SERIALS))
    poses = [
        _look_at(target_ + distance * direction, target_, roll)
        for target_, distance, direction, roll in zip(targets, distances, directions, rolls, strict=True)
    ]
    focal = _FOCAL_PER_WIDTH * width
    intrinsics = np.array(
        [[focal, 0.0, _PRINCIPAL_POINT[0] * width], [0.0, focal, _PRINCIPAL_POINT[1] * height], [0.0, 0.0, 1.0]]
    )
    return CameraArray(tuple(SERIALS), np.stack(poses), intrinsics, width, height)


def _look_at(center: np.ndarray, target: np.ndarray, roll: float) -> np.ndarray:
    """World-to-camera matrix `[4, 4]` of a camera that looks from `center` to `target`, turned about its axis."""
    forward = (target - center) / np.linalg.norm(target - center)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cosine, sine = np.cos(roll), np.sin(roll)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([cosine * right + sine * down, cosine * down - sine * right, forward])
    pose[:3, 3] = -pose[:3, :3] @ center
    return pose

"""Source photographs: what the network reads of a person."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from osgap.head.model import rotation_matrices
from osgap.head.params import FlameParams
from osgap.splat.cameras import Cameras


def prepare_source(image: Tensor, size: int) -> Tensor:
    """Pad an image to a square with white and resize it: `[..., H, W, 3]` in 0..1 -> `[..., 3, size, size]`.

    The padding goes to both ends of the shorter axis (the odd pixel to the second end). Resampling is bilinear with
    aligned pixel borders and without antialiasing, as the published network was trained.
    """
    height, width = image.shape[-3:-1]
    side, left, top = square_padding(width, height)
    batch = image.movedim(-1, -3).reshape(-1, 3, height, width)
    batch = F.pad(batch, (left, side - width - left, top, side - height - top), value=1.0)
    if side != size:
        batch = F.interpolate(batch, size=(size, size), mode="bilinear", align_corners=False, antialias=False)
    return batch.reshape(*image.shape[:-3], 3, size, size)


def square_padding(width: int, height: int) -> tuple[int, int, int]:
    """The side of the square that a picture is padded to, and what is added at its left and at its top, in pixels."""
    side = max(height, width)
    return side, (side - width) // 2, (side - height) // 2


def near_frontal(cameras: Cameras, params: FlameParams, frames: np.ndarray, count: int) -> list[int]:
    """The cameras of `frames` that look most directly at the face, the most frontal one first.

    The face looks along +z of the head model, turned by the global rotation; its place is the model's translation.
    Angles are averaged over the timesteps of `frames`.

    Args:
        cameras: C cameras.
        frames: `[M, 2]` (timestep, camera index), what may be chosen.
        count: how many to return, at most.
    """
    timesteps = np.unique(frames[:, 0])
    chosen = params.select(timesteps)
    forward = rotation_matrices(chosen.rotation)[:, :, 2]  # [T, 3]
    towards = F.normalize(cameras.centers[:, None] - chosen.translation, dim=-1)  # [C, T, 3]
    angles = torch.arccos((towards * forward).sum(-1).clamp(-1, 1)).mean(dim=1)
    candidates = sorted({int(camera) for camera in frames[:, 1]}, key=lambda camera: float(angles[camera]))
    return candidates[:count]


def from_side_to_side(cameras: Cameras, middle: Tensor, source: int, others: list[int], count: int) -> list[int]:
    """Cameras that see a head from one side to the other, together with the source camera.

    Cameras are compared by azimuth: the angle about the vertical of the source camera's picture. The places are evenly
    spaced from the leftmost camera to the rightmost. The source camera takes the nearest one, but neither end where
    there are others (unless it is the last camera there itself); each other place takes the nearest camera left.

    Args:
        cameras: C cameras.
        middle: `[3]` where the head is.
        source: index of the source camera.
        others: indices of at least `count - 1` further cameras.
        count: cameras in all.

    Returns:
        The `count - 1` others, from the leftmost.
    """
    axes = cameras.world_to_camera[source, :3, :3]  # right, down, forward
    towards = (cameras.centers - middle) @ axes.T
    azimuth = torch.atan2(towards[:, 0], -towards[:, 2]).tolist()
    own, all_of_them = azimuth[source], [azimuth[camera] for camera in (source, *others)]
    first, last = min(all_of_them), max(all_of_them)
    places = np.linspace(first, last, count).tolist()
    between = places[1:-1] if first < own < last and count > 2 else places
    places.remove(min(between, key=lambda place: abs(place - own)))
    left, chosen = sorted(others), []
    # The ends first: no place between them may take their cameras.
    for place in sorted(places, key=lambda place: -abs(place - (first + last) / 2)):
        chosen.append(min(left, key=lambda camera: abs(azimuth[camera] - place)))
        left.remove(chosen[-1])
    return sorted(chosen, key=lambda camera: azimuth[camera])

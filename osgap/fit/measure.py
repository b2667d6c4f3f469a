"""How well an avatar reproduces frames: PSNR and SSIM of a split, and a picture of some frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from osgap.capture.choice import evenly_spaced
from osgap.capture.pairs import rendered_and_captured
from osgap.capture.prefetch import FrameStore
from osgap.head.model import HeadModel
from osgap.metrics.image_metrics import psnr, ssim
from osgap.runtime.pinned import upload
from osgap.runtime.pixels import tiled
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians

_FRAMES_AT_ONCE = 8
_ERROR_GAIN = 4.0  # an error of a quarter of the range is black


def measure(
    avatar: Avatar, head: HeadModel, store: FrameStore, cameras: Cameras, frames: np.ndarray
) -> dict[str, float | int | None]:
    """Mean PSNR (dB) and SSIM over frames, and how many there are; None for both without frames.

    Rendered values are clamped to 0..1 first.

    Args:
        cameras: `[C]`.
        frames: `[M, 2]` int64 (timestep, camera).
    """
    values = [
        torch.stack((psnr(rendered, captured), ssim(rendered, captured)))
        for rendered, captured in _pairs(avatar, head, store, cameras, frames)
    ]
    if not values:
        return {"psnr": None, "ssim": None, "frames": 0}
    means = torch.cat(values, dim=1).double().mean(dim=1).tolist()
    return {"psnr": means[0], "ssim": means[1], "frames": len(frames)}


def _pairs(
    avatar: Avatar, head: HeadModel, store: FrameStore, cameras: Cameras, frames: np.ndarray
) -> Iterator[tuple[Tensor, Tensor]]:
    timesteps, seen_by = torch.from_numpy(frames).unbind(dim=1)

    # Every frame is posed by itself, as in the fit: posing a timestep once for several frames rounds otherwise.
    def pose(timesteps: Tensor) -> Gaussians:
        return avatar.gaussians(head, upload(timesteps, head.device))

    return rendered_and_captured(pose, timesteps, cameras[seen_by], store, frames, _FRAMES_AT_ONCE)


def preview(avatar: Avatar, head: HeadModel, store: FrameStore, cameras: Cameras, frames: np.ndarray) -> np.ndarray:
    """A grid with a column per frame: captured, rendered, and the absolute error (white is none).

    Returns:
        `[3 H, M W, 3]` uint8.
    """
    rows: tuple[list[Tensor], ...] = ([], [], [])
    for rendered, captured in _pairs(avatar, head, store, cameras, frames):
        error = 1 - _ERROR_GAIN * (rendered - captured).abs()
        for row, images in zip(rows, (captured, rendered, error), strict=True):
            row.extend(images)
    return tiled(rows)


def preview_frames(cameras: Cameras, val: np.ndarray, test: np.ndarray, count: int = 3) -> np.ndarray:
    """Frames that show an avatar from all sides: `count` of the held-out camera, and as many of the test sequences,
    over time and from the leftmost to the rightmost camera.

    Args:
        cameras: `[C]`.
        val: `[M, 2]` int64 frames (timestep, camera) of the held-out camera.
        test: `[M, 2]` int64 frames of the test sequences.

    Returns:
        `[at most 2 count, 2]`.
    """
    held_out = val[evenly_spaced(len(val), count)]
    sides = _by_side(cameras, np.unique(test[:, 1]))
    times = np.unique(test[:, 0])
    chosen = [
        (times[t], sides[c])
        for t, c in zip(evenly_spaced(len(times), count), evenly_spaced(len(sides), count), strict=False)
    ]
    present = {tuple(frame) for frame in test.tolist()}
    turned = np.array([frame for frame in chosen if tuple(map(int, frame)) in present], np.int64).reshape(-1, 2)
    return np.concatenate((held_out, turned))


def _by_side(cameras: Cameras, indices: np.ndarray) -> np.ndarray:
    """Camera indices sorted from one side of the camera array to the other, by the horizontal axis of the mean view."""
    if not len(indices):
        return indices
    chosen = cameras[torch.from_numpy(indices)]
    right = chosen.world_to_camera[:, 0, :3].mean(dim=0)
    return indices[np.argsort((chosen.centers @ right).cpu().numpy(), kind="stable")]

"""How well an avatar reproduces frames: PSNR and SSIM of a split, and a picture of some frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from osgap.capture.batches import FrameStore, read_ahead
from osgap.head.model import HeadModel
from osgap.metrics.image_metrics import psnr, ssim
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.render import render

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
        torch.stack((psnr(rendered, targets), ssim(rendered, targets)))
        for rendered, targets in rendered_and_targets(avatar, head, store, cameras, frames)
    ]
    if not values:
        return {"psnr": None, "ssim": None, "frames": 0}
    means = torch.cat(values, dim=1).double().mean(dim=1).tolist()
    return {"psnr": means[0], "ssim": means[1], "frames": len(frames)}


@torch.no_grad()
def rendered_and_targets(
    avatar: Avatar, head: HeadModel, store: FrameStore, cameras: Cameras, frames: np.ndarray
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of `[b, H, W, 3]` renderings and captured images in 0..1, a few frames at a time."""
    parts = [frames[start : start + _FRAMES_AT_ONCE] for start in range(0, len(frames), _FRAMES_AT_ONCE)]
    for part, targets in zip(parts, read_ahead(store, parts, cameras.world_to_camera.device), strict=True):
        gaussians = avatar.gaussians(head, torch.from_numpy(part[:, 0]))
        rendered = render(gaussians, cameras[torch.from_numpy(part[:, 1])], background=gaussians.means.new_ones(3)).rgb
        yield rendered.clamp(0, 1), targets.to(rendered) / 255


def preview(avatar: Avatar, head: HeadModel, store: FrameStore, cameras: Cameras, frames: np.ndarray) -> np.ndarray:
    """A grid with a column per frame: captured, rendered, and the absolute error (white is none).

    Returns:
        `[3 H, M W, 3]` uint8.
    """
    columns = []
    for rendered, targets in rendered_and_targets(avatar, head, store, cameras, frames):
        error = (1 - _ERROR_GAIN * (rendered - targets).abs()).clamp_min(0)
        columns.append(torch.cat((targets, rendered, error), dim=1))
    grid = torch.cat(list(torch.cat(columns)), dim=1)
    return (grid * 255).round().byte().cpu().numpy()


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
    held_out = val[_spread(len(val), count)]
    sides = _by_side(cameras, np.unique(test[:, 1]))
    times = np.unique(test[:, 0])
    chosen = [
        (times[t], sides[c]) for t, c in zip(_spread(len(times), count), _spread(len(sides), count), strict=False)
    ]
    present = {tuple(frame) for frame in test.tolist()}
    turned = np.array([frame for frame in chosen if tuple(map(int, frame)) in present], np.int64).reshape(-1, 2)
    return np.concatenate((held_out, turned))


def _spread(length: int, count: int) -> np.ndarray:
    """Up to `count` different indices, evenly spaced from first to last."""
    return np.unique(np.linspace(0, length - 1, count).round().astype(np.int64)) if length else np.zeros(0, np.int64)


def _by_side(cameras: Cameras, indices: np.ndarray) -> np.ndarray:
    """Camera indices sorted from one side of the rig to the other, by the horizontal axis of the mean view."""
    if not len(indices):
        return indices
    chosen = cameras[torch.from_numpy(indices)]
    right = chosen.world_to_camera[:, 0, :3].mean(dim=0)
    return indices[np.argsort((chosen.centers @ right).cpu().numpy(), kind="stable")]

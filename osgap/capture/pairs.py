"""An avatar's frames beside those that the cameras took."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from osgap.capture.prefetch import FrameStore, read_ahead
from osgap.runtime.pixels import to_float
from osgap.splat.cameras import Cameras
from osgap.splat.sequence import Pose, images_on_white


def rendered_and_captured(
    pose: Pose, timesteps: Tensor, cameras: Cameras, store: FrameStore, frames: np.ndarray, at_once: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of `[b, H, W, 3]` renderings and captured images in 0..1, in order, b at most `at_once`.

    Args:
        pose: see `osgap.splat.sequence.Pose`.
        timesteps: `[M]` int64 in host memory, of the motion that `pose` poses.
        cameras: `[M]`, on the device that renders.
        frames: `[M, 2]` (timestep, camera) of the store. Its timesteps need not be those of the motion.
    """
    rendered = images_on_white(pose, timesteps, cameras, at_once)
    parts = [frames[start : start + at_once] for start in range(0, len(frames), at_once)]
    for images, captured in zip(rendered, read_ahead(store, parts, cameras.world_to_camera.device), strict=True):
        yield images, to_float(captured)

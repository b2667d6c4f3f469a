"""How far hair and clothes may stand off a head: the visual hull of the masks, along the normals of the surface."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import TexelBinding
from osgap.head.triangles import triangle_frames
from osgap.splat.cameras import Cameras

_STEPS = 40  # along a normal
_SKIN = 0.004  # metres; no more than that is tracking, eyebrows and what lies hollow between the cameras
_INSIDE = 0.002  # metres; hair does not fill its hull


class MaskStore(Protocol):
    """What is needed of `osgap.capture.store.CaptureStore`."""

    def masks(self, frames: np.ndarray) -> np.ndarray:
        """`[M, H, W]` uint8 of frames `[M, 2]` (timestep, camera)."""


@torch.no_grad()
def lifts(
    store: MaskStore,
    train: np.ndarray,
    head: HeadModel,
    binding: TexelBinding,
    params: FlameParams,
    cameras: Cameras,
    reach: float,
) -> Tensor:
    """How far above the surface each texel's Gaussian starts, `[N]` metres: just inside the hull, where that ends.

    0 where it ends at the skin, and where it does not end within `reach` (the inside of the mouth, say).

    Args:
        train: `[M, 2]` int64 (timestep, camera) training frames; those of the first timestep are looked at.
        head: on the device that computes, as all that follows.
        binding: of N texels.
        params: tracked, all timesteps.
        cameras: `[C]`.
        reach: largest distance, metres.
    """
    frames = train[train[:, 0] == train[:, 0].min()]
    vertices = head.vertices(params, [int(frames[0, 0])])[0]
    corners = head.faces[binding.faces]
    points = (binding.barycentric[..., None] * vertices[corners]).sum(dim=-2)
    normals = triangle_frames(vertices, corners).rotation[..., 1]
    masks = torch.from_numpy(store.masks(frames) > 127).to(head.device)
    distances = hull_distances(points, normals, masks, cameras[torch.from_numpy(frames[:, 1])], reach)
    ends = (distances > _SKIN) & (distances < reach)
    return torch.where(ends, distances - _INSIDE, 0.0)


@torch.no_grad()
def hull_distances(points: Tensor, normals: Tensor, masks: Tensor, cameras: Cameras, reach: float) -> Tensor:
    """How far each point can move along its normal before a photograph shows background there, `[N]` metres.

    The visual hull (Laurentini, "The visual hull concept for silhouette-based image understanding", PAMI 1994) of
    masks, looked up at some places along each normal. What lies beyond a picture says nothing.

    Args:
        points: `[N, 3]` world units.
        normals: `[N, 3]` unit vectors.
        masks: `[C, H, W]` bool, where the person is.
        cameras: `[C]` that took them.
        reach: largest distance, in world units.

    Returns:
        `[N]` from 0 to `reach`.
    """
    distances = torch.linspace(0, reach, _STEPS + 1, device=points.device)
    inside = torch.ones(len(points), len(distances), dtype=torch.bool, device=points.device)
    for mask, world_to_camera, intrinsics in zip(masks, cameras.world_to_camera, cameras.intrinsics, strict=True):
        rotation, translation = world_to_camera[:3, :3], world_to_camera[:3, 3]
        start, step = points @ rotation.T + translation, normals @ rotation.T
        seen = start[:, None] + distances[:, None] * step[:, None]
        x = (seen[..., 0] / seen[..., 2] * intrinsics[0, 0] + intrinsics[0, 2]).floor().long()
        y = (seen[..., 1] / seen[..., 2] * intrinsics[1, 1] + intrinsics[1, 2]).floor().long()
        beyond = (x < 0) | (x >= cameras.width) | (y < 0) | (y >= cameras.height) | (seen[..., 2] <= 0)
        inside &= beyond | mask[y.clamp(0, cameras.height - 1), x.clamp(0, cameras.width - 1)]
    steps = inside.long().cumprod(dim=1).sum(dim=1)
    return distances[(steps - 1).clamp_min(0)]

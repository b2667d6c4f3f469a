"""From triangle-local Gaussians to world space (GaussianAvatars, Qian et al., CVPR 2024, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from osgap.head.triangles import TriangleFrames, triangle_frames
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.gaussians import Gaussians


@dataclass(frozen=True)
class BoundTriangles:
    """The triangles that carry Gaussians, each once, and which one carries each Gaussian."""

    triangles: Tensor
    """`[U, 3]` vertex ids."""
    slots: Tensor
    """`[N]` index into `triangles`."""

    @cached_property
    def corners(self) -> Tensor:
        """`[N, 3]` vertex ids of each Gaussian's triangle."""
        with torch.inference_mode(False):  # outlives the call; autograd refuses inference tensors
            return self.triangles[self.slots]


def bind_triangles(head_faces: Tensor, faces: Tensor) -> BoundTriangles:
    """Keep only the triangles that carry Gaussians, so that only their frames are computed.

    Args:
        head_faces: `[F, 3]` all triangles of the head.
        faces: `[N]` int64 triangle of each Gaussian.
    """
    used, slots = torch.unique(faces, return_inverse=True)
    return BoundTriangles(head_faces[used], slots)


def pose(attributes: GaussianAttributes, vertices: Tensor, bound: BoundTriangles) -> Gaussians:
    """World-space Gaussians on a posed mesh; differentiable in attributes and vertices.

    Float32 tensors on CUDA take a compiled kernel, which differentiates once. Where an edge or the height of a triangle
    vanishes, it has no gradient of the frame's direction; torch's has one of whatever the rounding leaves.

    Args:
        attributes: `[N, C]`, or `[B, N, C]`.
        vertices: `[V, 3]`, or `[B, V, 3]`.
        bound: see `bind_triangles`.

    Returns:
        Gaussians `[B, N, ...]`, or `[N, ...]` when neither input has a batch.
    """
    channels = attributes.channels
    if channels.is_cuda and channels.dtype == vertices.dtype == torch.float32 and max(channels.ndim, vertices.ndim) < 4:
        return _pose_on_cuda(attributes, vertices, bound.corners)
    return to_world(attributes, triangle_frames(vertices, bound.triangles), bound.slots)


def _pose_on_cuda(attributes: GaussianAttributes, vertices: Tensor, corners: Tensor) -> Gaussians:
    from osgap.splat import rig_triton  # compiled code: loaded by those who need it only

    if len(attributes) != corners.shape[0]:
        raise ValueError(f"pose: {len(attributes)} Gaussians but {corners.shape[0]} triangles")
    channels, batched = attributes.channels, attributes.channels.ndim == 3 or vertices.ndim == 3
    meshes = vertices if vertices.ndim == 3 else vertices[None]
    own = channels.ndim == 3 and channels.shape[0] > 1
    if own:
        meshes = meshes.expand(channels.shape[0], -1, -1)
    means, rotations, scales, opacities, colors = rig_triton.pose(
        channels if own or channels.ndim == 2 else channels[0], meshes, corners
    )
    lead = means.shape[:1] if batched else torch.Size()
    return Gaussians(
        means=means if batched else means[0],
        rotations=rotations if batched else rotations[0],
        scales=scales if batched else scales[0],
        opacities=_with_batch(opacities, lead, 1),
        colors=_with_batch(colors, lead, 2),
        features=None if attributes.features is None else _with_batch(attributes.features, lead, 2),
    )


def to_world(attributes: GaussianAttributes, frames: TriangleFrames, faces: Tensor) -> Gaussians:
    """World-space Gaussians, activated; differentiable in attributes and frames.

    Position: `scale * rotation @ x + center`. Standard deviations: times the triangle's scale. Rotation: the
    triangle's quaternion times the local one (Hamilton product).

    Args:
        attributes: `[N, C]`, or `[B, N, C]`.
        frames: of `F` triangles, `[F, ...]`, or `[B, F, ...]`.
        faces: `[N]` int64 index of each Gaussian's triangle in `frames`.

    Returns:
        Gaussians `[B, N, ...]`, or `[N, ...]` when neither input has a batch.
    """
    if len(attributes) != faces.shape[0]:
        raise ValueError(f"to_world: {len(attributes)} Gaussians but {faces.shape[0]} triangle indices")
    # Everything is laid out with Gaussians along the last axis in memory (shapes stay as documented): elementwise work
    # on long rows is several times faster on a CPU.
    local = GaussianAttributes(attributes.channels.transpose(-1, -2).contiguous().transpose(-1, -2))
    scale, center, quaternion = (
        values.transpose(-1, -2).index_select(-1, faces).transpose(-1, -2)
        for values in (frames.scale, frames.center, frames.quaternion)
    )
    rotation = (frames.rotation * frames.scale[..., None]).movedim(-3, -1).index_select(-1, faces).movedim(-1, -3)
    means = (rotation * local.position[..., None, :]).sum(-1) + center
    rotations = quaternion_product(quaternion, local.rotations())
    scales = local.scales() * scale
    batch = means.shape[:-2]
    return Gaussians(
        means=means,
        rotations=rotations,
        scales=scales,
        opacities=_with_batch(local.opacities(), batch, 1),
        colors=_with_batch(local.colors(), batch, 2),
        features=None if local.features is None else _with_batch(local.features, batch, 2),
    )


def _with_batch(values: Tensor, batch: torch.Size, trailing: int) -> Tensor:
    return values.expand(*batch, *values.shape[-trailing:])


def quaternion_product(left: Tensor, right: Tensor) -> Tensor:
    """Hamilton product of quaternions `[..., 4]`, wxyz: the rotation `right`, then `left`."""
    a, u = left[..., :1], left[..., 1:]
    b, v = right[..., :1], right[..., 1:]
    u, v = torch.broadcast_tensors(u, v)
    scalar = a * b - (u * v).sum(-1, keepdim=True)
    return torch.cat((scalar, a * v + b * u + torch.linalg.cross(u, v, dim=-1)), dim=-1)

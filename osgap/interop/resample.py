"""Attribute maps from one UV size to another, over the surface that they lie on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from osgap.head.model import HeadModel
from osgap.head.texels import TexelBinding, bind_texels
from osgap.head.triangles import TriangleFrames, triangle_frames
from osgap.splat.attributes import N_CHANNELS, GaussianAttributes
from osgap.splat.rig import quaternion_product

_REACH = 2.0  # a neighbour may be this many times as far on the surface as the triangle's own UV stretch says
_CANDIDATES = 32  # covered texels near a texel without usable neighbours, among which the best one is taken
_MIN_SCALE = 1e-6  # metres; keeps what is relative to a degenerate triangle finite


def resample_maps(maps: Tensor, head: HeadModel, size: int) -> Tensor:
    """Attribute maps of another size that show the same head.

    Each texel takes the bilinear mean of the covered source texels around it that lie near it on the surface of the
    head at rest: on the same UV island, facing the same side, and no further away than neighbouring texels are there.
    Uncovered texels are never read, and neither is the other lip across a closed mouth. A texel without such a
    neighbour takes the nearest one on the surface.

    Attributes are relative to triangles, so what is averaged are lengths and directions in the space of the head at
    rest: the displacement from the texel's own point of the surface, the standard deviations, the rotation (quaternions
    of one sign); opacity logits and colours as they are. Standard deviations grow by the ratio of the sizes, so that
    fewer Gaussians still cover the surface.

    Args:
        maps: `[S, S, 14]`, before activation.
        head: the head model; its mean head at rest is the surface.
        size: of the result.

    Returns:
        `[size, size, 14]`, zero where no triangle covers the texel; rotations are unit quaternions. With `size` = S the
        maps as they are, bit for bit.

    Raises:
        UserError: when no texel of the size is covered.
    """
    if maps.ndim != 3 or maps.shape[0] != maps.shape[1] or maps.shape[2] != N_CHANNELS:
        raise ValueError(f"resample_maps takes maps [S, S, {N_CHANNELS}], got {tuple(maps.shape)}")
    if maps.shape[0] == size:
        return maps
    source, target = (Surface.of(head, bind_texels(head.uvs, head.uv_faces, s)) for s in (maps.shape[0], size))
    neighbours, weights = _neighbours(source, target)

    local = GaussianAttributes.from_uv(maps.double(), source.binding)
    displacement = _turn(source.frames.rotation, local.position) * source.frames.scale
    displacement = displacement + source.frames.center - source.points
    rotation = quaternion_product(source.frames.quaternion, local.rotations())
    scale = local.scale + source.frames.scale.log()

    displacement = _mean(displacement, neighbours, weights) + target.points - target.frames.center
    conjugate = target.frames.quaternion * rotation.new_tensor([1, -1, -1, -1])
    resampled = GaussianAttributes.from_parts(
        position=_turn(target.frames.rotation.transpose(-1, -2), displacement) / target.frames.scale,
        rotation=quaternion_product(conjugate, _mean_rotation(rotation, neighbours, weights)),
        scale=_log_mean(scale, neighbours, weights) - target.frames.scale.log() + math.log(maps.shape[0] / size),
        opacity=_mean(local.opacity, neighbours, weights),
        color=_mean(local.color, neighbours, weights),
    )
    return resampled.to_uv(target.binding).to(maps.dtype)


@dataclass(frozen=True)
class Surface:
    """Where the `N` covered texels of a UV map are on the head at rest; float64."""

    binding: TexelBinding
    frames: TriangleFrames
    """Of each texel's triangle, `[N, ...]`."""
    points: Tensor
    """`[N, 3]` metres."""
    stretch: Tensor
    """`[N, 3, 2]` how the point moves with (row, column) in UV space, metres per side of the map."""
    islands: Tensor
    """`[N]` int64: which connected part of the UV layout the texel is on."""

    @classmethod
    def of(cls, head: HeadModel, binding: TexelBinding) -> Surface:
        """The texels of `binding` on the mean head."""
        corners = head.v_template.double()[head.faces[binding.faces]]
        frames = triangle_frames(head.v_template.double(), head.faces[binding.faces])
        uvs = head.uvs.double()[head.uv_faces[binding.faces]]
        texels = torch.stack((1 - uvs[..., 1], uvs[..., 0]), dim=-1)  # (row, column), 0 to 1
        # The map from UV to space is linear on a triangle: (edges in space) = stretch (edges in UV).
        edges, uv_edges = (
            torch.stack((values[:, 1] - values[:, 0], values[:, 2] - values[:, 0]), dim=-1)
            for values in (corners, texels)
        )
        return cls(
            binding=binding,
            frames=TriangleFrames(
                frames.rotation, frames.quaternion, frames.scale.clamp_min(_MIN_SCALE), frames.center
            ),
            points=(binding.barycentric.double()[..., None] * corners).sum(-2),
            stretch=edges @ torch.linalg.inv(uv_edges),
            islands=_islands(head)[binding.faces],
        )

    @property
    def normals(self) -> Tensor:
        """`[N, 3]` unit normals of the triangles."""
        return self.frames.rotation[..., 1]


def _islands(head: HeadModel) -> Tensor:
    """Which connected part of the UV layout each triangle belongs to, `[F]` int64."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    corners = head.uv_faces.numpy()
    rows, columns = np.concatenate((corners[:, :2], corners[:, 1:])).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(head.uvs),) * 2)
    labels = connected_components(graph, directed=False)[1].astype(np.int64)
    return torch.from_numpy(labels[corners[:, 0]])


def _neighbours(source: Surface, target: Surface) -> tuple[Tensor, Tensor]:
    """For each target texel four source Gaussians, `[N, 4]` int64, and their weights `[N, 4]`, which sum to 1."""
    size = source.binding.size
    slots = torch.full((size, size), -1, dtype=torch.int64)
    slots[source.binding.mask] = torch.arange(len(source.binding))
    position = (target.binding.texels.double() + 0.5) * size / target.binding.size - 0.5
    corner = position.floor().long()
    offsets = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    texels = corner[:, None] + offsets  # [N, 4, 2]
    weights = (1 - (position[:, None] - texels).abs()).prod(-1)
    inside = ((texels >= 0) & (texels < size)).all(-1)
    neighbours = torch.where(inside, slots[tuple(texels.clamp(0, size - 1).unbind(-1))], -1)
    covered = neighbours >= 0
    neighbours = neighbours.clamp_min(0)

    expected = target.stretch[:, None] @ ((texels - position[:, None]) / size)[..., None]
    distance = (source.points[neighbours] - target.points[:, None]).norm(dim=-1)
    spacing = target.stretch.square().sum((-2, -1)).sqrt() / size  # of neighbouring source texels, here
    near = distance <= _REACH * torch.maximum(expected[..., 0].norm(dim=-1), spacing[:, None])
    same_island = source.islands[neighbours] == target.islands[:, None]
    same_side = (source.normals[neighbours] * target.normals[:, None]).sum(-1) > 0
    weights = torch.where(covered & near & same_island & same_side, weights, 0)

    alone = torch.nonzero(weights.sum(-1) < 1e-6)[:, 0]
    if len(alone):
        neighbours[alone, 0] = _nearest(source, target, alone)
        weights[alone] = weights.new_tensor([1, 0, 0, 0])
    return neighbours, weights / weights.sum(-1, keepdim=True)


def _nearest(source: Surface, target: Surface, texels: Tensor) -> Tensor:
    """The source Gaussian nearest to each of some target texels; on its own island and side, where there is one."""
    from scipy.spatial import KDTree

    count = min(_CANDIDATES, len(source.binding))
    distance, found = KDTree(source.points.numpy()).query(target.points[texels].numpy(), k=count)
    candidates = torch.from_numpy(found.astype(np.int64).reshape(-1, count))
    cost = torch.from_numpy(distance.reshape(-1, count))
    worst = cost.max() + 1
    cost = cost + worst * 2 * (source.islands[candidates] != target.islands[texels, None])
    facing = (source.normals[candidates] * target.normals[texels, None]).sum(-1)
    cost = cost + worst * (facing <= 0)
    return candidates.gather(-1, cost.argmin(-1, keepdim=True))[:, 0]


def _mean(values: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
    """Weighted means `[N, C]` of rows of `values` `[M, C]`."""
    return (values[neighbours] * weights[..., None]).sum(-2)


def _log_mean(values: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
    """Logarithms of the weighted means of values that are given by their logarithms."""
    return torch.logsumexp(values[neighbours] + weights.log()[..., None], dim=-2)


def _mean_rotation(rotation: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean rotations, `[N, 4]` unit quaternions, of unit quaternions `[M, 4]` of any sign."""
    around = rotation[neighbours]
    leading = around.gather(-2, weights.argmax(-1)[:, None, None].expand(-1, 1, 4))
    sign = torch.where((around * leading).sum(-1) < 0, -1.0, 1.0)
    return functional.normalize((around * (sign * weights)[..., None]).sum(-2), dim=-1)


def _turn(rotation: Tensor, vectors: Tensor) -> Tensor:
    return (rotation @ vectors[..., None])[..., 0]

"""The local coordinate frame of every triangle, as in GaussianAvatars (Qian et al., CVPR 2024, section 3.1), and the
normals of vertices.

Axes of a triangle `(v0, v1, v2)`: along its first edge, along its normal, and their cross product. The scale is the
mean of the first edge's length and the height over it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MIN_LENGTH = 1e-10  # of an edge; keeps degenerate triangles finite


def _outer_of_matrix() -> list[list[float]]:
    """The linear part of `4 q q^T` (16 entries) as a function of the rotation matrix (9 entries).

    The constant part is the identity. Rows and columns are wxyz, matrices are row-major.
    """
    diagonal = {0: (1.0, 1.0, 1.0), 1: (1.0, -1.0, -1.0), 2: (-1.0, 1.0, -1.0), 3: (-1.0, -1.0, 1.0)}
    pairs = {(0, 1): (7, -5), (0, 2): (2, -6), (0, 3): (3, -1), (1, 2): (1, 3), (1, 3): (2, 6), (2, 3): (5, 7)}
    table = [[0.0] * 9 for _ in range(16)]
    for row, signs in diagonal.items():
        for axis, sign in enumerate(signs):
            table[row * 4 + row][axis * 4] = sign
    for (row, column), terms in pairs.items():
        for term in terms:
            sign = math.copysign(1.0, term)
            table[row * 4 + column][abs(term)] = table[column * 4 + row][abs(term)] = sign
    return table


@functools.cache
def _outer_tensor(dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # outlives the call; autograd refuses inference tensors
        return torch.tensor(_outer_of_matrix(), dtype=dtype, device=device)


@dataclass(frozen=True)
class TriangleFrames:
    """Frames of `F` triangles: a local point `x` is at `scale * rotation @ x + center` in the mesh's space."""

    rotation: Tensor
    """`[..., F, 3, 3]` columns are the axes (right-handed)."""
    quaternion: Tensor
    """`[..., F, 4]` wxyz, the same rotation as a unit quaternion."""
    scale: Tensor
    """`[..., F, 1]` in the mesh's unit."""
    center: Tensor
    """`[..., F, 3]` centroid."""


def triangle_frames(vertices: Tensor, faces: Tensor) -> TriangleFrames:
    """The frames of some or all triangles of a mesh. Differentiable in `vertices`.

    Args:
        vertices: `[..., V, 3]`.
        faces: `[F, 3]` int64, any subset of the mesh's triangles in any order.
    """
    if vertices.shape[-1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(
            f"triangle_frames takes vertices [..., V, 3] and faces [F, 3], got {tuple(vertices.shape)} and "
            f"{tuple(faces.shape)}"
        )
    # Coordinates first, triangles last: elementwise work on long rows is several times faster on a CPU.
    corners = vertices.transpose(-1, -2).index_select(-1, faces.T.reshape(-1)).unflatten(-1, (3, -1))
    v0, v1, v2 = corners.unbind(-2)
    edge, side = v1 - v0, v2 - v0
    length = _lengths(edge)
    first = edge / length
    normal = torch.linalg.cross(first, side, dim=-2)
    normal = normal / _lengths(normal)
    third = torch.linalg.cross(first, normal, dim=-2)  # a unit vector already
    height = (third * side).sum(-2, keepdim=True).abs()
    rotation = torch.stack((first, normal, third), dim=-2)
    return TriangleFrames(
        rotation=rotation.movedim(-1, -3),
        quaternion=_quaternion_rows(rotation.flatten(-3, -2)).transpose(-1, -2),
        scale=((length + height) / 2).transpose(-1, -2),
        center=corners.mean(-2).transpose(-1, -2),
    )


def quaternion_from_matrix(rotation: Tensor) -> Tensor:
    """Unit quaternions `[..., 4]` (wxyz) of rotation matrices `[..., 3, 3]`; the sign is free."""
    return _quaternion_rows(rotation.flatten(-2)[..., None]).squeeze(-1)


def _quaternion_rows(rotation: Tensor) -> Tensor:
    """Unit quaternions `[..., 4, F]` of rotation matrices given as rows `[..., 9, F]`.

    The 16 entries of `4 q q^T` are sums of matrix entries. The row of the largest component is well conditioned for
    every rotation, so it alone is used (Shepperd 1978); the gradient is exact wherever that choice is constant.
    """
    outer = (_outer_tensor(rotation.dtype, rotation.device) @ rotation).unflatten(-2, (4, 4))
    outer = outer + torch.eye(4, dtype=rotation.dtype, device=rotation.device)[..., None]
    ww, xx, yy, zz = outer.detach().diagonal(dim1=-3, dim2=-2).unbind(-1)
    # argmax over four rows, which torch.argmax does 20 times slower
    largest = torch.where(torch.maximum(ww, xx) >= torch.maximum(yy, zz), (xx > ww).long(), 2 + (zz > yy).long())
    index = largest[..., None, None, :].expand(*largest.shape[:-1], 1, 4, largest.shape[-1])
    row = outer.gather(-3, index).squeeze(-3)
    return row / _lengths(row)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals `[V, 3]` float64: of the triangles around each vertex, weighted by area. Where there is none, +z.

    Args:
        vertices: `[V, 3]`.
        faces: `[F, 3]`, counter-clockwise from outside.
    """
    first, second, third = (vertices[faces[:, corner]].astype(np.float64) for corner in range(3))
    doubled = np.cross(second - first, third - first).T
    normals = np.stack([np.bincount(faces.ravel(), np.repeat(row, 3), len(vertices)) for row in doubled], axis=-1)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    return np.where(length > 0, normals / np.where(length > 0, length, 1), [0.0, 0.0, 1.0])


def _lengths(vectors: Tensor) -> Tensor:
    """Lengths `[..., 1, F]` of vectors `[..., C, F]`; `torch.linalg.norm` is slow along this axis."""
    return (vectors * vectors).sum(-2, keepdim=True).clamp_min(MIN_LENGTH**2).sqrt()

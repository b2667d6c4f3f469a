"""Which triangle each texel of a UV map lies in.

A texel belongs to a triangle when its centre is strictly inside; where triangles overlap, counter-clockwise ones win
over clockwise ones, then the one with the smaller signed area, then the lower index. These are the rules that
PyTorch3D's rasteriser follows on a flat mesh, which OSGAP uses to bind its Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from osgap.runtime.errors import UserError

_MIN_AREA = 1e-8  # of PyTorch3D's signed area, in a [-1, 1] square: 8 times the UV triangle's area
_PAIRS_PER_BATCH = 1 << 21  # bounds the memory that large triangles need


@dataclass(frozen=True)
class TexelBinding:
    """The covered texels of a UV map in row-major order, and where on the mesh each one is."""

    size: int
    """S, texels along each side."""
    mask: Tensor
    """`[S, S]` bool, covered texels. Row 0 is the top of the texture (v near 1)."""
    texels: Tensor
    """`[N, 2]` int64 row and column of the covered texels."""
    faces: Tensor
    """`[N]` int64 triangle of each covered texel."""
    barycentric: Tensor
    """`[N, 3]` float32 weights of the triangle's corners at the texel's centre; they sum to 1."""

    def __len__(self) -> int:
        return self.faces.shape[0]

    def to(self, device: torch.device | str) -> TexelBinding:
        """All tensors on `device`."""
        tensors = (self.mask, self.texels, self.faces, self.barycentric)
        return TexelBinding(self.size, *(tensor.to(device) for tensor in tensors))


def bind_texels(uvs: Tensor, uv_faces: Tensor, size: int) -> TexelBinding:
    """Bind the texels of a `size` x `size` UV map to the triangles that cover their centres.

    The centre of texel (row r, column c) is at u = (c + 0.5) / size, v = 1 - (r + 0.5) / size. Computed in float64.

    Args:
        uvs: `[VT, 2]` u to the right, v up.
        uv_faces: `[F, 3]` corners of each triangle in `uvs`.
        size: S, texels along each side.

    Raises:
        UserError: when no texel is covered.
    """
    if size < 1:
        raise ValueError(f"bind_texels: size must be at least 1, got {size}")
    corners = uvs.detach().cpu().double().numpy()[uv_faces.cpu().numpy()]
    area = 4 * _cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    # Drawn from the last winner to the first, so that what is drawn later may simply overwrite.
    order = np.lexsort((np.arange(len(area)), area, area < 0))[::-1]
    order = order[np.abs(area[order]) > _MIN_AREA]

    winner = np.full(size * size, -1, np.int64)
    for batch in _batches(order, corners, size):
        texel, face = _covered(corners, batch, size)
        # numpy assigns repeated indices in order: the last face, which has precedence, stays.
        winner[texel] = face
    covered = np.flatnonzero(winner >= 0)
    if len(covered) == 0:
        raise UserError(
            f"The UV layout covers no texel of a {size} x {size} map. Check that the head template's UVs lie in "
            f"[0, 1] (found {corners.min():.3g} to {corners.max():.3g}), or use a larger UV size."
        )
    faces = winner[covered]
    texels = np.stack((covered // size, covered % size), axis=-1)
    edges = _edge_functions(corners[faces], _centres(texels, size))
    weights = edges / edges.sum(-1, keepdims=True)
    return TexelBinding(
        size=size,
        mask=torch.from_numpy((winner >= 0).reshape(size, size)),
        texels=torch.from_numpy(texels),
        faces=torch.from_numpy(faces),
        barycentric=torch.from_numpy(weights.astype(np.float32)),
    )


def _batches(order: np.ndarray, corners: np.ndarray, size: int) -> list[np.ndarray]:
    """Runs of `order` whose bounding boxes hold about `_PAIRS_PER_BATCH` texels in all."""
    low, high = _texel_boxes(corners[order], size)
    run = np.cumsum(np.prod(high - low, axis=-1)) // _PAIRS_PER_BATCH
    return np.split(order, np.flatnonzero(np.diff(run)) + 1)


def _texel_boxes(corners: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """First and one-past-last (row, column) of the texels around each triangle, `[F, 2]` each."""
    positions = np.stack((1 - corners[..., 1], corners[..., 0]), axis=-1) * size - 0.5
    low = np.clip(np.floor(positions.min(-2)), 0, size).astype(np.int64)
    high = np.clip(np.ceil(positions.max(-2)) + 1, 0, size).astype(np.int64)
    return low, np.maximum(low, high)


def _covered(corners: np.ndarray, faces: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """All (flat texel, face) pairs where the texel's centre is strictly inside the face, in the order of `faces`."""
    low, high = _texel_boxes(corners[faces], size)
    extent = high - low
    count = np.prod(extent, axis=-1)
    slot = np.repeat(np.arange(len(faces)), count)
    position = np.arange(len(slot)) - np.repeat(np.cumsum(count) - count, count)
    columns = extent[slot, 1]
    texels = low[slot] + np.stack((position // columns, position % columns), axis=-1)
    edges = _edge_functions(corners[faces[slot]], _centres(texels, size))
    inside = np.all(edges > 0, axis=-1) | np.all(edges < 0, axis=-1)
    texels = texels[inside]
    return texels[:, 0] * size + texels[:, 1], faces[slot[inside]]


def _centres(texels: np.ndarray, size: int) -> np.ndarray:
    """(u, v) of texel centres, `[M, 2]`."""
    return np.stack(((texels[:, 1] + 0.5) / size, 1 - (texels[:, 0] + 0.5) / size), axis=-1)


def _edge_functions(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Twice the signed areas that `points` `[M, 2]` span with the edges opposite each corner, `[M, 3]`."""
    rays = corners - points[:, None]
    return np.stack([_cross(rays[:, (i + 1) % 3], rays[:, (i + 2) % 3]) for i in range(3)], axis=-1)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]

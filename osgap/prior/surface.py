"""Where photographs show the surface of a head: the place of every texel in them, and whether it can be seen there.

A texel's point lies on the posed mesh, at its barycentric coordinates in its triangle. It is hidden where another part
of the mesh is nearer to the camera. That is found with a depth buffer over the head's own frame in the picture, into
which points that cover the mesh densely are drawn, each into one cell (shadow mapping, Williams 1978, with the
slope-scaled bias that is usual there). Nothing waits for a GPU, and the least depth is the same in whatever order it
is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from osgap.head.model import HeadModel
from osgap.head.texels import TexelBinding
from osgap.prior.source import square_padding
from osgap.splat.cameras import Cameras

_CELLS = 96  # of the depth buffer along the longer side of the head's frame
_DENSITY = 1.0  # longest edge of the small triangles whose centres are drawn, in cells: hardly one is left empty
_MOST_CUTS = 96  # of a triangle's edge
_TOLERANCE = 0.003  # metres that a point may lie behind the nearest one and still be seen; hidden at twice that
_STEEPEST = 3.0  # slope up to which a cell's own depth range is allowed for
_GRAZING = 0.1  # cosine up to which a texel counts as seen in part only
_NEAREST = 1e-3  # metres


class SurfaceViews(NamedTuple):
    """How K photographs of each of B people show the N texels of their maps; float32."""

    places: Tensor
    """`[B, K, N, 2]` in the square picture that the network reads: x to the right and y down, from -1 to 1 between its
    borders, as `F.grid_sample(align_corners=False)` takes them; beyond that outside."""
    visible: Tensor
    """`[B, K, N]` in 0..1: 0 outside the picture, on the side turned away, and behind other parts of the head."""
    facing: Tensor
    """`[B, K, N]` cosine of the angle between the surface's normal and the ray to the camera."""
    normals: Tensor
    """`[B, K, N, 3]` unit normals in camera axes: x right, y down, z forward."""

    def moved(self, shift: Tensor, scale: Tensor) -> SurfaceViews:
        """The same texels in pictures that were scaled about their middle and then shifted.

        Args:
            shift: `[B, K, 2]` in the units of `places`.
            scale: `[B, K]` factor.
        """
        places = self.places * scale[..., None, None] + shift[..., None, :]
        return self._replace(places=places, visible=self.visible * _inside(places))


@dataclass(frozen=True)
class Surface:
    """What of a head's mesh and of its texels is needed to find them in photographs; the same for all people."""

    corners: Tensor
    """`[N, 3]` vertex ids of each texel's triangle."""
    barycentric: Tensor
    """`[N, 3]` weights of these vertices at the texel's centre."""
    dense_corners: Tensor
    """`[M, 3]` vertex ids, of points that cover the whole mesh densely."""
    dense_barycentric: Tensor
    """`[M, 3]`."""

    @classmethod
    def build(cls, head: HeadModel, binding: TexelBinding) -> Surface:
        """For the texels of `binding` on `head`, on the head's device."""
        corners = head.faces[binding.faces.to(head.device)]
        faces, template = head.faces.cpu().numpy(), head.v_template.double().cpu().numpy()
        edges = np.linalg.norm(template[faces] - template[np.roll(faces, 1, axis=1)], axis=-1).max(axis=1)
        cell = (template.max(axis=0) - template.min(axis=0)).max() / _CELLS
        cuts = np.clip(np.ceil(edges / (_DENSITY * cell)), 1, _MOST_CUTS).astype(np.int64)
        dense_faces, dense = [], []
        for count in np.unique(cuts):
            own, centres = faces[cuts == count], _small_centres(int(count))
            dense_faces.append(np.repeat(own, len(centres), axis=0))
            dense.append(np.tile(centres, (len(own), 1)))
        device = head.device
        return cls(
            corners,
            binding.barycentric.to(device),
            torch.from_numpy(np.concatenate(dense_faces)).to(device),
            torch.from_numpy(np.concatenate(dense)).float().to(device),
        )

    def points(self, vertices: Tensor) -> Tensor:
        """The texels' points `[..., N, 3]` on meshes `[..., V, 3]`."""
        return _on_triangles(vertices, self.corners, self.barycentric)

    def normals(self, vertices: Tensor) -> Tensor:
        """The unit normals of the texels' triangles, `[..., N, 3]`, on meshes `[..., V, 3]`."""
        a, b, c = (vertices[..., corner, :] for corner in self.corners.unbind(-1))
        return F.normalize(torch.linalg.cross(b - a, c - a, dim=-1), dim=-1, eps=1e-20)


@torch.no_grad()
def surface_views(surface: Surface, vertices: Tensor, cameras: Cameras) -> SurfaceViews:
    """Where texels are in photographs as `osgap.prior.source.prepare_source` makes them square.

    Args:
        surface: on the device of the rest.
        vertices: `[B, K, V, 3]` the posed head at the moment of each photograph, in world units (metres).
        cameras: `B * K`, in order.

    Raises:
        ValueError: when there are not as many cameras.
    """
    people, photographs = vertices.shape[:2]
    if len(cameras) != people * photographs:
        raise ValueError(f"surface_views: {people} x {photographs} posed heads, but {len(cameras)} cameras")
    turn, move = cameras.world_to_camera[:, :3, :3], cameras.world_to_camera[:, None, :3, 3]
    mesh = vertices.flatten(0, 1) @ turn.transpose(1, 2) + move  # camera axes, metres
    points, normals = surface.points(mesh), surface.normals(mesh)
    facing = -(normals * F.normalize(points, dim=-1)).sum(dim=-1)
    pixels = _projected(points, cameras)
    hidden = _hidden(surface, mesh, points, pixels, facing, cameras)
    side, left, top = square_padding(cameras.width, cameras.height)
    x, y = pixels.unbind(-1)
    places = torch.stack([(x + left) * (2 / side) - 1, (y + top) * (2 / side) - 1], dim=-1)
    visible = (1 - hidden) * (facing / _GRAZING).clamp(0, 1) * _inside(places)
    fields = (places, visible, facing, normals)
    return SurfaceViews(*(field.unflatten(0, (people, photographs)) for field in fields))


def _hidden(surface: Surface, mesh: Tensor, points: Tensor, pixels: Tensor, facing: Tensor, cameras: Cameras) -> Tensor:
    """How far behind other parts each of the points `[M, N, 3]` lies: 0 in front, 1 well behind, `[M, N]`."""
    outline = _projected(mesh, cameras)
    low, high = outline.amin(dim=1, keepdim=True), outline.amax(dim=1, keepdim=True)
    side = (high - low).amax(dim=-1, keepdim=True).clamp_min(1e-6) / _CELLS  # pixels of a cell, [M, 1, 1]
    dense = _on_triangles(mesh, surface.dense_corners, surface.dense_barycentric)
    where = _cell(_projected(dense, cameras), low, side)
    nearest = mesh.new_full((len(mesh), _CELLS**2), torch.inf)
    nearest = nearest.scatter_reduce_(1, where, dense[..., 2], "amin")
    behind = points[..., 2] - nearest.gather(1, _cell(pixels, low, side))
    focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, :2].mean(dim=1)
    width = side[..., 0] * points[..., 2] / focal[:, None]  # metres of a cell at the point
    steep = ((1 - facing.square()).clamp_min(0).sqrt() / facing.clamp_min(1e-6)).clamp_max(_STEEPEST)
    return ((behind - width * steep) / _TOLERANCE - 1).clamp(0, 1)


def _cell(pixels: Tensor, low: Tensor, side: Tensor) -> Tensor:
    """The cell of the depth buffer that each of the pixels `[M, N, 2]` lies in, `[M, N]` int64."""
    column, row = ((pixels - low) / side).long().clamp(0, _CELLS - 1).unbind(-1)
    return row * _CELLS + column


def _projected(points: Tensor, cameras: Cameras) -> Tensor:
    """Pixels `[M, N, 2]` of points `[M, N, 3]` in the axes of M cameras."""
    slopes = points[..., :2] / points[..., 2:].clamp_min(_NEAREST)
    focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, None, :2]
    return slopes * focal + cameras.intrinsics[:, None, :2, 2]


def _inside(places: Tensor) -> Tensor:
    """Whether places `[..., 2]` are in the picture: 0 or 1, `[...]`."""
    return (places.abs().amax(dim=-1) < 1).to(places.dtype)


def _on_triangles(vertices: Tensor, corners: Tensor, barycentric: Tensor) -> Tensor:
    """`[..., M, 3]` points with weights `[M, 3]` of vertices `[M, 3]` of meshes `[..., V, 3]`."""
    parts = [
        vertices[..., corner, :] * weight[:, None]
        for corner, weight in zip(corners.unbind(-1), barycentric.unbind(-1), strict=True)
    ]
    return parts[0] + parts[1] + parts[2]


def _small_centres(cuts: int) -> np.ndarray:
    """Barycentric coordinates of the centres of the `cuts ** 2` parts of a triangle, `[cuts ** 2, 3]`."""
    i, j = np.meshgrid(np.arange(cuts), np.arange(cuts), indexing="ij")
    up = i + j < cuts
    down = i + j < cuts - 1
    first = np.concatenate([i[up] + 1 / 3, i[down] + 2 / 3]) / cuts
    second = np.concatenate([j[up] + 1 / 3, j[down] + 2 / 3]) / cuts
    return np.stack([first, second, 1 - first - second], axis=-1)

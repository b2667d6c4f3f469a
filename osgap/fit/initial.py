"""Where the Gaussians start: on the surface, one per texel, just touching their neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from osgap.head.model import HeadModel
from osgap.head.texels import TexelBinding
from osgap.head.triangles import triangle_frames
from osgap.splat.attributes import GaussianAttributes

_LARGEST_SCALE = 8.0  # triangle units; a sliver of a triangle in UV space may not claim more than this of the surface
_SMALLEST_SCALE = 0.01
_HEAD_RADIUS = 0.09  # metres


@torch.no_grad()
def initial_attributes(
    head: HeadModel, binding: TexelBinding, vertices: Tensor, opacity: float, lift: Tensor | None = None
) -> GaussianAttributes:
    """One Gaussian per covered texel, grey, round and unrotated, at the texel's own point of its triangle.

    Its standard deviation is half the distance between neighbouring texels on the surface: the square root of the
    area that one texel covers on its triangle.

    Args:
        vertices: `[V, 3]` of the person whose triangles define the units, metres.
        opacity: of every Gaussian, 0..1.
        lift: `[N]` how far above the surface each one is, metres; they are larger there, as on a ball of a head's size.
            Default is 0.
    """
    corners = head.faces[binding.faces]
    frames = triangle_frames(vertices, corners)
    points = (binding.barycentric[..., None] * vertices[corners]).sum(dim=-2)
    offset = (points - frames.center) / frames.scale
    position = (frames.rotation.transpose(-1, -2) @ offset[..., None])[..., 0]

    uv = head.uvs[head.uv_faces[binding.faces]].double()
    uv_area = _cross(uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]).abs() / 2
    edges = vertices[corners[:, 1:]] - vertices[corners[:, :1]]
    area = torch.linalg.cross(edges[:, 0], edges[:, 1]).norm(dim=-1) / 2
    texel_area = area.double() / uv_area / binding.size**2
    scale = texel_area.sqrt() / 2 / frames.scale[:, 0]
    scale = scale.clamp(_SMALLEST_SCALE, _LARGEST_SCALE).float().log()
    if lift is not None:
        position = torch.stack((position[:, 0], position[:, 1] + lift / frames.scale[:, 0], position[:, 2]), dim=-1)
        scale = scale + torch.log1p(lift / _HEAD_RADIUS)

    count = len(binding)
    rotation = position.new_zeros(count, 4)
    rotation[:, 0] = 1
    return GaussianAttributes.from_parts(
        position=position,
        rotation=rotation,
        scale=scale[:, None].expand(-1, 3),
        opacity=position.new_full((count, 1), math.log(opacity / (1 - opacity))),
        color=position.new_zeros(count, 3),
    )


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]

"""How closed an avatar is: the least alpha inside the head's silhouette, from all directions above the shoulders."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.parts import closed_faces
from osgap.splat.avatar import Avatar
from osgap.splat.cameras import Cameras
from osgap.splat.coverage.silhouette import eroded, silhouettes
from osgap.splat.coverage.views import BORDER, CLOSED, LARGEST, even_directions, picture_size, surrounding_cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render

DIRECTIONS = 200
_AT_ONCE = {"cpu": 4, "cuda": 50}  # images

DEFINITION = (
    f"alpha from {DIRECTIONS} directions evenly over the upper half sphere, as large as in the photographs (at most "
    f"{LARGEST}x{LARGEST} pixels), inside the silhouette of the posed mesh without its lower rim less {BORDER} pixels: "
    f"the least of all pixels, and the share of pixels below {CLOSED}"
)
"""For tables and files."""


def avatar_coverage(avatar: Avatar, head: HeadModel, params: FlameParams, cameras: Cameras) -> dict[str, Any]:
    """`measure_coverage` of an avatar at one moment, in pictures of the scale of photographs.

    Args:
        avatar: on the device of the head.
        params: of that moment (one timestep), there too.
        cameras: `[C]` that took the photographs, there too.
    """
    with torch.no_grad():
        gaussians, vertices = avatar.gaussians(head, params=params), head.vertices(params)[0]
    return measure_coverage(gaussians, vertices, closed_faces(head.faces, head.masks), picture_size(vertices, cameras))


@torch.no_grad()
def measure_coverage(gaussians: Gaussians, vertices: Tensor, faces: Tensor, size: int) -> dict[str, Any]:
    """See `DEFINITION`; on the device of the Gaussians.

    Args:
        gaussians: one set, `[N, ...]` or `[1, N, ...]`, of the avatar at one moment.
        vertices: `[V, 3]` of the head at that moment, world units, y up.
        faces: `[F, 3]` int64, the triangles that enclose the head, see `osgap.head.parts.closed_faces`.
        size: rows and columns of the pictures [pixels], see `osgap.splat.coverage.views.picture_size`.

    Returns:
        `worst`: the least alpha; `open`: the share of pixels below `CLOSED`; `pixels`: how many there are; `size`; and
        `worst_azimuth` and `worst_elevation`: where the worst was seen from, in degrees, azimuth 0 in front (+z) and 90
        on the side of +x.
    """
    directions = even_directions(DIRECTIONS).to(vertices)
    cameras = surrounding_cameras(vertices, directions, size)
    worst, below, pixels = [], [], []
    for start in range(0, DIRECTIONS, _AT_ONCE[vertices.device.type]):
        part = cameras[start : start + _AT_ONCE[vertices.device.type]]
        inside = eroded(silhouettes(vertices, faces, part), BORDER)
        alpha = render(gaussians, part).alpha.masked_fill(~inside, 1.0)
        worst.append(alpha.amin(dim=(1, 2)))
        below.append((alpha < CLOSED).sum())
        pixels.append(inside.sum())
    least = torch.cat(worst)
    index = int(least.argmin())
    x, y, z = even_directions(DIRECTIONS)[index].tolist()
    count = int(torch.stack(pixels).sum())
    return {
        "worst": float(least[index]),
        "open": int(torch.stack(below).sum()) / max(count, 1),
        "pixels": count,
        "size": size,
        "worst_azimuth": math.degrees(math.atan2(x, z)),
        "worst_elevation": math.degrees(math.asin(y)),
    }

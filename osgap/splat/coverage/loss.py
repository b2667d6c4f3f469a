"""A loss that keeps a closed surface closed."""

from __future__ import annotations

from torch import Tensor

from osgap.runtime.pinned import upload
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.coverage.silhouette import eroded, silhouettes
from osgap.splat.coverage.views import BORDER, random_directions, surrounding_cameras
from osgap.splat.render import render
from osgap.splat.rig import BoundTriangles, pose

COVERAGE_EVERY = 5
"""Steps of an optimisation from one look at the coverage to the next: one in five is enough, and costs little."""

TARGET = 0.98
"""Alpha that costs nothing: a little more than a closed surface's, so that what is in between need not be exact."""


def coverage_loss(
    attributes: GaussianAttributes,
    vertices: Tensor,
    bound: BoundTriangles,
    faces: Tensor,
    seed: int,
    size: int,
    share: tuple[int, int] = (0, 1),
) -> Tensor:
    """How much alpha is missing, `TARGET - alpha`, inside the silhouettes of B heads, each seen from a random direction
    above the shoulders: the mean over the pixels where any is.

    The last pinholes thus weigh as much as large holes did before them.

    One small rendering of B images. Differentiable in the attributes; the heads are what they are, and the vertices get
    no gradient. Nothing waits for a GPU.

    Args:
        attributes: `[B, N, C]`, or `[N, C]` of one person at B moments.
        vertices: `[B, V, 3]` posed heads, world units, y up.
        bound: the triangles that carry the Gaussians, see `osgap.splat.rig.bind_triangles`.
        faces: `[F, 3]` int64, the triangles that enclose the head, see `osgap.head.parts.closed_faces`.
        seed: of the directions; another one for each step.
        size: rows and columns of the pictures [pixels], see `osgap.splat.coverage.views.picture_size`.
        share: (r, w) takes the r-th of w equal parts of the directions: w processes look from where one would.

    Returns:
        `[B]`, each head's mean; 0 where nothing is open.
    """
    vertices = vertices.detach()
    (part, parts), count = share, len(vertices)
    directions = random_directions(parts * count, seed)[part * count : (part + 1) * count]
    directions = upload(directions, vertices.device)
    cameras = surrounding_cameras(vertices, directions, size)
    inside = eroded(silhouettes(vertices, faces, cameras), BORDER)
    missing = (TARGET - render(pose(attributes, vertices, bound), cameras).alpha).relu() * inside
    return missing.sum(dim=(1, 2)) / (missing.detach() > 0).sum(dim=(1, 2)).clamp_min(1)

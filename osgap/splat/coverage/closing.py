"""The last pinholes of an avatar, closed with as little change as that takes.

A loss keeps a surface closed on the whole (`osgap.splat.coverage.loss`), and leaves thin places that few directions
show. Here every direction is looked at, and where alpha is too low the Gaussians around are changed by Polyak's step
("Minimization of unsmooth functionals", USSR Comput. Math. Math. Phys. 1969) for the sum of what is missing, whose
least value, 0, is known: from a point nearby that is close to the nearest change which closes all of them (the method
of projections; Kaczmarz 1937 for one linear equation after the other). Changes that would show outside of the
silhouette, where photographs may show the background, are held back.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from osgap.splat.attributes import CHANNELS, GaussianAttributes
from osgap.splat.cameras import Cameras
from osgap.splat.coverage.silhouette import eroded, silhouettes
from osgap.splat.coverage.views import BORDER, CLOSED, even_directions, surrounding_cameras
from osgap.splat.render import render
from osgap.splat.rig import BoundTriangles, pose

_DIRECTIONS = 60  # of a round
_ROUNDS = 20  # at most, each with other directions
_FINISHED = 4  # rounds in a row in which nothing is open, after which it ends
_STEPS = 16  # of a round, at most; the first half of them spares what is outside
_MOMENTS = 8
_ENOUGH = CLOSED + 0.015  # alpha of a pixel that needs no step: other moments differ a little
_TARGET = CLOSED + 0.025  # alpha that a step aims at
_OUTSIDE = 0.5  # how much an increase outside counts against one inside
_LARGEST = 50.0  # of a step, in units of the gradient: where hardly anything is missing nothing may jump
_FARTHEST = 3.0  # from where it began, in units of `_WEIGHTS`: what is open for ever lets nothing grow for ever
_WEIGHTS = {"position": 3.0, "rotation": 0.3, "scale": 1.0, "opacity": 10.0}
"""How readily each attribute changes; colours do not. Opacity is a logit: a tenth of its change shows hardly."""


def spread(count: int) -> Tensor:
    """Some of `count` moments, evenly, to close a surface at: `[M]` int64."""
    return torch.linspace(0, count - 1, min(count, _MOMENTS)).long()


def closed(
    attributes: GaussianAttributes, vertices: Tensor, bound: BoundTriangles, faces: Tensor, size: int
) -> GaussianAttributes:
    """The attributes, changed so that alpha is at least `CLOSED` inside the head's silhouette from all directions above
    the shoulders.

    It ends without that after a bounded number of steps, so that a head that cannot be closed does not keep anybody.
    Deterministic on a CPU.

    Args:
        attributes: `[N, C]`.
        vertices: `[M, V, 3]` posed heads at M moments, see `spread`, which take turns; world units, y up.
        bound: the triangles that carry the Gaussians, see `osgap.splat.rig.bind_triangles`.
        faces: `[F, 3]` int64, the triangles that enclose the head, see `osgap.head.parts.closed_faces`.
        size: rows and columns of the pictures [pixels], see `osgap.splat.coverage.views.picture_size`.
    """
    first = attributes.channels.detach()
    room = _FARTHEST * _weights(first)
    limits = first - room, first + room
    channels, finished = first.clone(), 0
    for number in range(_ROUNDS):
        views = _Views(vertices[number % len(vertices)], bound, faces, size, turn=math.pi * number / _ROUNDS)
        channels, was_closed = _round(channels, views, limits)
        finished = finished + 1 if was_closed else 0
        if finished == _FINISHED:
            break
    return GaussianAttributes(channels)


class _Views:
    """A head at one moment, seen from all directions."""

    def __init__(self, vertices: Tensor, bound: BoundTriangles, faces: Tensor, size: int, turn: float) -> None:
        self._vertices, self._bound, self._faces = vertices, bound, faces
        directions = even_directions(_DIRECTIONS, turn).to(vertices)
        self._cameras = surrounding_cameras(vertices, directions, size)

    def seen(self, channels: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Alpha, what has to be covered, and what is outside of the silhouette, each `[B, H, W]`, in B views."""
        cameras: Cameras = self._cameras[chosen]
        silhouette = silhouettes(self._vertices, self._faces, cameras)
        gaussians = pose(GaussianAttributes(channels), self._vertices[None], self._bound)
        return render(gaussians, cameras).alpha, eroded(silhouette, BORDER), ~silhouette

    @torch.no_grad()
    def open(self, channels: Tensor) -> Tensor:
        """Numbers of the views in which something shows through."""
        every = torch.arange(_DIRECTIONS, device=channels.device)
        alpha, covered, _ = self.seen(channels, every)
        return every[_least(alpha, covered) < _ENOUGH]


def _round(channels: Tensor, views: _Views, limits: tuple[Tensor, Tensor]) -> tuple[Tensor, bool]:
    """Close what is open from one set of directions, within limits; and whether nothing was."""
    still_open = views.open(channels)
    was_closed = not len(still_open)
    for step in range(_STEPS):
        if not len(still_open):
            break
        moved, least = _step(channels, views, still_open, _OUTSIDE if step < _STEPS // 2 else 0.0)
        channels = moved.clamp(*limits)
        still_open = still_open[least < _ENOUGH]
    return channels, was_closed


@torch.enable_grad()
def _step(channels: Tensor, views: _Views, chosen: Tensor, outside: float) -> tuple[Tensor, Tensor]:
    """One step for some views; and the least alpha in each of them before it."""
    channels = channels.detach().requires_grad_()
    alpha, covered, beyond = views.seen(channels, chosen)
    missing = ((_TARGET - alpha).relu() * covered).sum()
    (inward,) = torch.autograd.grad(missing, channels, retain_graph=outside > 0)
    change = inward * _weights(channels)
    if outside:
        (outward,) = torch.autograd.grad((alpha * beyond).sum(), channels)
        change = change * (inward.abs() / (inward.abs() + outside * outward.abs()).clamp_min(1e-6))
    with torch.no_grad():
        length = missing / (change * inward).sum().clamp_min(1e-9)
        return channels - change * length.clamp(max=_LARGEST), _least(alpha, covered)


def _weights(channels: Tensor) -> Tensor:
    weights = channels.new_zeros(channels.shape[-1])
    for name, weight in _WEIGHTS.items():
        weights[CHANNELS[name]] = weight
    return weights


def _least(alpha: Tensor, covered: Tensor) -> Tensor:
    """`[B]`."""
    return alpha.detach().masked_fill(~covered, 1.0).amin(dim=(1, 2))

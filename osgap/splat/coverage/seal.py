"""Closing what is left open: some steps on opacities and scales alone, of what lies around the open pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from osgap.splat.attributes import CHANNELS, GaussianAttributes
from osgap.splat.cameras import Cameras
from osgap.splat.coverage.silhouette import eroded, silhouettes
from osgap.splat.coverage.views import BORDER, CLOSED, even_directions, surrounding_cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render
from osgap.splat.rig import BoundTriangles, pose

_TARGET = CLOSED + 0.015  # of the steps: a little more, for what lies between the directions
_PASSES = 3  # over all directions
_DIRECTIONS = 120
_TURN = 1.0  # radians between two passes about the vertical axis, so that each looks from elsewhere
_STEPS = 8  # between two passes, on the views in which something was open
_OPACITY_STEP = 0.3  # logits
_SCALE_STEP = 0.04  # log units
_DAMPING = 0.5  # gradients (alpha summed over pixels) of this size make half a step
_AT_ONCE = {"cpu": 4, "cuda": 64}  # images


@torch.no_grad()
def seal(
    attributes: GaussianAttributes, vertices: Tensor, bound: BoundTriangles, faces: Tensor, size: int
) -> GaussianAttributes:
    """Close a surface that is nearly closed already.

    Where alpha falls short of a closed surface's, Gaussians become more opaque and larger by steps of limited size
    along the gradient, until nothing is open or the steps are done. Positions, rotations and colours stay, and so do
    all Gaussians away from open pixels: what photographs show changes where it was open only.

    Args:
        attributes: `[N, C]`.
        vertices: `[M, V, 3]` the head at some moments, world units, y up; one after the other is looked at.
        bound: the triangles that carry the Gaussians, see `osgap.splat.rig.bind_triangles`.
        faces: `[F, 3]` int64, the triangles that enclose the head, see `osgap.head.parts.closed_faces`.
        size: rows and columns of the pictures [pixels], see `osgap.splat.coverage.views.picture_size`.

    Returns:
        `[N, C]`, detached.
    """
    channels = attributes.channels.detach().clone()
    for number in range(_PASSES):
        head = vertices[number % len(vertices)]
        directions = even_directions(_DIRECTIONS, _TURN * (number + 0.5)).to(head)
        cameras = surrounding_cameras(head, directions, size)
        inside = eroded(silhouettes(head, faces, cameras), BORDER)
        open_views = _open(channels, head, bound, cameras, inside)
        if not len(open_views):
            break
        cameras, inside = cameras[open_views], inside[open_views]
        for _ in range(_STEPS):
            if not _step(channels, head, bound, cameras, inside):
                break
    return GaussianAttributes(channels)


def _open(channels: Tensor, head: Tensor, bound: BoundTriangles, cameras: Cameras, inside: Tensor) -> Tensor:
    """Indices of the views in which something is open."""
    gaussians = pose(GaussianAttributes(channels), head, bound)
    found = []
    for part in _parts(len(cameras), head):
        alpha = render(gaussians, cameras[part]).alpha
        found.append(((alpha < CLOSED) & inside[part]).flatten(1).any(dim=1))
    return torch.cat(found).nonzero()[:, 0]


def _step(channels: Tensor, head: Tensor, bound: BoundTriangles, cameras: Cameras, inside: Tensor) -> bool:
    """Change `channels` in place; whether anything was open."""
    posed = pose(GaussianAttributes(channels), head, bound)
    opacities, scales = posed.opacities.clone().requires_grad_(), posed.scales.clone().requires_grad_()
    gaussians = Gaussians(posed.means, posed.rotations, scales, opacities, posed.colors)
    missing = channels.new_zeros(())
    for part in _parts(len(cameras), head):
        with torch.enable_grad():
            short = ((_TARGET - render(gaussians, cameras[part]).alpha).relu() * inside[part]).sum()
            short.backward()
        missing += short.detach()
    assert opacities.grad is not None
    assert scales.grad is not None
    # Of the activated values, times the activations' derivatives.
    by_opacity = opacities.grad * posed.opacities * (1 - posed.opacities)
    by_scale = scales.grad * posed.scales
    channels[:, CHANNELS["opacity"]] -= _limited(by_opacity[:, None], _OPACITY_STEP)
    channels[:, CHANNELS["scale"]] -= _limited(by_scale, _SCALE_STEP)
    return bool(missing > 0)


def _limited(gradient: Tensor, step: float) -> Tensor:
    return step * gradient / (gradient.abs() + _DAMPING)


def _parts(count: int, like: Tensor) -> list[slice]:
    at_once = _AT_ONCE[like.device.type]
    return [slice(start, start + at_once) for start in range(0, count, at_once)]

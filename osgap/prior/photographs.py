"""Photographs of people as the networks read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from osgap.head.params import FlameParams
from osgap.prior.posing import Rig
from osgap.prior.source import prepare_source
from osgap.prior.surface import SurfaceViews, surface_views
from osgap.splat.cameras import Cameras


class Photographs(NamedTuple):
    """K photographs of each of B people. A named tuple, because wrappers of networks look into those."""

    images: Tensor
    """`[B, K, 3, I, I]` RGB in 0..1 on white, see `osgap.prior.source.prepare_source`."""
    views: SurfaceViews | None
    """Where they show the head; None where nobody asks: one photograph, and the published network."""


def photographs(
    rig: Rig,
    people: Sequence[int],
    params: Sequence[FlameParams],
    cameras: Cameras,
    images: Tensor,
    size: int,
    views: bool = True,
) -> Photographs:
    """Photographs as the networks read them. Nothing waits for a GPU.

    Args:
        rig: of the people.
        people: whom each set of photographs shows, B indices of the rig's people.
        params: B times that person's parameters at the K moments of the photographs.
        cameras: `B * K`, in order.
        images: `[B, K, H, W, 3]` RGB in 0..1, on white.
        size: I, what the network reads.
        views: find the texels in them. Default is True.

    Raises:
        ValueError: when numbers of photographs, moments and cameras differ.
    """
    count = images.shape[1]
    if not len(people) == len(params) == len(images) or any(part.timesteps != count for part in params):
        raise ValueError(
            f"photographs: {len(people)} people, parameters of {[part.timesteps for part in params]} timesteps, and "
            f"{len(images)} x {count} images; each person takes as many timesteps as images"
        )
    prepared = prepare_source(images.flatten(0, 1), size).unflatten(0, (len(images), count))
    if not views:
        return Photographs(prepared, None)
    vertices = rig.vertices(people, params).unflatten(0, (len(images), count))
    return Photographs(prepared, surface_views(rig.surface, vertices, cameras))

"""The visual hull of a ball with a cap of hair, photographed from all sides, against the cap's own height."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fit.people import UV_SIZE, World
from osgap.capture.store import CaptureStore
from osgap.fit.hull import hull_distances, lifts
from osgap.fit.initial import initial_attributes
from osgap.head.assets import load_head
from osgap.head.texels import bind_texels
from osgap.splat.cameras import Cameras
from osgap.splat.coverage.views import even_directions, surrounding_cameras

RADIUS, HAIR = 0.1, 0.03


def photographs(size: int = 200) -> tuple[Tensor, Cameras]:
    """Masks of a ball of hair around a ball, from 60 directions above and 60 below."""
    above = even_directions(60)
    directions = torch.cat((above, above * torch.tensor([1.0, -1, 1])))
    box = 0.2 * torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)])
    cameras = surrounding_cameras(box, directions, size)
    distance = cameras.world_to_camera[:, 2, 3]
    # A ball's outline in a pinhole camera that looks at its middle is a circle.
    radius = cameras.intrinsics[:, 0, 0] * torch.tan(torch.asin((RADIUS + HAIR) / distance))
    grid = torch.arange(size) + 0.5 - size / 2
    return grid[:, None] ** 2 + grid**2 < radius[:, None, None] ** 2, cameras


def test_the_hull_ends_where_the_hair_does() -> None:
    masks, cameras = photographs()
    normals = even_directions(50)
    found = hull_distances(RADIUS * normals, normals, masks, cameras, reach=0.08)
    torch.testing.assert_close(found, torch.full((50,), HAIR), atol=0.006, rtol=0)
    assert (found > HAIR - 0.005).all()  # a hull holds what it is of, up to a pixel and a step
    short = hull_distances(RADIUS * normals, normals, masks, cameras, reach=0.01)
    torch.testing.assert_close(short, torch.full((50,), 0.01))


def test_what_is_outside_does_not_move() -> None:
    masks, cameras = photographs()
    normals = even_directions(50)
    assert not hull_distances(2 * RADIUS * normals, normals, masks, cameras, reach=0.08).any()
    assert not hull_distances(RADIUS * normals, normals, torch.zeros_like(masks), cameras, reach=0.08).any()


def test_what_no_picture_shows_says_nothing() -> None:
    masks, cameras = photographs()
    normals = even_directions(50)
    aside = Cameras(
        cameras.world_to_camera, cameras.intrinsics * torch.tensor([[1.0, 1, 99]]).T.expand(3, 3).T, 200, 200
    )
    found = hull_distances(RADIUS * normals, normals, torch.zeros_like(masks), aside, reach=0.08)
    torch.testing.assert_close(found, torch.full((50,), 0.08))


def test_gaussians_start_in_the_hair(world: World) -> None:
    store, head = CaptureStore(world.inputs.capture), load_head(world.inputs.head)
    binding = bind_texels(head.uvs, head.uv_faces, UV_SIZE)
    train = np.asarray(store.split("train"))
    lift = lifts(store, train, head, binding, store.params, store.cameras, reach=0.06)
    assert lift.shape == (len(binding),)
    assert ((lift == 0) | ((lift > 0.001) & (lift < 0.06))).all()
    vertices = head.vertices(store.params, [0])[0]
    flat = initial_attributes(head, binding, vertices, 0.9)
    lifted = initial_attributes(head, binding, vertices, 0.9, lift)
    moved = (lifted.position - flat.position)[:, 1]
    assert torch.equal(moved > 0, lift > 0)
    assert torch.equal(lifted.position[:, 0], flat.position[:, 0])
    growth = (lifted.scale - flat.scale).exp()[:, 0]
    assert growth.max() == pytest.approx(1 + float(lift.max()) / 0.09, rel=1e-4)
    assert math.isclose(float(growth.min()), 1, rel_tol=1e-6)

"""Cameras around a head: orbits, sizes, framing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from osgap.rendering.camera_paths import FRONT, framing, middle, orbit, resized, scaled, swing
from osgap.splat.cameras import Cameras
from rendering.people import FRONTAL, cameras


def project(views: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels `[B, P, 2]` and depths `[B, P]`, by the definition in `Cameras`."""
    local = points @ views.world_to_camera[:, :3, :3].transpose(1, 2) + views.world_to_camera[:, None, :3, 3]
    pixels = (local / local[..., 2:]) @ views.intrinsics.transpose(1, 2)
    return pixels[..., :2], local[..., 2]


@pytest.mark.parametrize("scale", [0.01, 0.3, 0.5, 0.7, 0.93, 1.0, 1.4, 2.1, 3.37])
def test_scaled_sizes_are_even_and_the_view_stays(scale: float) -> None:
    views = cameras()
    found = scaled(views, scale)
    for size, before in ((found.width, views.width), (found.height, views.height)):
        assert size >= 2
        assert size % 2 == 0
        assert abs(size - scale * before) <= max(1, 2 - scale * before)
    points = torch.tensor([[[0.02, -0.01, 0.03], [-0.05, 0.04, 0.0]]])
    pixels = torch.tensor([found.width / views.width, found.height / views.height]) * project(views, points)[0]
    torch.testing.assert_close(project(found, points)[0], pixels)


def test_orbit_turns_around_the_pivot() -> None:
    camera = cameras()[FRONTAL]
    pivot = torch.tensor([0.02, -0.01, 0.03])
    moved = orbit(camera, pivot, torch.tensor([0.0, 0.5, -0.5]))
    torch.testing.assert_close(moved.world_to_camera[0], camera.world_to_camera)
    distance = (moved.centers - pivot).norm(dim=1)
    torch.testing.assert_close(distance, distance[:1].expand(3))
    seen = moved.world_to_camera[:, :3, :3] @ pivot + moved.world_to_camera[:, :3, 3]
    torch.testing.assert_close(seen, seen[:1].expand(3, 3))
    # This camera looks along -z with x to the right, so its right is +x in the world.
    assert float(moved.centers[1, 0]) > 0.1
    assert float(moved.centers[2, 0]) < -0.1
    angle = torch.linalg.vector_norm(moved.centers[1] - moved.centers[0]) / (2 * distance[0])
    assert float(angle) == pytest.approx(math.sin(0.25), abs=0.01)


def test_elevation_raises_the_camera_and_distance_moves_it_away() -> None:
    camera, pivot = cameras()[FRONTAL], torch.tensor([0.02, -0.01, 0.03])
    yaw = torch.tensor([0.0, 0.7])
    level, raised = orbit(camera, pivot, yaw), orbit(camera, pivot, yaw, elevation=0.3)
    assert ((raised.centers - level.centers)[:, 1] > 0.1).all()  # y is up
    far = orbit(camera, pivot, yaw, 0.3, 2.0)
    torch.testing.assert_close((far.centers - pivot).norm(dim=1), 2 * (raised.centers - pivot).norm(dim=1))
    for views in (level, raised, far):
        pixels, _ = project(views, pivot[None])
        torch.testing.assert_close(pixels[:, 0], project(camera_batch(camera), pivot[None])[0][:, 0].expand(2, 2))


def camera_batch(camera: Cameras) -> Cameras:
    return Cameras(camera.world_to_camera[None], camera.intrinsics[None], camera.width, camera.height)


def test_swings_close_and_rounds_go_all_the_way() -> None:
    sway = swing(80, 40, 0.5)
    assert float(sway[0]) == 0
    torch.testing.assert_close(sway[40:], sway[:40])
    assert float(sway.max()) == pytest.approx(0.5)
    assert float(sway.min()) == pytest.approx(-0.5)
    turn = swing(80, 40, math.pi)
    torch.testing.assert_close(turn[40:], turn[:40], atol=1e-5, rtol=0)
    steps = torch.diff(turn[:40])
    torch.testing.assert_close(steps, torch.full((39,), 2 * math.pi / 40))  # one more closes the circle
    assert torch.equal(swing(3, 3, 0.0), torch.zeros(3))


@pytest.mark.parametrize(("width", "height"), [(300, 500), (500, 300)])
@pytest.mark.parametrize(("amplitude", "elevation"), [(0.0, 0.0), (math.pi, 0.5)])
def test_a_framed_head_fills_the_picture(width: int, height: int, amplitude: float, elevation: float) -> None:
    random = torch.Generator().manual_seed(0)
    points = torch.rand(200, 3, generator=random) * torch.tensor([0.2, 0.3, 0.25]) + torch.tensor([0.5, -1.0, 2.0])
    yaw = swing(48, 48, amplitude)
    camera = framing(points, torch.zeros(200), yaw, elevation, width, height)
    assert torch.equal(camera.world_to_camera[:3, :3], FRONT)
    views = orbit(camera, middle(points), yaw, elevation)
    pixels, depth = project(views, points)
    assert float(depth.min()) > 0.05
    used = 2 * (pixels - torch.tensor([width / 2, height / 2])).abs() / torch.tensor([width, height])
    assert float(used.max()) == pytest.approx(1 / 1.1, abs=1e-3)
    # The middle of the head is in the middle of the picture, and a nose is nearer than the back of the head.
    centre, _ = project(views, middle(points)[None])
    torch.testing.assert_close(centre, torch.tensor([width / 2, height / 2]).expand(48, 1, 2), atol=0.01, rtol=0)
    nose, back = torch.tensor([[0.0, 0, 0.1], [0, 0, -0.1]]) + middle(points)
    depths = project(camera_batch(camera), torch.stack([nose, back]))[1][0]
    assert depths[0] < depths[1]
    wide = framing(points, torch.full((200,), 0.05), yaw, elevation, width, height)
    assert float(wide.centers[2]) > float(camera.centers[2]) + 0.1


def test_another_size_shows_the_same_and_more_at_the_sides() -> None:
    views = cameras()
    points = torch.tensor([[0.0, 0, 0], [0.05, 0.02, 0.01]])
    pixels, _ = project(views, points)
    double = resized(views, 2 * views.width, 2 * views.height)
    torch.testing.assert_close(project(double, points)[0], 2 * pixels)
    wide = resized(views, 4 * views.width, 2 * views.height)
    assert (wide.width, wide.height) == (4 * views.width, 2 * views.height)
    torch.testing.assert_close(project(wide, points)[0], 2 * pixels + torch.tensor([views.width, 0]))
    assert torch.equal(views.intrinsics, cameras().intrinsics)

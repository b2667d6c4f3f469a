"""Directions and cameras, and holes that are cut on purpose: measured, priced and closed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from fit.people import UV_SIZE, write_head
from torch import Tensor

from osgap.fit.initial import initial_attributes
from osgap.head.assets import load_head
from osgap.head.model import HeadModel
from osgap.head.texels import bind_texels
from osgap.splat.attributes import CHANNELS, GaussianAttributes
from osgap.splat.cameras import Cameras
from osgap.splat.coverage.closing import closed, spread
from osgap.splat.coverage.loss import TARGET, coverage_loss
from osgap.splat.coverage.measure import measure_coverage
from osgap.splat.coverage.silhouette import silhouettes
from osgap.splat.coverage.views import (
    CLOSED,
    LARGEST,
    even_directions,
    picture_size,
    random_directions,
    surrounding_cameras,
)
from osgap.splat.rig import BoundTriangles, bind_triangles, pose

SIZE = 64
UP = torch.tensor([0.0, 1.0, 0.0])
BELOW = (-UP, 1.37, -20.0)
"""A hole in place of the lower part, as heads are: what is open above shows the background."""


@dataclass(frozen=True)
class Ball:
    """A closed ball of Gaussians, and where each of them is."""

    head: HeadModel
    attributes: GaussianAttributes
    bound: BoundTriangles
    directions: Tensor
    """`[N, 3]` unit vectors from the middle."""

    @property
    def vertices(self) -> Tensor:
        return self.head.v_template

    def with_holes(self, *holes: tuple[Tensor, float, float]) -> GaussianAttributes:
        """With holes: a direction, how far around it a hole goes [radians], and the opacity there [logits]."""
        channels = self.attributes.channels.clone()
        for toward, radius, opacity in holes:
            channels[self.directions @ toward > np.cos(radius), CHANNELS["opacity"]] = opacity
        return GaussianAttributes(channels)

    def pierced(self, toward: Tensor) -> GaussianAttributes:
        """With a hole through and through."""
        return self.with_holes((toward, 0.4, -3.0), (-toward, 0.4, -3.0))

    def measured(self, attributes: GaussianAttributes) -> dict[str, float]:
        return measure_coverage(pose(attributes, self.vertices, self.bound), self.vertices, self.head.faces, SIZE)


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Ball:
    head = load_head(write_head(tmp_path_factory.mktemp("head")))
    binding = bind_texels(head.uvs, head.uv_faces, UV_SIZE)
    attributes = initial_attributes(head, binding, head.v_template, 0.95)
    channels = attributes.channels.clone()
    channels[:, CHANNELS["scale"]] += 0.5
    attributes, bound = GaussianAttributes(channels), bind_triangles(head.faces, binding.faces)
    means = pose(attributes, head.v_template, bound).means
    return Ball(head, attributes, bound, means / means.norm(dim=-1, keepdim=True))


def test_directions_are_even_and_above() -> None:
    directions = even_directions(200).double()
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(200).double())
    assert (directions[:, 1] > 0).all()
    torch.testing.assert_close(directions.mean(dim=0), torch.tensor([0, 0.5, 0]).double(), atol=0.01, rtol=0)
    apart = torch.cdist(directions, directions).fill_diagonal_(9).amin(dim=1)
    assert apart.min() > 0.6 * apart.max()  # of 200 random ones the nearest are a hundredth as far apart
    turned = even_directions(200, 0.3)
    assert torch.equal(turned[:, 1], even_directions(200)[:, 1])
    assert not torch.allclose(turned, even_directions(200), atol=0.1)


def test_random_directions_are_seeded_and_uniform() -> None:
    directions = random_directions(4000, 3)
    assert torch.equal(directions, random_directions(4000, 3))
    assert not torch.equal(directions, random_directions(4000, 4))
    assert (directions[:, 1] >= 0).all()
    torch.testing.assert_close(directions.mean(dim=0), torch.tensor([0, 0.5, 0]), atol=0.03, rtol=0)


def test_cameras_hold_the_head_and_stand_upright() -> None:
    random = torch.Generator().manual_seed(0)
    vertices = torch.randn(3, 50, 3, generator=random) * torch.tensor([0.1, 0.15, 0.1]) + torch.tensor([0.3, 1, -2])
    directions = random_directions(3, 0)
    cameras = surrounding_cameras(vertices, directions, SIZE)
    points = vertices @ cameras.world_to_camera[:, :3, :3].transpose(1, 2) + cameras.world_to_camera[:, None, :3, 3]
    focal = cameras.intrinsics[:, 0, 0, None, None]
    pixels = points[..., :2] / points[..., 2:] * focal + SIZE / 2
    assert points[..., 2].min() > 0
    assert pixels.min() > 0
    assert pixels.max() < SIZE
    assert (pixels.amax(dim=1) - pixels.amin(dim=1)).amax() > 0.5 * SIZE
    middle = (vertices.amin(dim=1) + vertices.amax(dim=1)) / 2
    away = cameras.centers - middle
    torch.testing.assert_close(away / away.norm(dim=1, keepdim=True), directions, atol=1e-5, rtol=0)
    assert (cameras.world_to_camera[:, 1, 1] < 0).all()  # up in the world is up in the picture
    torch.testing.assert_close(torch.linalg.det(cameras.world_to_camera[:, :3, :3]), torch.ones(3))


def test_a_picture_has_the_scale_of_the_photographs() -> None:
    vertices = 0.1 * torch.nn.functional.normalize(
        torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), dim=1
    )
    world_to_camera = torch.eye(4)[None].clone()
    world_to_camera[0, 2, 3] = 2.0
    intrinsics = torch.tensor([[[800.0, 0, 100], [0, 800, 100], [0, 0, 1]]])
    size = picture_size(vertices, Cameras(world_to_camera, intrinsics, 200, 200))
    photographed = 0.2 * 800 / 2  # pixels, the ball's diameter in the photograph
    inside = silhouettes(
        vertices, torch.combinations(torch.arange(60), 3), surrounding_cameras(vertices, even_directions(4), size)
    )
    across = inside.any(dim=1).sum(dim=1).float().mean()
    assert across == pytest.approx(photographed, rel=0.1)
    assert picture_size(vertices, Cameras(world_to_camera, 9 * intrinsics, 200, 200)) == LARGEST


def test_a_closed_ball_is_closed(ball: Ball) -> None:
    found = ball.measured(ball.attributes)
    assert found["worst"] > CLOSED
    assert found["open"] == 0
    assert found["pixels"] > 200 * 1000


@pytest.mark.parametrize(("azimuth", "elevation"), [(40.0, 60.0), (-120.0, 20.0)])
def test_a_hole_is_found_where_it_is(ball: Ball, azimuth: float, elevation: float) -> None:
    """Through the near side's hole one sees the far side, so that it is cut on both."""
    a, e = np.radians((azimuth, elevation))
    toward = torch.tensor([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)]).float()
    found = ball.measured(ball.with_holes((toward, 0.5, -20), (-toward, 0.45, -20)))
    assert found["worst"] < 0.05
    assert 0 < found["open"] < 0.2
    a, e = np.radians((found["worst_azimuth"], found["worst_elevation"]))
    seen_from = torch.tensor([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)]).float()
    assert seen_from @ toward > np.cos(0.5)


def test_the_loss_is_the_mean_lack_of_alpha_where_it_lacks(ball: Ball) -> None:
    heads = ball.vertices.expand(3, -1, -1)
    gone = GaussianAttributes(ball.attributes.channels.clone())
    gone.channels[:, CHANNELS["opacity"]] = -30
    nothing = coverage_loss(gone, heads, ball.bound, ball.head.faces, 0, SIZE)
    torch.testing.assert_close(nothing, torch.full((3,), TARGET))
    opaque = GaussianAttributes(ball.attributes.channels.clone())
    opaque.channels[:, CHANNELS["opacity"]] = 6
    opaque.channels[:, CHANNELS["scale"]] += 1.2
    assert not coverage_loss(opaque, heads, ball.bound, ball.head.faces, 0, SIZE).any()
    # A small hole weighs as much as a large one.
    small = ball.with_holes((UP, 0.35, -30), (-UP, 1.05, -30))
    many = ball.vertices.expand(16, -1, -1)
    assert coverage_loss(small, many, ball.bound, ball.head.faces, 0, SIZE).max() > 0.3


def test_processes_that_share_a_step_look_from_where_one_would(ball: Ball) -> None:
    heads, holed = ball.vertices.expand(4, -1, -1), ball.with_holes((UP, 1.2, -2))
    whole = coverage_loss(holed, heads, ball.bound, ball.head.faces, 3, SIZE)
    parts = [coverage_loss(holed, heads[:2], ball.bound, ball.head.faces, 3, SIZE, (rank, 2)) for rank in range(2)]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert len(set(whole.tolist())) == 4, "each from a direction of its own"


def test_the_loss_closes_holes_and_leaves_the_head_alone(ball: Ball) -> None:
    # Three people at once, one of them with a hole on top that is seen from everywhere above.
    whole, cut_open = ball.with_holes(BELOW), ball.with_holes((UP, 1.2, -2), BELOW)
    channels = torch.stack([whole.channels, cut_open.channels, whole.channels])
    channels = channels.requires_grad_()
    heads = ball.vertices.repeat(3, 1, 1).requires_grad_()
    losses = coverage_loss(GaussianAttributes(channels), heads, ball.bound, ball.head.faces, 5, SIZE)
    assert losses.shape == (3,)
    assert losses[1] > 2 * losses[0]
    losses[1].backward()
    assert heads.grad is None
    assert channels.grad is not None
    assert not channels.grad[0].any()
    assert not channels.grad[2].any()
    cut = ball.directions @ UP > np.cos(1.2)
    assert channels.grad[1, cut, CHANNELS["opacity"]].sum() < 0
    assert channels.grad[1, :, CHANNELS["opacity"]].max() <= 0  # more opacity never covers less
    assert not channels.grad[1, :, CHANNELS["color"]].any()


def test_directions_change_with_the_seed(ball: Ball) -> None:
    attributes = ball.with_holes((torch.tensor([0.0, 0.8, 0.6]), 0.4, -2), BELOW)
    values = [
        float(coverage_loss(attributes, ball.vertices[None], ball.bound, ball.head.faces, seed, SIZE))
        for seed in range(4)
    ]
    again = float(coverage_loss(attributes, ball.vertices[None], ball.bound, ball.head.faces, 0, SIZE))
    assert len(set(values)) == 4
    assert values[0] == again


@pytest.mark.parametrize("elevation", [0.1, 0.7, 1.2])
def test_holes_are_closed_where_they_are(ball: Ball, elevation: float) -> None:
    toward = torch.tensor([0.0, np.sin(elevation), np.cos(elevation)]).float()
    before = ball.pierced(toward)
    assert ball.measured(before)["worst"] < 0.8
    after = closed(before, ball.vertices[None], ball.bound, ball.head.faces, SIZE)
    assert ball.measured(after)["worst"] >= CLOSED
    moved = (after.channels - before.channels).abs()
    assert not moved[:, CHANNELS["color"]].any()
    along = (ball.directions @ toward).abs()
    assert moved[along > np.cos(0.6)].max() > 5 * moved[along < 0.3].max()


def test_what_is_closed_stays_as_it_is(ball: Ball) -> None:
    once = closed(ball.attributes, ball.vertices[None], ball.bound, ball.head.faces, SIZE)
    twice = closed(once, ball.vertices[None], ball.bound, ball.head.faces, SIZE)
    assert ball.measured(once)["worst"] >= CLOSED
    torch.testing.assert_close(twice.channels, once.channels, atol=0.02, rtol=0)


def test_closing_repeats_to_the_bit_and_passes_no_gradient(ball: Ball) -> None:
    before = ball.pierced(UP)
    learned = GaussianAttributes(before.channels.clone().requires_grad_())
    with torch.no_grad():
        first = closed(learned, ball.vertices[None], ball.bound, ball.head.faces, SIZE)
    second = closed(before, ball.vertices[None], ball.bound, ball.head.faces, SIZE)
    assert torch.equal(first.channels, second.channels)
    assert not first.channels.requires_grad


def test_a_head_that_cannot_be_closed_keeps_nobody(ball: Ball) -> None:
    """Gaussians far away: no step brings them back, and all numbers stay finite."""
    channels = ball.attributes.channels.clone()
    channels[:, CHANNELS["position"]] += 1e3
    found = closed(GaussianAttributes(channels), ball.vertices[None], ball.bound, ball.head.faces, 48)
    assert found.channels.isfinite().all()


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (3, [0, 1, 2]), (8, list(range(8)))])
def test_all_moments_of_a_few(count: int, expected: list[int]) -> None:
    assert spread(count).tolist() == expected


def test_moments_of_many_are_even_and_hold_both_ends() -> None:
    chosen = spread(1000)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 999, 8)
    assert chosen.diff().min() >= 142


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_closes_what_is_open(ball: Ball) -> None:
    toward = torch.tensor([0.0, np.sin(0.7), np.cos(0.7)]).float()
    vertices, faces = ball.vertices.cuda(), ball.head.faces.cuda()
    bound = BoundTriangles(ball.bound.triangles.cuda(), ball.bound.slots.cuda())
    found = closed(ball.pierced(toward).to("cuda"), vertices[None], bound, faces, SIZE)
    assert measure_coverage(pose(found, vertices, bound), vertices, faces, SIZE)["worst"] >= CLOSED
    assert ball.measured(found.to("cpu"))["worst"] >= CLOSED - 0.01

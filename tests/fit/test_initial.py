"""Where Gaussians start, checked on the surface itself."""

from __future__ import annotations

import pytest
import torch

from fit.people import UV_SIZE, World
from osgap.capture.store import CaptureStore
from osgap.fit.config import FitConfig, LearningRates
from osgap.fit.initial import initial_attributes
from osgap.fit.optimise import camera_extent, column_rates
from osgap.head.assets import load_head
from osgap.head.params import MOTION_WIDTHS
from osgap.head.texels import bind_texels
from osgap.splat.attributes import CHANNELS
from osgap.splat.rig import bind_triangles, pose


def test_gaussians_start_at_their_texels_on_the_surface(world: World) -> None:
    head, params = load_head(world.inputs.head), CaptureStore(world.inputs.capture).params
    binding = bind_texels(head.uvs, head.uv_faces, UV_SIZE)
    vertices = head.vertices(params, [0])[0]
    start = initial_attributes(head, binding, vertices, 0.3)
    placed = pose(start, vertices, bind_triangles(head.faces, binding.faces))
    corners = vertices[head.faces[binding.faces]]
    expected = torch.einsum("nk,nkd->nd", binding.barycentric, corners)
    torch.testing.assert_close(placed.means, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(placed.opacities, torch.full((len(binding),), 0.3))
    torch.testing.assert_close(placed.colors, torch.full((len(binding), 3), 0.5))


def test_neighbours_touch(world: World) -> None:
    """On a map without stretch along rows, neighbours in a row are two standard deviations apart in the mean."""
    head, params = load_head(world.inputs.head), CaptureStore(world.inputs.capture).params
    binding = bind_texels(head.uvs, head.uv_faces, UV_SIZE)
    vertices = head.vertices(params, [0])[0]
    placed = pose(initial_attributes(head, binding, vertices, 0.3), vertices, bind_triangles(head.faces, binding.faces))
    # Each Gaussian covers (2 sigma)^2 of the surface: together they cover the textured part of the ball once.
    edges = vertices[head.faces[:, 1:]] - vertices[head.faces[:, :1]]
    area = torch.linalg.cross(edges[:, 0], edges[:, 1]).norm(dim=-1).sum() / 2
    assert (2 * placed.scales[:, 0]).square().sum().item() == pytest.approx(area.item(), rel=0.02)


def test_extent_is_relative_to_the_mean_camera(world: World) -> None:
    cameras = CaptureStore(world.inputs.capture).cameras
    centers = cameras.centers
    distance = max((center - centers.mean(0)).norm().item() for center in centers)
    assert camera_extent(cameras) == pytest.approx(1.1 * distance)


def test_rates_reach_their_columns_and_fall_log_linearly() -> None:
    config = LearningRates(position=0.005, position_final=0.00005, final_fraction=1)
    tables = column_rates(config, 2.0)
    first, middle, last = ({name: rates.at(done) for name, rates in tables.items()} for done in (0.0, 0.5, 1.0))
    assert torch.allclose(first["gaussians"][CHANNELS["position"]], torch.tensor(0.01))
    assert torch.allclose(middle["gaussians"][CHANNELS["position"]], torch.tensor(0.001))
    assert torch.allclose(last["gaussians"][CHANNELS["position"]], torch.tensor(0.0001))
    for values in (first, last):
        for name in ("color", "opacity", "scale", "rotation"):
            assert torch.allclose(values["gaussians"][CHANNELS[name]], torch.tensor(getattr(config, name)))
        motion = dict(zip(MOTION_WIDTHS, values["motion"].split(list(MOTION_WIDTHS.values())), strict=True))
        assert torch.allclose(motion.pop("expr"), torch.tensor(config.expression))
        assert torch.allclose(motion.pop("translation"), torch.tensor(config.translation))
        assert all(torch.allclose(rates, torch.tensor(config.pose)) for rates in motion.values())


def test_all_rates_fall() -> None:
    config = LearningRates(final_fraction=0.01)
    tables = column_rates(config, 1.0)
    assert torch.allclose(tables["gaussians"].at(0.5)[CHANNELS["color"]], torch.tensor(0.1 * config.color))
    assert tables["motion"].at(1.0)[0].item() == pytest.approx(0.01 * config.expression)


def test_a_rate_of_zero_stays_zero() -> None:
    motion = column_rates(LearningRates(pose=0, translation=0, expression=0, final_fraction=0.1), 1.0)["motion"]
    assert all((motion.at(done) == 0).all() for done in (0.0, 0.5, 1.0))


def test_defaults_are_gaussianavatars_where_batches_do_not_matter() -> None:
    config = FitConfig()
    rates = config.learning_rates
    assert (rates.pose, rates.translation, rates.expression) == (1e-5, 1e-6, 1e-3)
    assert (config.losses.position_threshold, config.losses.scale_threshold) == (1.0, 0.6)
    assert (config.losses.position, config.losses.scale, config.losses.ssim) == (0.01, 1.0, 0.2)

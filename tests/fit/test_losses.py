"""The objective against definitions written out with numpy and loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from osgap.fit.losses import anchor_loss, photometric_loss, position_loss, scale_loss, visibility
from osgap.metrics.image_metrics import ssim
from osgap.splat.cameras import Cameras


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_photometric_loss_mixes_l1_and_ssim() -> None:
    x, y = normal(2, 12, 14, 3).sigmoid(), normal(2, 12, 14, 3, seed=1).sigmoid()
    l1 = np.abs(x.numpy() - y.numpy()).mean()
    expected = 0.7 * l1 + 0.3 * (1 - ssim(x, y).mean().item())
    assert photometric_loss(x, y, 0.3).item() == pytest.approx(expected, abs=1e-12)
    assert photometric_loss(x, y, 0.0).item() == pytest.approx(l1, abs=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_photometric_loss_takes_bytes(dtype: torch.dtype, weight: float) -> None:
    x = normal(2, 12, 14, 3).sigmoid().to(dtype).requires_grad_()
    y = (255 * normal(2, 12, 14, 3, seed=1).sigmoid()).to(torch.uint8)
    results = []
    for targets in (y, torch.from_numpy(y.numpy() / 255).to(dtype)):
        loss = photometric_loss(x, targets, weight)
        assert loss.dtype == dtype
        results.append((loss, *torch.autograd.grad(loss, x)))
    for found, expected in zip(*results, strict=True):
        assert expected.abs().max() > 0
        assert torch.equal(found, expected)


def test_position_loss_counts_visible_gaussians_beyond_the_threshold() -> None:
    position = torch.tensor([[2.0, 0, 0], [0, 3.0, 4.0], [0, 0, 0.5], [9.0, 0, 0]])
    visible = torch.tensor([2.0, 1.0, 1.0, 0.0])
    expected = (2 * (2 - 1) + 1 * (5 - 1) + 0) / 4
    assert position_loss(position, visible, 1.0).item() == pytest.approx(expected)


def test_scale_loss_is_the_norm_of_the_excess() -> None:
    scale = torch.tensor([[0.9, 0.3, 1.0], [0.1, 0.2, 0.3], [5.0, 5.0, 5.0]]).log()
    visible = torch.tensor([1.0, 3.0, 0.0])
    expected = (1 * np.hypot(0.3, 0.4) + 3 * 0) / 4
    assert scale_loss(scale, visible, 0.6).item() == pytest.approx(expected, abs=1e-6)


def test_no_visible_gaussian_costs_nothing() -> None:
    assert position_loss(torch.full((2, 3), 9.0), torch.zeros(2), 1.0).item() == 0
    assert scale_loss(torch.full((2, 3), 9.0), torch.zeros(2), 1.0).item() == 0


@pytest.mark.parametrize("loss", [position_loss, scale_loss])
def test_gradients_of_the_hinges(loss: Callable[..., torch.Tensor]) -> None:
    values = normal(20, 3).requires_grad_()
    visible = torch.arange(20, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: loss(v, visible, 0.5), (values,))


@pytest.mark.parametrize("loss", [position_loss, scale_loss])
def test_gradients_are_finite_where_nothing_exceeds(loss: Callable[..., torch.Tensor]) -> None:
    values = torch.full((4, 3), 0.0 if loss is position_loss else -3.0, requires_grad=True)
    loss(values, torch.ones(4), 1.0).backward()
    assert values.grad is not None
    assert torch.equal(values.grad, torch.zeros(4, 3))


def test_anchor_loss() -> None:
    x, y = normal(6, 14), normal(6, 14, seed=1)
    assert anchor_loss(x, y).item() == pytest.approx(((x - y).numpy() ** 2).sum(1).mean())


def test_visibility_counts_images_in_view() -> None:
    focal, width, height, distance = 50.0, 20, 10, 2.0
    world_to_camera = torch.eye(4).repeat(2, 1, 1)
    world_to_camera[0, 2, 3] = distance  # looks along +z from z = -2
    world_to_camera[1, :3, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))  # looks the other way, from z = -2
    world_to_camera[1, 2, 3] = -distance
    intrinsics = torch.tensor([[focal, 0, 10.0], [0, focal, 5.0], [0, 0, 1]]).repeat(2, 1, 1)
    edge = 10.0 * distance / focal  # the half image in world units
    means = torch.tensor([[0, 0, 0], [edge + 0.05, 0, 0], [edge + 0.2, 0, 0], [0, -0.5 * edge - 0.05, 0], [0, 0, -9.0]])
    scales = torch.tensor([0.1 / 3, 0.01, 0.02]).expand(2, 5, 3)
    found = visibility(means.expand(2, 5, 3), scales, Cameras(world_to_camera, intrinsics, width, height))
    assert found.tolist() == [1, 1, 0, 1, 1]

"""The CUDA kernels of a fit against the CPU's code. Without a GPU, Triton's interpreter runs the kernels' Python."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from osgap.fit import losses
from osgap.fit.losses import visibility
from osgap.splat.cameras import Cameras

BATCH, COUNT = 3, 300


def check_visibility(device: str) -> None:
    from osgap.fit import visibility_triton

    random = torch.Generator().manual_seed(0)
    means = torch.randn(BATCH, COUNT, 3, generator=random)
    scales = 0.1 * torch.rand(BATCH, COUNT, 3, generator=random)
    world_to_camera = torch.eye(4).repeat(BATCH, 1, 1)
    world_to_camera[:, :3, :3] = torch.linalg.qr(torch.randn(BATCH, 3, 3, generator=random)).Q
    world_to_camera[:, 2, 3] = 1
    intrinsics = torch.tensor([[40.0, 0, 18], [0, 50, 31], [0, 0, 1]]).repeat(BATCH, 1, 1)
    cameras = Cameras(world_to_camera, intrinsics, 40, 56)
    expected = visibility(means, scales, cameras)
    found = visibility_triton.count(
        means.to(device), scales.to(device), cameras.to(device), losses._SIGMAS, losses._MIN_DEPTH
    )
    assert len(expected.unique()) == BATCH + 1
    assert torch.equal(found.cpu(), expected)


def check_adam() -> None:
    from osgap.fit import adam, adam_triton

    random = torch.Generator().manual_seed(0)
    table, gradient, means = torch.randn(3, 130, 14, generator=random)
    squares, rates = torch.rand(130, 14, generator=random), torch.rand(14, generator=random)
    expected = [value.clone() for value in (table, means, squares)]
    adam._step(expected[0], gradient, expected[1], expected[2], rates, (0.1, 0.2))
    adam_triton.step(table, gradient, means, squares, rates, adam._BETAS, (0.1, 0.2), adam._EPS)
    for found, want in zip((table, means, squares), expected, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_kernels_in_the_interpreter(interpret: Callable[[str], None]) -> None:
    interpret("tests.fit.test_kernels")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_visibility() -> None:
    check_visibility("cuda")


if __name__ == "__main__":
    check_visibility("cpu")
    check_adam()

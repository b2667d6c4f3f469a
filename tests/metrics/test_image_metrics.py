"""PSNR and SSIM against independent definitions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from osgap.metrics.image_metrics import psnr, ssim, ssim_map


def pair(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images that resemble each other."""
    random = torch.Generator().manual_seed(seed)
    first = torch.rand(shape, generator=random, dtype=dtype)
    return first, (first + 0.2 * torch.randn(shape, generator=random, dtype=dtype)).clamp(0, 1)


def ssim_by_definition(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Wang et al. 2004, eq. 13, on one channel `[H, W]`, with scipy's correlation and zeros beyond the border."""
    offsets = np.arange(-5, 6)
    kernel = np.exp(-(offsets**2) / (2 * 1.5**2))
    kernel /= kernel.sum()

    def mean(image: np.ndarray) -> np.ndarray:
        rows = correlate1d(image, kernel, axis=0, mode="constant")
        return correlate1d(rows, kernel, axis=1, mode="constant")

    mx, my = mean(x), mean(y)
    vx, vy, cxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return (2 * mx * my + 1e-4) * (2 * cxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "torch"])
@pytest.mark.parametrize("shape", [(2, 20, 33, 3), (40, 24, 1), (3, 2, 7, 9, 3)], ids=str)
def test_ssim_map_is_the_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, y = pair(*shape)
    tolerance = 1e-12 if dtype == torch.float64 else 3e-6
    found = ssim_map(x.to(dtype), y.to(dtype)).movedim(-1, -3)
    planes = [a.movedim(-1, -3).reshape(-1, *shape[-3:-1]).numpy() for a in (x, y)]
    expected = np.stack([ssim_by_definition(a, b) for a, b in zip(*planes, strict=True)])
    np.testing.assert_allclose(found.reshape(expected.shape).numpy(), expected, atol=tolerance)
    mean = ssim(x.to(dtype), y.to(dtype))
    assert mean.shape == shape[:-3]
    np.testing.assert_allclose(mean.mean().item(), expected.mean(), atol=tolerance)


def test_ssim_agrees_with_torchmetrics_away_from_the_border() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = pair(2, 48, 40, 3, dtype=torch.float32)
    _, expected = structural_similarity_index_measure(
        x.movedim(-1, 1), y.movedim(-1, 1), sigma=1.5, kernel_size=11, data_range=1.0, return_full_image=True
    )
    inner = (..., slice(5, -5), slice(5, -5))  # nearer to the border it reflects the image
    torch.testing.assert_close(ssim_map(x, y).movedim(-1, 1)[inner], expected[inner], atol=2e-5, rtol=0)


def test_ssim_of_equal_images_is_one() -> None:
    x, _ = pair(1, 30, 30, 3, dtype=torch.float32)
    torch.testing.assert_close(ssim(x, x), torch.ones(1), atol=1e-6, rtol=0)


def test_ssim_gradient() -> None:
    x, y = pair(1, 7, 6, 2)
    assert torch.autograd.gradcheck(lambda a, b: ssim(a, b), (x.requires_grad_(), y.requires_grad_()))


def test_compiled_gradient_is_that_of_torch() -> None:
    x, y = pair(2, 30, 21, 3)
    weights = torch.rand(2, 30, 21, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact, compiled = x.clone().requires_grad_(), x.float().requires_grad_()
    (ssim_map(exact, y) * weights).sum().backward()
    (ssim_map(compiled, y.float()) * weights.float()).sum().backward()
    assert exact.grad is not None
    assert exact.grad.abs().max() > 0.1
    torch.testing.assert_close(compiled.grad, exact.grad.float(), atol=1e-4, rtol=1e-4)


def test_gradient_of_the_second_image_is_not_dropped() -> None:
    x, y = pair(1, 14, 15, 3, dtype=torch.float32)
    y.requires_grad_()
    ssim(x, y).sum().backward()
    other = y.detach().clone().requires_grad_()
    ssim(other, x).sum().backward()  # SSIM is symmetric
    torch.testing.assert_close(y.grad, other.grad, atol=1e-7, rtol=1e-3)


def test_images_need_not_be_contiguous() -> None:
    x, y = pair(2, 30, 21, 3, dtype=torch.float32)
    torch.testing.assert_close(ssim(x.transpose(1, 2), y.transpose(1, 2)), ssim(x, y), atol=1e-6, rtol=0)


def test_psnr_of_a_known_error() -> None:
    x = torch.full((2, 8, 6, 3), 0.5)
    y = x.clone()
    y[1] += 0.1
    values = psnr(x, y)
    assert values[0].item() == pytest.approx(100)  # equal images: finite, so that averages and JSON hold it
    assert values[1].item() == pytest.approx(20, abs=1e-4)


def test_psnr_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    x, y = pair(3, 16, 20, 3, dtype=torch.float32)
    expected = [peak_signal_noise_ratio(a, b, data_range=1.0).item() for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(psnr(x, y).numpy(), expected, atol=1e-4)
    assert math.isclose(psnr(x, y).mean().item(), float(np.mean(expected)), abs_tol=1e-4)


@pytest.mark.parametrize("metric", [psnr, ssim, ssim_map])
def test_shapes_that_do_not_fit_are_refused(metric: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=r"\(4, 4, 3\) and \(4, 5, 3\)"):
        metric(torch.zeros(4, 4, 3), torch.zeros(4, 5, 3))
    with pytest.raises(ValueError, match="one shape"):
        metric(torch.zeros(4, 4), torch.zeros(4, 4))

"""Metrics of known images, and against torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from osgap.evaluation.measure import METRICS, average, average_by, measure
from osgap.metrics.image_metrics import ssim_map


def test_a_known_difference() -> None:
    truth = torch.full((2, 24, 20, 3), 0.5)
    rendered = truth.clone()
    rendered[0] += 0.1
    rendered[1, :, :, 0] += 0.1  # a third of the channels
    values = measure(rendered, truth, {})
    assert values["psnr"] == pytest.approx([20.0, 20 + 10 * np.log10(3)], abs=1e-4)
    assert set(values) == {"psnr", "ssim"}


def test_rendered_values_are_clamped_as_a_display_would() -> None:
    truth = torch.ones(1, 16, 16, 3)
    assert measure(truth + 0.7, truth, {})["psnr"] == pytest.approx([100.0])
    assert measure(truth + 0.7, truth, {})["ssim"] == pytest.approx([1.0])


def test_psnr_is_averaged_over_images_not_over_pixels() -> None:
    truth = torch.zeros(2, 16, 16, 3)
    rendered = torch.stack([truth[0] + 0.1, truth[1] + 0.01])
    assert average(measure(rendered, truth, {}))["psnr"] == pytest.approx(30.0, abs=1e-3)


@pytest.mark.slow
def test_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    random = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 40, 32, 3, generator=random)
    rendered = (truth + 0.1 * torch.randn(truth.shape, generator=random)).clamp(0, 1)
    values = measure(rendered, truth, {})
    for i in range(3):
        a, b = (images[i].permute(2, 0, 1)[None] for images in (rendered, truth))
        assert values["psnr"][i] == pytest.approx(float(peak_signal_noise_ratio(a, b, data_range=1.0)), abs=1e-4)
        # Nearer to the border than the window reaches, torchmetrics reflects the image and we do not.
        _, full = structural_similarity_index_measure(a, b, data_range=1.0, sigma=1.5, return_full_image=True)
        torch.testing.assert_close(
            ssim_map(rendered[i], truth[i]).permute(2, 0, 1)[:, 5:-5, 5:-5], full[0, :, 5:-5, 5:-5], atol=2e-5, rtol=0
        )


def test_averages_by_label() -> None:
    values = {"psnr": np.array([10.0, 20.0, 40.0]), "ssim": np.array([0.1, 0.2, 0.6])}
    by_camera = average_by(values, ["b", "a", "b"])
    assert list(by_camera) == ["b", "a"]
    assert by_camera["b"]["psnr"] == pytest.approx(25.0)
    assert by_camera["a"]["ssim"] == pytest.approx(0.2)


def test_a_metric_that_was_not_measured_is_none() -> None:
    means = average({"psnr": np.array([10.0]), "ssim": np.array([0.5])})
    assert set(means) == set(METRICS)
    assert means["lpips_alex"] is None
    assert means["lpips_vgg"] is None

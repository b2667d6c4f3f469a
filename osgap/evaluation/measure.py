"""Image metrics of rendered frames, one number per frame, and their averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from osgap.evaluation.lpips_networks import BACKBONES, Net, distances
from osgap.metrics.image_metrics import psnr, ssim

if TYPE_CHECKING:
    from torch import Tensor, nn

METRICS = ("psnr", "ssim", *(f"lpips_{net}" for net in BACKBONES))
"""In the order of the tables."""

HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips_alex": False, "lpips_vgg": False}

DEFINITIONS = {
    "psnr": "dB, over all pixels and channels of one image, then averaged over images",
    "ssim": "11x11 Gaussian window, sigma 1.5, zeros beyond the border",
    "lpips_alex": "LPIPS v0.1, AlexNet, images in [-1, 1]",
    "lpips_vgg": "LPIPS v0.1, VGG-16, images in [-1, 1]",
}
"""How each metric is measured, for the tables."""


@torch.no_grad()
def measure(rendered: Tensor, truth: Tensor, networks: Mapping[Net, nn.Module]) -> dict[str, np.ndarray]:
    """Compare images pair by pair: whole images on their white background, rendered values clamped to [0, 1].

    Args:
        rendered: `[M, H, W, 3]` float, RGB in [0, 1]; values beyond are clamped as a display would.
        truth: `[M, H, W, 3]` float, RGB in [0, 1].
        networks: LPIPS networks by name, see `osgap.evaluation.lpips_networks.load_networks`.

    Returns:
        For each metric that could be measured, `[M]` float64.
    """
    rendered = rendered.clamp(0, 1)
    values = {"psnr": psnr(rendered, truth), "ssim": ssim(rendered, truth)}
    for net, network in networks.items():
        values[f"lpips_{net}"] = distances(network, rendered, truth)
    return {name: value.double().cpu().numpy() for name, value in values.items()}


def average(values: Mapping[str, np.ndarray], chosen: np.ndarray | None = None) -> dict[str, float | None]:
    """The mean of each metric over frames; None for a metric that was not measured.

    Args:
        values: from `measure`, `[M]` each.
        chosen: `[M]` bool or `[K]` indices of frames. Default is all.
    """
    return {
        name: float(np.mean(values[name] if chosen is None else values[name][chosen])) if name in values else None
        for name in METRICS
    }


def average_by(values: Mapping[str, np.ndarray], labels: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """`average` over the frames of each label (a camera's serial, a sequence's name).

    Args:
        values: from `measure`, `[M]` each.
        labels: `M` of them.
    """
    array = np.asarray(labels)
    return {label: average(values, array == label) for label in dict.fromkeys(labels)}

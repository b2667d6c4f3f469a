"""LPIPS as a metric: no number where the backbone's weights are absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from osgap.evaluation.config import LpipsWeights
from osgap.metrics import lpips
from osgap.metrics.lpips import BACKBONES, Net
from osgap.runtime.weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["BACKBONES", "Net", "distances", "load_network", "load_networks", "why_missing"]


def why_missing(weights: LpipsWeights) -> dict[Net, str]:
    """For each network that cannot be used, the sentence that belongs into a footnote; no paths in it."""
    reasons: dict[Net, str] = {}
    for net, backbone in BACKBONES.items():
        file: WeightFile | None = getattr(weights, net)
        if file is None:
            reasons[net] = f"not measured: no {backbone} weights are configured (evaluation.lpips.{net})"
        elif not file.path.is_file():
            reasons[net] = f"not measured: the {backbone} weights {file.path.name} are not on this machine"
    return reasons


def load_networks(weights: LpipsWeights, device: torch.device | str = "cpu") -> dict[Net, nn.Module]:
    """The networks whose weight file is present, by name (`alex`, `vgg`); see `why_missing` for the others.

    Raises:
        UserError: when a file is present but has another checksum or other content than the network needs.
    """
    missing = why_missing(weights)
    return {net: load_network(net, getattr(weights, net)).to(device) for net in BACKBONES if net not in missing}


def load_network(net: Net, file: WeightFile) -> nn.Module:
    """See `osgap.metrics.lpips.load_network`; call it through `distances`."""
    return lpips.load_network(net, file, f"evaluation.lpips.{net}")


@torch.no_grad()
def distances(network: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """LPIPS distance of image pairs.

    Args:
        network: from `load_network`.
        first: `[M, H, W, 3]` float, RGB in [0, 1].
        second: likewise.

    Returns:
        `[M]`, 0 for equal images.
    """
    # One pair at a time: VGG-16's first features of a 550x802 image alone are 113 MB.
    values = [lpips.distances(network, a[None], b[None]) for a, b in zip(first, second, strict=True)]
    return torch.cat(values) if values else first.new_zeros(0)

"""LPIPS with backbone weights from a local file: no download, and no number where the file is absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch

from osgap.errors import UserError
from osgap.evaluation.config import LpipsWeights
from osgap.weights import WeightFile, read_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

Net = Literal["alex", "vgg"]

BACKBONES: dict[Net, str] = {"alex": "AlexNet", "vgg": "VGG-16"}
"""The networks, by the name that LPIPS gives them."""


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
    """LPIPS v0.1 with linear heads from torchmetrics and the backbone from `file`; call it through `distances`.

    Raises:
        UserError: when the file's checksum or content is not what the config and the network say.
    """
    state = read_weights(file, f"evaluation.lpips.{net}")

    # torchmetrics and torchvision take seconds to import, so only who measures LPIPS pays for them.
    from torchmetrics.functional.image.lpips import _LPIPS

    network = _LPIPS(net=net, pretrained=True, pnet_rand=True)  # heads from the package, backbone still random
    network.net.load_state_dict(_slices(network.net.state_dict(), state, net, file))
    return network.eval()


def _slices(wanted: Mapping[str, Tensor], state: object, net: Net, file: WeightFile) -> dict[str, Tensor]:
    """Rename torchvision's `features.<i>.*` to torchmetrics' `slice<k>.<i>.*`."""
    if not isinstance(state, Mapping):
        raise UserError(f"evaluation.lpips.{net}: {file.path} holds a {type(state).__name__}, not a state dict")
    renamed = {}
    for name, parameter in wanted.items():
        key = "features." + name.split(".", 1)[1]
        if key not in state or state[key].shape != parameter.shape:
            shape = tuple(state[key].shape) if key in state else "absent"
            raise UserError(
                f"evaluation.lpips.{net}: {file.path} is not torchvision's {BACKBONES[net]}: {key} is {shape}, "
                f"expected {tuple(parameter.shape)}"
            )
        renamed[name] = state[key]
    return renamed


@torch.no_grad()
def distances(network: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """LPIPS distance of image pairs.

    Args:
        network: from `load_network`.
        first: `[M, H, W, 3]` float, RGB in [0, 1]; mapped to [-1, 1] as LPIPS expects.
        second: likewise.

    Returns:
        `[M]`, 0 for equal images.
    """
    # One pair at a time: VGG-16's first features of a 550x802 image alone are 113 MB.
    pairs = zip(first, second, strict=True)
    values = [network(2 * _nchw(a) - 1, 2 * _nchw(b) - 1).reshape(()) for a, b in pairs]
    return torch.stack(values) if values else first.new_zeros(0)


def _nchw(image: Tensor) -> Tensor:
    return image.permute(2, 0, 1)[None]

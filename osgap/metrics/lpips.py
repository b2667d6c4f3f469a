"""LPIPS v0.1 (Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric"), as a metric
and as a loss. The backbone's weights come from a local file: nothing is ever downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch

from osgap.metrics.definitions import LPIPS_EPSILON
from osgap.runtime.errors import UserError
from osgap.runtime.weights import WeightFile, read_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

Net = Literal["alex", "vgg"]

BACKBONES: dict[Net, str] = {"alex": "AlexNet", "vgg": "VGG-16"}
"""The networks, by the name that LPIPS gives them."""


def load_network(net: Net, file: WeightFile, key: str) -> nn.Module:
    """The backbone from `file` and the linear heads from torchmetrics, frozen; call it through `distances`.

    Args:
        net: which backbone.
        file: torchvision's weights of it; its classifier may be left out.
        key: where the config names the file, for messages.

    Raises:
        UserError: when the file's checksum or content is not what the config and the network say.
    """
    state = read_weights(file, key)

    # torchmetrics and torchvision take seconds to import, so only who measures LPIPS pays for them.
    from torchmetrics.functional.image.lpips import _LPIPS

    network = _LPIPS(net=net, pretrained=True, pnet_rand=True)  # heads from the package, backbone still random
    network.net.load_state_dict(_slices(network.net.state_dict(), state, net, f"{key}: {file.path}"))
    return network.eval()


def _slices(wanted: Mapping[str, Tensor], state: object, net: Net, where: str) -> dict[str, Tensor]:
    """Rename torchvision's `features.<i>.*` to torchmetrics' `slice<k>.<i>.*`."""
    if not isinstance(state, Mapping):
        raise UserError(f"{where} holds a {type(state).__name__}, not a state dict")
    renamed = {}
    for name, parameter in wanted.items():
        key = "features." + name.split(".", 1)[1]
        if key not in state or state[key].shape != parameter.shape:
            shape = tuple(state[key].shape) if key in state else "absent"
            raise UserError(
                f"{where} is not torchvision's {BACKBONES[net]}: {key} is {shape}, expected {tuple(parameter.shape)}"
            )
        renamed[name] = state[key]
    return renamed


def distances(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """LPIPS distances of image pairs (eq. 1 of the paper), differentiable in `images`; `targets` are constants.

    The backbone computes in the type of its parameters, whether autocast is on or not; what follows it in the type of
    the heads, which is float32. All pairs are one batch: of an 802 x 550 image, VGG-16 keeps 0.64 GB for the gradient,
    0.37 GB in bfloat16, and on the CPU 0.22 GB more.

    Args:
        network: from `load_network`.
        images: `[M, H, W, 3]` float, RGB in 0..1; mapped to [-1, 1] as LPIPS expects.
        targets: likewise.

    Returns:
        `[M]`, 0 for equal images.
    """
    with torch.autocast(images.device.type, enabled=False):
        found = _features(network, images)
        with torch.no_grad():
            wanted = _features(network, targets)
        heads = [head.model[-1].weight.flatten() for head in network.lins]  # type: ignore[union-attr]
        levels = [_difference(*level) for level in zip(found, wanted, heads, strict=True)]
    return torch.stack(levels).sum(dim=0)


def _features(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Features at five depths, `[M, C, h, w]` each."""
    backbone: nn.Module = network.net  # type: ignore[assignment]
    scaled = network.scaling_layer(2 * images.permute(0, 3, 1, 2) - 1)  # type: ignore[operator]
    scaled = scaled.to(next(backbone.parameters()).dtype)
    # As `osgap.prior.losses.load_perceptual` makes VGG-16; metrics are in float32.
    if scaled.is_cuda and scaled.dtype == torch.bfloat16 and network.pnet_type == "vgg":
        from osgap.metrics import vgg_triton  # compiled code: loaded by those who need it only

        return vgg_triton.features(backbone, scaled)
    return backbone(scaled)


def _difference(found: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    if found.is_cuda and weights.dtype == torch.float32:
        from osgap.metrics import lpips_triton  # compiled code: loaded by those who need it only

        return lpips_triton.difference(found, wanted, weights)
    return difference_in_torch(found, wanted, weights)


def difference_in_torch(found: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Weighted squared difference of features of unit length, mean over pixels: `[M]`.

    Args:
        found: `[M, C, h, w]`.
        wanted: likewise.
        weights: `[C]`.
    """
    difference = _unit(found, weights.dtype) - _unit(wanted, weights.dtype)
    return (difference.square().movedim(1, -1) @ weights).mean(dim=(1, 2))


def _unit(features: Tensor, dtype: torch.dtype) -> Tensor:
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=dtype)
    return features * (length.square() + LPIPS_EPSILON).rsqrt()

"""Photographs, networks and files for the tests of backbones."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osgap.prior.network.backbone import Backbone
from osgap.prior.network.backbone_weights import load_weights
from osgap.prior.network_config import BackboneConfig
from osgap.runtime.weights import WeightFile

KEY = "prior.backbone"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def images(size: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(size))


def written(folder: Path, content: Any, name: str = "weights.pth") -> WeightFile:
    path = folder / name
    if name.endswith(".safetensors"):
        from safetensors.torch import save_file

        save_file(content, path)
    else:
        torch.save(content, path)
    return WeightFile(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def loaded(folder: Path, name: str, content: Any, file: str = "weights.pth") -> Backbone:
    weights = written(folder, content, file)
    backbone = Backbone(BackboneConfig(name=name, path=weights.path, sha256=weights.sha256))
    load_weights(backbone, weights, KEY)
    return backbone


def lived(network: nn.Module) -> nn.Module:
    """With statistics, scales and shifts of normalisations that are not those of a new network; evaluating."""
    random = torch.Generator().manual_seed(7)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.bias.data):
                assert value is not None
                value.copy_(0.3 * torch.randn(value.shape, generator=random))
            for value in (module.running_var, module.weight.data):
                assert value is not None
                value.copy_(0.5 + torch.rand(value.shape, generator=random))
    return network.eval()


def normalised(x: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def agree(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())

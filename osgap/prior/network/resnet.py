"""ResNets (He et al., "Deep residual learning for image recognition", CVPR 2016) under torchvision's names.

`segmentation_models_pytorch` has them too, but its import brings timm, torchvision and, with that, torch's compiler:
twice what all other imports of an avatar take. Everybody's backbone shall not wait for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

RESNETS: dict[str, tuple[bool, tuple[int, int, int, int]]] = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
"""Of each: whether its blocks are bottlenecks, and how many blocks each stage has (table 1 of the paper)."""

_STEM = 64
_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4  # of a bottleneck's output against its inner width


class ResNet(nn.Module):
    """The feature maps of one, at 1/2 (stem), 1/4, 1/8, 1/16 and 1/32 of the image's size (rounded up).

    Bottlenecks have their stride in the 3 x 3 convolution, as torchvision's ("ResNet v1.5").

    Args:
        name: one of `RESNETS`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        bottleneck, depths = RESNETS[name]
        self.conv1 = nn.Conv2d(3, _STEM, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels, self.channels = _STEM, [_STEM]
        for index, (width, depth) in enumerate(zip(_WIDTHS, depths, strict=True)):
            blocks = []
            for place in range(depth):
                blocks.append(_Block(channels, width, 2 if index and not place else 1, bottleneck))
                channels = blocks[-1].out_channels
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
            self.channels.append(channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # torchvision's variance, of uniform numbers: normal ones on the meta device import torch's compiler.
                nn.init.kaiming_uniform_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Five maps of normalised images `[B, 3, H, W]`, finest first."""
        maps = [self.relu(self.bn1(self.conv1(images)))]
        x = self.maxpool(maps[0])
        for index in range(len(_WIDTHS)):
            x = self.get_submodule(f"layer{index + 1}")(x)
            maps.append(x)
        return maps


class _Block(nn.Module):
    """Two 3 x 3 convolutions, or the middle one of three, and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.out_channels = width * _EXPANSION if bottleneck else width
        # kernel size, stride and output channels of each
        layers = (
            [(1, 1, width), (3, stride, width), (1, 1, self.out_channels)]
            if bottleneck
            else [(3, stride, width), (3, 1, width)]
        )
        before, self._depth = channels, len(layers)
        for index, (kernel, step, after) in enumerate(layers, start=1):
            convolution = nn.Conv2d(before, after, kernel, stride=step, padding=kernel // 2, bias=False)
            setattr(self, f"conv{index}", convolution)
            setattr(self, f"bn{index}", nn.BatchNorm2d(after))
            before = after
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            None
            if stride == 1 and channels == self.out_channels
            else nn.Sequential(
                nn.Conv2d(channels, self.out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(self.out_channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for index in range(1, self._depth + 1):
            x = self.get_submodule(f"bn{index}")(self.get_submodule(f"conv{index}")(x))
            if index < self._depth:
                x = self.relu(x)
        return self.relu(x + shortcut)

"""Settings of the networks: how large they are, and where their weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from osgap.runtime.section import PLACE, Section
from osgap.runtime.weights import WeightFile


class EncoderConfig(Section):
    """The network that reads the photograph. The defaults are the full size: 512 x 512 in, 80.2 million parameters."""

    input_size: int = Field(512, ge=32, multiple_of=16)
    """Height and width of the square network input [pixels]. The features come out at half of it."""
    width: int = Field(64, ge=4, multiple_of=4)
    """Width of the stem [channels]; every other convolution is a fixed multiple of it."""
    token_width: int = Field(1024, ge=16, multiple_of=16)
    """Width of a token in the attention blocks [channels]."""
    residual_blocks: tuple[int, int] = (3, 4)
    """Residual blocks in the two stages of the trunk, at 1/4 and at 1/8 of the input size [blocks]."""
    attention_blocks: int = Field(5, ge=1)
    """Attention blocks of the global branch, at 1/16 of the input size [blocks]."""
    heads: int = Field(4, ge=2, multiple_of=2)
    """Attention heads of the global branch [heads]; the fusion block has half as many."""
    dilations: tuple[int, int, int] = (12, 24, 36)
    """Dilations of the context pyramid [pixels at 1/8 of the input size]."""

    @model_validator(mode="after")
    def _heads_divide_tokens(self) -> Self:
        if self.token_width % self.heads:
            raise ValueError(f"token_width {self.token_width} is not a multiple of heads {self.heads}")
        if min(self.residual_blocks) < 1 or min(self.dilations) < 1:
            raise ValueError("residual_blocks and dilations must be at least 1 each")
        return self


class BackboneConfig(Section):
    """The network that image features come from."""

    name: str = Field("resnet34", pattern=r"^[\w.+-]+$")
    """An encoder of `segmentation_models_pytorch` (`resnet34`, `mit_b1`), or one of timm's models after `tu-`
    (`tu-vit_small_patch14_dinov2`)."""
    path: Path | None = Field(None, json_schema_extra=PLACE)
    """Its pretrained weights, as their publisher distributes them. Default is none: random ones."""
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{8,64}$")
    """SHA-256 of that file in lower-case hex, or its beginning. A trained prior keeps it in place of the file: its
    layers are others than with random weights."""

    @property
    def pretrained(self) -> bool:
        """Whether its weights come, or came, from a file."""
        return self.sha256 is not None

    @property
    def file(self) -> WeightFile | None:
        """The file that its weights come from."""
        return None if self.path is None or self.sha256 is None else WeightFile(path=self.path, sha256=self.sha256)


class SurfaceConfig(Section):
    """The network that puts the photograph's pixels onto the head and completes them there (`prior.architecture:
    surface`). With the defaults, a resnet34 and maps of 256 x 256 texels it takes 63 GMAC for one photograph."""

    input_size: int = Field(512, ge=32, multiple_of=32)
    """Height and width of the square network input [pixels]."""
    widths: tuple[int, ...] = Field((48, 96, 192, 384), min_length=2)
    """Width of the network on the head at each of its levels [channels]: the first at the size of the maps, each
    further one at half the size of the one before."""
    blocks: int = Field(2, ge=1)
    """Residual blocks at each level, on the way down and on the way up [blocks]."""
    attention_blocks: int = Field(2, ge=1)
    """Attention blocks at the last level [blocks]."""
    heads: int = Field(6, ge=1)
    """Attention heads there [heads]."""
    sampled: int = Field(32, ge=8, multiple_of=8)
    """What is sampled of each scale of the backbone's features [channels]."""
    code: int = Field(256, ge=8, multiple_of=8)
    """Width of the code of the whole photograph, which modulates every level [channels]."""

    @model_validator(mode="after")
    def _widths_are_usable(self) -> Self:
        odd = [width for width in self.widths if width < 8 or width % 8]
        if odd:
            raise ValueError(f"widths are multiples of 8, but {odd[0]} is none")
        if self.widths[-1] % self.heads:
            raise ValueError(f"the last of widths, {self.widths[-1]}, is not a multiple of heads {self.heads}")
        return self


@dataclass(frozen=True)
class SurfaceNetwork:
    """All that the `surface` network is made of."""

    surface: SurfaceConfig
    backbone: BackboneConfig

    @property
    def input_size(self) -> int:
        """Height and width of the square network input, in pixels."""
        return self.surface.input_size


NetworkConfig = EncoderConfig | SurfaceNetwork
"""Of the published network, or of `surface`."""


class RefinerConfig(Section):
    """A network that corrects renderings, from the colours and further features that are rendered with them."""

    features: int = Field(31, ge=1, le=64)
    """Features per Gaussian beside the 14 attributes [channels]; the published head has 31."""
    width: int = Field(32, ge=8, multiple_of=8)
    """Width of its first layer [channels]."""

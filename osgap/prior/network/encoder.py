"""The image encoder: a square photograph in, features of every UV texel out.

The structure is the one that the published one-shot prior uses: a residual trunk, a pyramid of dilated convolutions,
attention over the whole image at low resolution, a shallow branch at high resolution, and a fusion of the two. None
of its convolutions is normalised and all have a bias; tokens are normalised by LayerNorm.

Of an image that is channels_last in memory every map is, and tokens `[B, H, W, C]` are views of maps.

Sources: residual blocks, He et al. 2016, fig. 5; dilated pyramid, Chen et al. 2017 (DeepLabv3), fig. 5; attention
blocks with spatial reduction and a depthwise convolution, Xie et al. 2021 (SegFormer), sec. 3.1.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from osgap.prior.network.attention import as_autocast, attend, is_half_on_cuda
from osgap.prior.network_config import EncoderConfig

COLOR_CHANNELS = 3
COORDINATE_CHANNELS = 2


class ImageEncoder(nn.Module):
    """Photograph to per-texel features.

    All sizes follow from `EncoderConfig`. With its defaults the module holds 80,172,736 parameters.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, tokens = config.width, config.token_width
        self.out_channels = 3 * width // 2
        self.trunk = ResidualTrunk(width, config.residual_blocks)
        self.context = ContextPyramid(2 * width, 4 * width, config.dilations)
        self.global_branch = GlobalBranch(4 * width, tokens, config, out_channels=self.out_channels)
        self.detail_branch = detail_branch(width, self.out_channels)
        self.fusion = Fusion(self.out_channels, width, tokens, config.heads // 2)
        self.apply(initialise)
        for module in self.modules():
            if isinstance(module, ResidualBlock | AttentionBlock):
                module.damp(0.5 / math.sqrt(sum(config.residual_blocks) + config.attention_blocks))

    def forward(self, image: Tensor) -> Tensor:
        """Features `[B, C, I/2, I/2]`, C = `out_channels`, of images `[B, 3, I, I]`: RGB in [0, 1], on white."""
        image = _for_tensor_cores(with_coordinates(image))
        scene = self.global_branch(self.context(self.trunk(image)))
        return self.fusion(self.detail_branch(image), scene)


def with_coordinates(image: Tensor) -> Tensor:
    """Append the row and the column of every pixel, both from 0 to 1: `[B, 3, H, W]` -> `[B, 5, H, W]`.

    The published network reads raw pixel indices here; dividing by the largest one makes the input independent of
    the size, and its weights differ by that factor only. The result lies in memory as the image does.
    """
    batch, _, height, width = image.shape
    rows = torch.linspace(0, 1, height, device=image.device, dtype=image.dtype)[:, None].expand(height, width)
    columns = torch.linspace(0, 1, width, device=image.device, dtype=image.dtype)[None].expand(height, width)
    coordinates = torch.stack([rows, columns]).expand(batch, -1, -1, -1)
    return torch.cat([image, coordinates.contiguous(memory_format=_layout(image))], dim=1)


def _for_tensor_cores(image: Tensor) -> Tensor:
    """In reduced precision on CUDA: cast once for both readers, channels_last, with channels of zeros up to 8.

    Tensor cores read multiples of 8 channels of 16 bits.
    """
    image = as_autocast(image)
    if is_half_on_cuda(image):
        image = F.pad(image, (0, 0, 0, 0, 0, -image.shape[1] % 8)).contiguous(memory_format=torch.channels_last)
    return image


class ImageConvolution(nn.Conv2d):
    """7x7 convolution to half the size of an image with coordinates, which may be followed by channels of zeros."""

    def __init__(self, width: int) -> None:
        super().__init__(COLOR_CHANNELS + COORDINATE_CHANNELS, width, 7, stride=2, padding=3)

    def forward(self, image: Tensor) -> Tensor:
        """`[B, 5 + zeros, H, W]` -> `[B, width, H/2, W/2]`; channels beyond the fifth count for nothing."""
        extra = image.shape[1] - self.in_channels
        weight = F.pad(self.weight, (0, 0, 0, 0, 0, extra)) if extra else self.weight
        return F.conv2d(image, weight, self.bias, self.stride, self.padding)


class ResidualTrunk(nn.Module):
    """Stem (1/4 of the size) and two residual stages: `[B, 5, H, W]` -> `[B, 2 * width, H/8, W/8]`."""

    def __init__(self, width: int, blocks: tuple[int, int]) -> None:
        super().__init__()
        self.stem = ImageConvolution(width)
        self.stages = nn.Sequential(
            *(ResidualBlock(width, width) for _ in range(blocks[0])),
            ResidualBlock(width, 2 * width, stride=2),
            *(ResidualBlock(2 * width, 2 * width) for _ in range(blocks[1] - 1)),
        )

    def forward(self, image: Tensor) -> Tensor:
        """`[B, 5, H, W]` -> `[B, 2 * width, H/8, W/8]`."""
        return self.stages(F.max_pool2d(F.relu(self.stem(image)), 3, stride=2, padding=1))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016), without normalisation."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=stride) if stride > 1 else nn.Identity()

    def damp(self, gain: float) -> None:
        """Scale the branch's last layer at initialisation, so that depth does not add up without normalisation."""
        with torch.no_grad():
            self.conv2.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, in, H, W]` -> `[B, out, H/stride, W/stride]`."""
        return F.relu(self.shortcut(x) + self.conv2(F.relu(self.conv1(x))))


class ContextPyramid(nn.Module):
    """Dilated convolutions side by side and the image's mean (Chen et al. 2017), then a 3x3 convolution."""

    def __init__(self, channels_in: int, channels_out: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                nn.Conv2d(channels_in, channels_out, 1),
                *(nn.Conv2d(channels_in, channels_out, 3, padding=d, dilation=d) for d in dilations),
            ]
        )
        self.mean = nn.Conv2d(channels_in, channels_out, 1)
        self.project = nn.Conv2d((len(dilations) + 2) * channels_out, channels_out, 1)
        self.refine = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, in, H, W]` -> `[B, out, H, W]`."""
        parts = [F.relu(branch(x)) for branch in self.branches]
        mean = F.relu(self.mean(x.mean(dim=(2, 3), keepdim=True)))
        parts.append(mean.expand(-1, -1, *x.shape[2:]).contiguous(memory_format=_layout(x)))
        return F.relu(self.refine(F.relu(self.project(torch.cat(parts, dim=1)))))


class GlobalBranch(nn.Module):
    """Attention over the whole image at 1/16 of its size, then up: `[B, C, H/8, W/8]` -> `[B, out, H/2, W/2]`."""

    def __init__(self, channels: int, tokens: int, config: EncoderConfig, out_channels: int) -> None:
        super().__init__()
        narrow = 2 * config.width
        self.embed = PatchEmbedding(channels, tokens)
        self.blocks = nn.ModuleList(AttentionBlock(tokens, config.heads) for _ in range(config.attention_blocks))
        self.conv1 = nn.Conv2d(tokens // 4, narrow, 3, padding=1)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, padding=1)
        self.conv3 = nn.Conv2d(narrow, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, out, 4 H, 4 W]`."""
        layout = _layout(x)
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.conv1(_double(_unfold(x, layout))))
        return self.conv3(F.relu(self.conv2(_double(x))))


def detail_branch(width: int, out_channels: int) -> nn.Sequential:
    """Shallow features at half the size: `[B, 5, H, W]` -> `[B, out, H/2, W/2]`."""
    layers: list[nn.Module] = [ImageConvolution(width), nn.LeakyReLU()]
    for channels_in in (width, out_channels, out_channels, out_channels):
        layers += [nn.Conv2d(channels_in, out_channels, 3, padding=1), nn.LeakyReLU()]
    return nn.Sequential(*layers)


class Fusion(nn.Module):
    """Joins the detailed and the global features: two `[B, C, H/2, W/2]` -> `[B, C, H/2, W/2]`."""

    def __init__(self, channels: int, width: int, tokens: int, heads: int) -> None:
        super().__init__()
        self.joint = _convolutions(2 * channels, 4 * width, 2 * width)
        self.embed = PatchEmbedding(2 * width, tokens)
        self.block = AttentionBlock(tokens, heads, reduction=2)
        self.refine = _convolutions(tokens // 4 + channels, 4 * width, 2 * width, 2 * width)
        self.out = nn.Conv2d(2 * width, channels, 3, padding=1)

    def forward(self, detail: Tensor, scene: Tensor) -> Tensor:
        """Two maps `[B, C, H, W]`, detailed and global, -> `[B, C, H, W]`."""
        tokens = self.block(self.embed(self.joint(torch.cat([detail, scene], dim=1))))
        return self.out(self.refine(torch.cat([_unfold(tokens, _layout(scene)), scene], dim=1)))


class PatchEmbedding(nn.Module):
    """Overlapping patches at half the size as tokens: `[B, C, H, W]` -> `[B, H/2, W/2, tokens]`."""

    def __init__(self, channels: int, tokens: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, tokens, 7, stride=2, padding=3)
        self.norm = nn.LayerNorm(tokens)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> `[B, H/2, W/2, tokens]`."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class AttentionBlock(nn.Module):
    """Pre-normalised attention and feed-forward block over `[B, H, W, tokens]` (Xie et al. 2021, eq. 1-3)."""

    def __init__(self, tokens: int, heads: int, reduction: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(tokens)
        self.attention = Attention(tokens, heads, reduction)
        self.norm2 = nn.LayerNorm(tokens)
        self.mlp = MixFeedForward(tokens, 2 * tokens)

    def damp(self, gain: float) -> None:
        """See `ResidualBlock.damp`."""
        with torch.no_grad():
            self.attention.proj.weight.mul_(gain)
            self.mlp.fc2.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, tokens]` -> the same."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Multi-head attention whose keys and values come from a map that is `reduction` times smaller."""

    def __init__(self, tokens: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(tokens, tokens, bias=False)
        self.kv = nn.Linear(tokens, 2 * tokens, bias=False)
        self.proj = nn.Linear(tokens, tokens)
        self.reduce = nn.Conv2d(tokens, tokens, reduction, stride=reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(tokens) if reduction > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, tokens]` -> the same; each place attends to the whole (reduced) map."""
        batch, height, width, tokens = x.shape
        x = as_autocast(x)  # LayerNorm's result is float32
        context = x
        if self.reduce is not None and self.norm is not None:
            context = self.norm(self.reduce(_to_map(x)).permute(0, 2, 3, 1))
        query = self._split(self.q(x))
        key, value = (self._split(part) for part in self.kv(context).chunk(2, dim=-1))
        mixed = attend(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, height, width, tokens))

    def _split(self, x: Tensor) -> Tensor:
        """`[B, H, W, heads * D]` -> `[B, heads, H * W, D]`."""
        return x.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)


class MixFeedForward(nn.Module):
    """Linear, 3x3 depthwise convolution, GELU, linear (Xie et al. 2021, eq. 3)."""

    def __init__(self, tokens: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(tokens, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, tokens]` -> the same."""
        return self.fc2(F.gelu(self._mix(self.fc1(x))))

    def _mix(self, x: Tensor) -> Tensor:
        if is_half_on_cuda(x) and self.depthwise.bias is not None:
            from osgap.prior.network import depthwise_triton  # compiled code: loaded by those who need it only

            return depthwise_triton.depthwise(x, self.depthwise.weight, self.depthwise.bias)
        return self.depthwise(_to_map(x)).permute(0, 2, 3, 1)


def _convolutions(*channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels_in, channels_out in itertools.pairwise(channels):
        layers += [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.LeakyReLU()]
    return nn.Sequential(*layers)


def _to_map(tokens: Tensor) -> Tensor:
    """`[B, H, W, C]` -> `[B, C, H, W]`."""
    return tokens.permute(0, 3, 1, 2)


def _unfold(tokens: Tensor, layout: torch.memory_format) -> Tensor:
    """`F.pixel_shuffle` by 2 of the tokens' map: `[B, H, W, 4 * C]` -> `[B, C, 2 * H, 2 * W]`."""
    if layout != torch.channels_last:
        return F.pixel_shuffle(_to_map(tokens), 2)
    batch, height, width, _ = tokens.shape
    cells = tokens.unflatten(-1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)  # row, row in the cell, column, ...
    return _to_map(cells.reshape(batch, 2 * height, 2 * width, -1))


def _layout(x: Tensor) -> torch.memory_format:
    """Of a map that lies in memory in one piece."""
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def initialise(module: nn.Module) -> None:
    """Keep the variance of activations (He et al. 2015), which nothing normalises between convolutions.

    On the meta device nothing is drawn: `normal_` there imports torch's compiler, for seconds.
    """
    if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        return
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)

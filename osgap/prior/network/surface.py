"""The `surface` network: what photographs show, put onto the head and completed there.

Features of each photograph, at several scales, and its pixels are sampled where the tracked head shows in them, one
sample per texel, and photographs are fused texel by texel. From there on everything happens on the UV square: a U-Net
(Ronneberger et al. 2015, fig. 1) completes what no photograph shows. It is also given what is known of every texel
beforehand, the sample of the texel opposite (layouts of heads are nearly mirror-symmetric), and, at every level, a code
of the whole photographs (scale and shift of features: Perez et al. 2018, "FiLM"), for what no texel sees, such as hair.
At its last level attention (`osgap.prior.network.encoder`) lets any part ask any other.

Texels are normalised one by one, over their channels: others do not move those that nothing covers, and of a map that
is channels_last nothing is laid out anew.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from osgap.prior.network.attention import as_autocast, is_half_on_cuda
from osgap.prior.network.backbone import Backbone
from osgap.prior.network.decoder import UVDecoder
from osgap.prior.network.encoder import AttentionBlock, initialise
from osgap.prior.network_config import SurfaceNetwork
from osgap.prior.photographs import Photographs
from osgap.prior.surface import SurfaceViews
from osgap.splat.attributes import CHANNELS, N_CHANNELS, SH_C0

REST_CHANNELS = 6
"""Of what is known of each texel of the head at rest: its point and its normal."""
_RGB = 3
_VIEW = 5  # visibility, cosine, normal
_EMBEDDING = 16  # channels learned for each texel, at least
_UNSEEN = 1e-3  # of the weight of a photograph that shows a texel, has one that does not


class SurfaceEncoder(nn.Module):
    """Photographs and where they show the head to features of every texel.

    Args:
        config: its size.
        rest: `[6, U, U]`, see `rest_on_texels`.
    """

    rest: Tensor

    def __init__(self, config: SurfaceNetwork, rest: Tensor) -> None:
        super().__init__()
        surface, size = config.surface, rest.shape[-1]
        widths = surface.widths
        self.out_channels = widths[0] + _RGB
        self.register_buffer("rest", rest.float().clone())
        self.backbone = Backbone(config.backbone)
        self.sampler = Sampler(self.backbone.channels, surface.sampled)
        self.fine = Fusion(self.sampler.fine_channels, widths[0])
        self.coarse = Fusion(self.sampler.coarse_channels, widths[1])
        self.code = Code(self.backbone.channels[-1], surface.code)
        given = 2 * (widths[0] + _RGB + 1) + N_CHANNELS + REST_CHANNELS + 1
        learned = _EMBEDDING + -(given + _EMBEDDING) % 8  # tensor cores read multiples of 8 channels
        self.embedding = nn.Parameter(torch.empty(1, learned, size, size))
        self.enter = nn.Conv2d(given + learned, widths[0], 1)
        self.unet = SurfaceUNet(config, coarse_channels=2 * widths[1])
        self.gate = nn.Conv2d(widths[0], _RGB, 1)
        for module in (self.sampler, self.fine, self.coarse, self.code, self.enter, self.unet, self.gate):
            module.apply(initialise)
        if not self.embedding.is_meta:
            nn.init.normal_(self.embedding, std=0.1)
        self.unet.damp()

    def forward(self, photographs: Photographs, mean: Tensor, residual_scale: Tensor, mask: Tensor) -> Tensor:
        """Features `[B, C, U, U]` of people, C = `out_channels`; the last three carry the colours that were seen.

        Args:
            photographs: K of each of B people, with their views.
            mean: the mean avatar's map, `[U, U, 14]`.
            residual_scale: units of the channels, `[14]`.
            mask: covered texels, bool `[U, U]`.

        Raises:
            ValueError: when nobody has found the texels in the photographs.
        """
        if photographs.views is None:
            raise ValueError("the surface network reads photographs with their views, but these have none")
        people, count = photographs.images.shape[:2]
        pictures = photographs.images.flatten(0, 1)
        # Not in reduced precision yet, which has too few steps for colours.
        layout = torch.channels_last if pictures.is_cuda else torch.contiguous_format
        scales = self.backbone(pictures.contiguous(memory_format=layout))
        seen = SeenTexels.of(photographs.views, mask)
        fine, coarse = self.sampler(pictures, scales, seen)
        fused, weights, visible = self.fine(fine, seen.visible, count)
        colors = (weights * fine[:, :_RGB]).unflatten(0, (people, count)).sum(dim=1)
        fused_coarse, _, _ = self.coarse(coarse, seen.half().visible, count)
        code = self.code(scales[-1], count)

        here = torch.cat([fused, as_autocast(colors), as_autocast(visible)], dim=1)
        fixed = self._fixed(mean, mask).to(here.dtype)
        fixed = torch.cat([fixed, self.embedding.to(here.dtype)], dim=1).expand(people, -1, -1, -1)
        x = self.enter(_laid_out(torch.cat([here, here.flip(-1), fixed], dim=1)))
        x = self.unet(x, _laid_out(torch.cat([fused_coarse, fused_coarse.flip(-1)], dim=1)), code)
        return torch.cat([x, self._seen_colors(x, colors, visible, mean, residual_scale)], dim=1)

    @torch.no_grad()
    def copy_seen_colors(self, decoder: UVDecoder) -> None:
        """Let a decoder's maps begin as the mean avatar whose colours go half the way to those that are seen.

        Steps of Adam are small against the weight of 1 that copies: it would take thousands of them to grow.
        """
        nn.init.zeros_(self.gate.weight)
        if not decoder.out.weight.is_meta:
            decoder.out.weight[CHANNELS["color"], -_RGB:, 0, 0] = torch.eye(_RGB)

    def _fixed(self, mean: Tensor, mask: Tensor) -> Tensor:
        """What is known of every texel beforehand, `[1, 14 + 6 + 1, U, U]`: the mean avatar, standardised over the
        texels, the head at rest, and whether there is a texel at all."""
        covered = mask[..., None].to(mean.dtype)
        total = covered.sum()
        centred = (mean - (mean * covered).sum(dim=(0, 1)) / total) * covered
        standard = centred / (centred.square().sum(dim=(0, 1)) / total).sqrt().clamp_min(1e-3)
        return torch.cat([standard.permute(2, 0, 1), self.rest, covered.permute(2, 0, 1)])[None]

    def _seen_colors(self, x: Tensor, colors: Tensor, visible: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        """How seen colours differ from the mean avatar's, times visibility, in units of the network's output, as far as
        the network lets them through: `[B, 3, U, U]`."""
        color = CHANNELS["color"]
        own = colors / (2 * SH_C0) - visible * mean[..., color].permute(2, 0, 1)  # colours are in -1..1 here
        return (torch.sigmoid(self.gate(x)) * as_autocast(own / scale[color][:, None, None])).to(x.dtype)


class SeenTexels(NamedTuple):
    """The views of M photographs on the UV square."""

    places: Tensor
    """`[M, S, S, 2]`, see `SurfaceViews`; outside the picture where there is no texel."""
    visible: Tensor
    """`[M, 1, S, S]`."""
    view: Tensor
    """`[M, 5, S, S]` visibility, cosine, normal."""

    @classmethod
    def of(cls, views: SurfaceViews, mask: Tensor) -> SeenTexels:
        """Of K photographs of each of B people, `M = B * K`."""
        places, visible, facing, normals = (part.flatten(0, 1) for part in views)
        view = on_texels(torch.cat([visible[..., None], facing[..., None], normals], dim=-1), mask)
        places = on_texels(places, mask) + 3 * ~mask[..., None]
        return cls(places, view[..., :1].movedim(-1, 1), view.movedim(-1, 1))

    def half(self) -> SeenTexels:
        """Every other texel."""
        return SeenTexels(self.places[:, ::2, ::2], self.visible[..., ::2, ::2], self.view[..., ::2, ::2])


def on_texels(values: Tensor, mask: Tensor) -> Tensor:
    """Values of N covered texels on the UV square, zero elsewhere: `[..., N, C]` and `[S, S]` -> `[..., S, S, C]`."""
    slots = (mask.flatten().cumsum(0) - 1).clamp_min(0)  # not a list of covered texels, which a GPU would be asked for
    return values.index_select(-2, slots).unflatten(-2, mask.shape) * mask[..., None]


class Sampler(nn.Module):
    """Samples photographs and features of them on the head.

    Args:
        channels: of the backbone's scales, finest first.
        sampled: channels that are sampled of each.
    """

    def __init__(self, channels: tuple[int, ...], sampled: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(width, sampled, 1) for width in channels)
        deeper = max(1, len(channels) - 1)
        self.fine_channels = _RGB + sampled + _VIEW
        self.coarse_channels = deeper * sampled + _VIEW + -_VIEW % 8

    def forward(self, pictures: Tensor, scales: list[Tensor], seen: SeenTexels) -> tuple[Tensor, Tensor]:
        """Samples of every texel, `[M, fine_channels, S, S]`, and of every other one, `[M, coarse_channels, S/2, S/2]`.

        The first have the pixels, as RGB in -1..1, and features of the finest scale, the others those of the others.
        Both end with visibility, cosine and normal.

        Args:
            pictures: `[M, 3, I, I]` in 0..1.
            scales: features of them, finest first.
            seen: where the texels are.
        """
        half = seen.half()
        finest, *others = [project(features) for project, features in zip(self.project, scales, strict=True)]
        pixels = _sampled(pictures * 2 - 1, seen.places)
        fine = torch.cat([pixels, _sampled(finest, seen.places), seen.view], dim=1)
        parts = [_sampled(features, half.places) for features in (others or [finest])]
        none = half.view.new_zeros(()).expand(len(half.view), -_VIEW % 8, *half.view.shape[2:])
        return fine, torch.cat([*parts, half.view, none], dim=1)


def _sampled(features: Tensor, places: Tensor) -> Tensor:
    """Bilinear samples `[M, C, S, S]` of maps at places; float32, as places must be."""
    return F.grid_sample(features.float(), places, align_corners=False)


class Fusion(nn.Module):
    """Fuses what several photographs show of each texel: a mean, with weights that are learned."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.value = nn.Conv2d(channels, width, 1)
        self.score = nn.Conv2d(width, 1, 1)

    def forward(self, samples: Tensor, visible: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """What each of B people is seen to be, the photographs' weights, and whether any shows it.

        Args:
            samples: `[B * K, C, S, S]`.
            visible: `[B * K, 1, S, S]`.
            count: K.

        Returns:
            `[B, width, S, S]`; weights `[B * K, 1, S, S]`, which sum to 1 over photographs, times visibility; and their
            sum, `[B, 1, S, S]` in 0..1.
        """
        value = F.silu(self.value(_laid_out(samples)))
        score = self.score(value).float() + (visible + _UNSEEN).log()
        weights = score.unflatten(0, (-1, count)).softmax(dim=1).flatten(0, 1) * visible
        fused = (value * weights.to(value.dtype)).unflatten(0, (-1, count)).sum(dim=1)
        return fused, weights, weights.unflatten(0, (-1, count)).sum(dim=1)


class Code(nn.Module):
    """A code of the whole photographs, of their deepest features."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(2 * channels, width)
        self.score = nn.Linear(width, 1)
        self.out = nn.Linear(width, width)

    def forward(self, features: Tensor, count: int) -> Tensor:
        """`[B * K, C, h, w]` -> `[B, width]`, K = `count`."""
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        each = F.silu(self.enter(pooled)).unflatten(0, (-1, count))
        weights = self.score(each).float().softmax(dim=1).to(each.dtype)
        return F.silu(self.out((weights * each).sum(dim=1)))


class SurfaceUNet(nn.Module):
    """A U-Net on the UV square, all of whose blocks are modulated by one code."""

    def __init__(self, config: SurfaceNetwork, coarse_channels: int) -> None:
        super().__init__()
        surface = config.surface
        steps = list(itertools.pairwise(surface.widths))
        levels = range(len(steps))
        self.down = nn.ModuleList(nn.Conv2d(fine, deep, 3, stride=2, padding=1) for fine, deep in steps)
        self.join = nn.Conv2d(surface.widths[1] + coarse_channels, surface.widths[1], 1)
        # The first level is the largest: all of its blocks are on the way up, but one.
        self.downward = nn.ModuleList(
            _blocks(surface.widths[level], surface.blocks if level else 1) for level in levels
        )
        self.deepest = _blocks(surface.widths[-1], surface.blocks)
        self.attention = nn.ModuleList(
            AttentionBlock(surface.widths[-1], surface.heads) for _ in range(surface.attention_blocks)
        )
        self.merge = nn.ModuleList(nn.Conv2d(deep + fine, fine, 1) for fine, deep in reversed(steps))
        self.upward = nn.ModuleList(_blocks(fine, surface.blocks) for fine, _ in reversed(steps))
        # In the order in which they are made, which is the order in which they follow each other.
        self.modulated = [block.width for block in self.modules() if isinstance(block, Block)]
        self.modulate = nn.Linear(surface.code, 2 * sum(self.modulated))

    def damp(self) -> None:
        """Scale what each block adds at initialisation, so that depth does not add up."""
        blocks = [module for module in self.modules() if isinstance(module, Block | AttentionBlock)]
        for block in blocks:
            block.damp(0.5 / math.sqrt(len(blocks)))
        with torch.no_grad():
            self.modulate.weight.mul_(0.1)

    def forward(self, x: Tensor, coarse: Tensor, code: Tensor) -> Tensor:
        """`[B, widths[0], U, U]`, further features at half the size, and codes `[B, code]`, -> as the first."""
        parts = self.modulate(code).split([2 * width for width in self.modulated], dim=1)
        modulations = iter([part[..., None, None].chunk(2, dim=1) for part in parts])
        finer = []
        for level, (blocks, down) in enumerate(zip(self.downward, self.down, strict=True)):
            if level == 1:
                x = self.join(torch.cat([x, coarse], dim=1))
            x = _through(blocks, x, modulations)
            finer.append(x)
            x = down(x)
        if len(self.down) == 1:
            x = self.join(torch.cat([x, coarse], dim=1))
        x = _through(self.deepest, x, modulations)
        tokens = x.permute(0, 2, 3, 1)
        for block in self.attention:
            tokens = block(tokens)
        x = as_autocast(tokens).permute(0, 3, 1, 2)
        for merge, blocks, fine in zip(self.merge, self.upward, reversed(finer), strict=True):
            x = merge(torch.cat([F.interpolate(x, size=fine.shape[2:]), fine], dim=1))
            x = _through(blocks, x, modulations)
        return normalised(x)


class Block(nn.Module):
    """Normalisation, which a code scales and shifts, two 3x3 convolutions, and a shortcut.

    The code's shift is the only bias: those of convolutions, and sums of their gradients, take a tenth of a step.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def damp(self, gain: float) -> None:
        """See `SurfaceUNet.damp`."""
        with torch.no_grad():
            self.conv2.weight.mul_(gain)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """`[B, width, H, W]` and modulations `[B, width, 1, 1]` -> as the first."""
        branch = F.silu(torch.addcmul(shift, normalised(x), 1 + scale))
        return x + self.conv2(F.silu(self.conv1(branch)))


def _blocks(width: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(Block(width) for _ in range(count))


def _through(blocks: nn.Module, x: Tensor, modulations: object) -> Tensor:
    for block in blocks:  # type: ignore[attr-defined]
        x = block(x, *next(modulations))  # type: ignore[call-overload]
    return x


def normalised(x: Tensor) -> Tensor:
    """Each texel of `[B, C, H, W]` with mean 0 and variance 1 over its channels (LayerNorm, Ba et al. 2016), in the
    precision of `x`, where autocast would make it float32."""
    own = torch.autocast("cuda", enabled=False) if is_half_on_cuda(x) else contextlib.nullcontext()
    with own:
        return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2)


def _laid_out(x: Tensor) -> Tensor:
    """In reduced precision on CUDA: as a convolution there wants it, channels_last and cast once."""
    x = as_autocast(x)
    return x.contiguous(memory_format=torch.channels_last) if is_half_on_cuda(x) else x


def rest_on_texels(points: Tensor, normals: Tensor, mask: Tensor) -> Tensor:
    """What is known of each texel of the head at rest, as the network reads it.

    Args:
        points: `[N, 3]` of the texels.
        normals: `[N, 3]`, unit vectors.
        mask: covered texels, bool `[U, U]`.

    Returns:
        `[6, U, U]`: points, with mean 0 and variance 1 over all coordinates, and normals.
    """
    centred = points - points.mean(dim=0)
    return on_texels(torch.cat([centred / centred.std().clamp_min(1e-6), normals], dim=-1), mask).permute(2, 0, 1)

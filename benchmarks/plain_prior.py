"""Fine-tuning the prior in plain torch, one source per step: what training and personalisation are measured against.

It does what OSGAP's fine-tuning does in a step, in the manner of its trainer: the whole encoder in float32 with
attention matrices that are materialised, one source photograph, two target images of one timestep, each rasterised in
a call of its own with 34 channels (3 colours and 31 features that no loss looks at), SSIM as five convolutions, LPIPS
with VGG-16, Adam neither fused nor grouped over the encoder and every FLAME parameter of every person, the loss read
back after every step, and garbage collected and the allocator's cache emptied after it (`flush`).

Its slowest part besides is left out: frames lie on the device as floats, so that nothing is decoded or copied in a
step. So is its dropout. Where the published code contradicts itself, this does what it means: every image is rendered
from its own Gaussians, maps are compared over covered texels, and colours of maps are spherical-harmonics coefficients.

Nothing here is shared with `osgap.prior`; only the rasteriser is the same, on CUDA by gsplat's own `rasterization`
(which blends 32 channels at a time).
"""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's osgap, whatever is installed

from benchmarks import plain
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import TexelBinding
from osgap.splat.cameras import Cameras

LEARNING_RATE = 1e-5
WEIGHTS: Mapping[str, float] = {
    "l1": 0.8, "ssim": 0.2, "lpips": 0.4, "uv": 1.0, "alpha": 1.0, "position": 0.01, "scale": 1.0
}  # fmt: skip
"""Of the terms of the loss. `lpips` is left out where there is no network for it."""
POSITION_THRESHOLD, SCALE_THRESHOLD = 1.0, 0.6
HEAD = ((3, 3), (4, 2), (3, 3), (1, 2), (34, 2))
"""Of each of `_PARTS`: channels, and how many of the encoder's features make one."""
WIDTH = 64
"""Channels of the stem: 96 features come out."""
_PARTS = ("position", "rotation", "scale", "opacity", "features")
_SH_C0 = 0.28209479177387814
_START = 0.1  # how much of the last layer's random weights is left at the start
_MOTION = ("expr", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "translation")


@dataclass(frozen=True)
class Scene:
    """What one step sees: a source, and targets of the same person."""

    person: int
    source: Tensor
    """`[1, 3, I, I]` RGB in 0..1."""
    map: Tensor
    """`[U, U, 14]` the fitted one."""
    timesteps: list[int]
    """V, of the targets."""
    cameras: Cameras
    """V."""
    images: Tensor
    """`[V, H, W, 3]` RGB in 0..1, on white."""
    masks: Tensor
    """`[V, H, W]` in 0..1."""


class PlainPrior(nn.Module):
    """The encoder, and the motion of all people, as parameters.

    Args:
        encoder: its features have as many texels to a side as the maps.
        head: all people's.
        binding: of the maps' texels.
        people: their identity and motion.
    """

    def __init__(
        self, encoder: PlainEncoder, head: HeadModel, binding: TexelBinding, people: Sequence[FlameParams]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self._head, self._binding, self._still = head, binding, people
        self.motion = nn.ModuleList(
            nn.ParameterDict({name: nn.Parameter(getattr(params, name).detach().clone()) for name in _MOTION})
            for params in people
        )

    def forward(self, scene: Scene) -> dict[str, Tensor]:
        """Attributes of N Gaussians before activation (`position` `[N, 3]`, ..., `features` `[N, 34]`), and `images`
        `[V, H, W, 3]` and `alphas` `[V, H, W]`."""
        square = head_channels(self.encoder(scene.source))[0]  # [45, U, U]
        rows, columns = self._binding.texels.unbind(dim=1)
        texels = square[:, rows, columns].T
        sizes = [channels for channels, _ in HEAD]
        parts = dict(zip(_PARTS, texels.split(sizes, dim=1), strict=True))
        posed: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        images, alphas = [], []
        for view, timestep in enumerate(scene.timesteps):
            if timestep not in posed:
                posed[timestep] = self._frames(scene.person, timestep)
            values, alpha = rasterize(*_to_world(parts, *posed[timestep]), scene.cameras[view : view + 1])
            images.append(values[..., :3])
            alphas.append(alpha)
        return {**parts, "images": torch.stack(images), "alphas": torch.stack(alphas)}

    def _frames(self, person: int, timestep: int) -> tuple[Tensor, Tensor, Tensor]:
        """Axes, size and centre of the triangle of each Gaussian."""
        motions = self.motion[person]
        assert isinstance(motions, nn.ParameterDict)
        motion = {name: values[timestep] for name, values in motions.items()}
        still = self._still[person]
        vertices = plain.posed_vertices(self._head, still.shape, still.static_offset, motion)
        axes, size, center = plain.face_frames(vertices, self._head.faces)
        faces = self._binding.faces
        return axes[faces], size[faces], center[faces]


def head_channels(features: Tensor) -> Tensor:
    """45 channels of 96 features `[B, 96, U, U]`: means of neighbours."""
    parts, first = [], 0
    for channels, group in HEAD:
        part = features[:, first : first + channels * group]
        parts.append(part.unflatten(1, (channels, group)).mean(dim=2))
        first += channels * group
    return torch.cat(parts, dim=1)


def _to_world(
    parts: Mapping[str, Tensor], axes: Tensor, size: Tensor, center: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Means, rotations, scales, opacities and 34 channels."""
    means = (axes @ parts["position"][..., None])[..., 0] * size + center
    local = functional.normalize(parts["rotation"], dim=-1)
    rotations = plain.multiply_quaternions(plain.unit_quaternions(axes), local)
    scales = torch.exp(parts["scale"]) * size
    colors = torch.clamp_min(parts["features"][:, :3], 0.0)
    channels = torch.cat((colors, parts["features"][:, 3:]), dim=1)
    return means, rotations, scales, torch.sigmoid(parts["opacity"])[:, 0], channels


def rasterize(
    means: Tensor, rotations: Tensor, scales: Tensor, opacities: Tensor, channels: Tensor, camera: Cameras
) -> tuple[Tensor, Tensor]:
    """One image of all channels `[H, W, K]`, the first three over white, and its alpha `[H, W]`."""
    if means.is_cuda:
        from osgap.splat.backends import gsplat_backend

        background = functional.pad(means.new_ones(1, 3), (0, channels.shape[1] - 3))
        images, alphas, _ = gsplat_backend.load().rasterization(
            means,
            rotations,
            scales,
            opacities,
            channels,
            camera.world_to_camera,
            camera.intrinsics,
            camera.width,
            camera.height,
            packed=False,
            absgrad=False,
            backgrounds=background,
        )
        return images[0], alphas[0, ..., 0]
    from osgap.splat.gaussians import Gaussians
    from osgap.splat.render import render

    gaussians = Gaussians(means, rotations, scales, opacities, channels[:, :3], channels[:, 3:])
    drawn = render(gaussians, camera, background=means.new_ones(3), features=True)
    assert drawn.features is not None
    return torch.cat((drawn.rgb[0], drawn.features[0]), dim=-1), drawn.alpha[0]


# the step ---------------------------------------------------------------------------------------------------------


class PlainTraining:
    """The loop: one source per step.

    Args:
        prior: is trained.
        binding: of its texels.
        lpips: None leaves the term out.
    """

    def __init__(self, prior: PlainPrior, binding: TexelBinding, lpips: PlainLpips | None) -> None:
        self.prior, self._binding, self._lpips = prior, binding, lpips
        groups = [{"params": list(prior.encoder.parameters())}]
        groups += [{"params": [values]} for values in prior.motion.parameters()]
        self._adam = torch.optim.Adam(groups, lr=LEARNING_RATE, fused=False, foreach=False)

    def step(self, scene: Scene, flush: bool) -> float:
        """One step; returns the loss before it.

        Args:
            flush: collect garbage and empty the allocator's cache in the end.
        """
        loss, _ = self.loss(scene)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        self._adam.step()
        value = loss.item()
        if flush:
            torch.cuda.empty_cache()  # does nothing on the CPU
            gc.collect()
        return value

    def loss(self, scene: Scene) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and its terms."""
        drawn = self.prior(scene)
        images, targets = drawn["images"], scene.images
        similar = [plain.ssim(image, target) for image, target in zip(images, targets, strict=True)]
        coefficients = (drawn["features"][:, :3] - 0.5) / _SH_C0
        made = torch.cat((*(drawn[name] for name in ("position", "rotation", "scale", "opacity")), coefficients), dim=1)
        excess = functional.relu(torch.exp(drawn["scale"]) - SCALE_THRESHOLD)
        terms = {
            "l1": (images - targets).abs().mean(),
            "ssim": 1 - torch.stack(similar).mean(),
            "uv": (made - scene.map[self._binding.mask]).abs().mean(),
            "alpha": (drawn["alphas"] - scene.masks).abs().mean(),
            "position": functional.relu(drawn["position"].norm(dim=1) - POSITION_THRESHOLD).mean(),
            "scale": excess.norm(dim=1).mean(),
        }
        if self._lpips is not None:
            terms["lpips"] = self._lpips(images, targets)
        total = sum((WEIGHTS[name] * term for name, term in terms.items()), start=images.new_zeros(()))
        return total, terms


@contextmanager
def torch_defaults() -> Iterator[None]:
    """torch's own settings of arithmetic, whatever this process has set for its own: tf32 in convolutions only."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


# the encoder ------------------------------------------------------------------------------------------------------


class PlainEncoder(nn.Module):
    """The network of `osgap.prior.network.encoder`, whose weights it takes, layer by layer: `[B, 3, I, I]` to 96
    features `[B, 96, I/2, I/2]`.

    Args:
        tokens: channels of a token.
        blocks: residual blocks in the two stages of the trunk.
        attention_blocks: of the global branch.
        heads: of its attention.
        dilations: of the pyramid.
    """

    def __init__(
        self, tokens: int, blocks: tuple[int, int], attention_blocks: int, heads: int, dilations: Sequence[int]
    ) -> None:
        super().__init__()
        width, out = WIDTH, 3 * WIDTH // 2
        self.trunk = nn.ModuleDict({"stem": _conv(5, width, 7, 2), "stages": _stages(width, blocks)})
        self.context = _Pyramid(2 * width, 4 * width, dilations)
        self.global_branch = nn.ModuleDict(
            {
                "embed": _Patches(4 * width, tokens),
                "blocks": nn.Sequential(*(_Block(tokens, heads) for _ in range(attention_blocks))),
                "conv1": _conv(tokens // 4, 2 * width),
                "conv2": _conv(2 * width, 2 * width),
                "conv3": _conv(2 * width, out),
            }
        )
        self.detail_branch = nn.Sequential(
            _conv(5, width, 7, 2), nn.LeakyReLU(), *_convs(width, out), *_convs(out, out, out, out)
        )
        self.fusion = nn.ModuleDict(
            {
                "joint": nn.Sequential(*_convs(2 * out, 4 * width, 2 * width)),
                "embed": _Patches(2 * width, tokens),
                "block": _Block(tokens, heads // 2, reduction=2),
                "refine": nn.Sequential(*_convs(tokens // 4 + out, 4 * width, 2 * width, 2 * width)),
                "out": _conv(2 * width, out),
            }
        )

    def forward(self, image: Tensor) -> Tensor:
        batch, _, height, width = image.shape
        rows = torch.linspace(0, 1, height, device=image.device)[:, None].expand(batch, 1, height, width)
        columns = torch.linspace(0, 1, width, device=image.device).expand(batch, 1, height, width)
        image = torch.cat((image, rows, columns), dim=1)

        stem = functional.relu(self.trunk["stem"](image))
        coarse = self.context(self.trunk["stages"](functional.max_pool2d(stem, 3, stride=2, padding=1)))
        branch = self.global_branch
        tokens = functional.pixel_shuffle(branch["blocks"](branch["embed"](coarse)), 2)
        scene = functional.relu(branch["conv1"](_double(tokens)))
        scene = branch["conv3"](functional.relu(branch["conv2"](_double(scene))))

        fusion = self.fusion
        joint = fusion["joint"](torch.cat((self.detail_branch(image), scene), dim=1))
        tokens = functional.pixel_shuffle(fusion["block"](fusion["embed"](joint)), 2)
        return fusion["out"](fusion["refine"](torch.cat((tokens, scene), dim=1)))

    @torch.no_grad()
    def start_near(self, mean: Tensor) -> None:
        """Let the head say nearly the same of every texel, as a trained one would: something that can be rendered.

        Args:
            mean: `[14]` attributes before activation, colours as spherical-harmonics coefficients.
        """
        last = self.fusion["out"]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        values = torch.cat((mean[:11], 0.5 + _SH_C0 * mean[11:], mean.new_zeros(31)))
        groups = torch.tensor([group for channels, group in HEAD for _ in range(channels)], device=values.device)
        last.weight.mul_(_START)
        last.bias.copy_(values.repeat_interleave(groups))


class _Residual(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv(channels_in, channels_out, 3, stride)
        self.conv2 = _conv(channels_out, channels_out)
        self.shortcut = _conv(channels_in, channels_out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.shortcut(x) + self.conv2(functional.relu(self.conv1(x))))


class _Pyramid(nn.Module):
    def __init__(self, channels: int, out: int, dilations: Sequence[int]) -> None:
        super().__init__()
        dilated = (nn.Conv2d(channels, out, 3, padding=dilation, dilation=dilation) for dilation in dilations)
        self.branches = nn.ModuleList([_conv(channels, out, 1), *dilated])
        self.mean = _conv(channels, out, 1)
        self.project = _conv((len(dilations) + 2) * out, out, 1)
        self.refine = _conv(out, out)

    def forward(self, x: Tensor) -> Tensor:
        mean = functional.interpolate(
            functional.relu(self.mean(functional.adaptive_avg_pool2d(x, 1))), size=x.shape[2:], mode="bilinear"
        )
        parts = [*(functional.relu(branch(x)) for branch in self.branches), mean]
        return functional.relu(self.refine(functional.relu(self.project(torch.cat(parts, dim=1)))))


class _Patches(nn.Module):
    def __init__(self, channels: int, tokens: int) -> None:
        super().__init__()
        self.proj = _conv(channels, tokens, 7, 2)
        self.norm = nn.LayerNorm(tokens)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        return _unflat(self.norm(_flat(x)), x)


class _Block(nn.Module):
    """Attention and feed-forward, `[B, C, h, w]` to the same."""

    def __init__(self, tokens: int, heads: int, reduction: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(tokens)
        self.attention = _Attention(tokens, heads, reduction)
        self.norm2 = nn.LayerNorm(tokens)
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Linear(tokens, 2 * tokens),
                "depthwise": nn.Conv2d(2 * tokens, 2 * tokens, 3, padding=1, groups=2 * tokens),
                "fc2": nn.Linear(2 * tokens, tokens),
            }
        )

    def forward(self, image: Tensor) -> Tensor:
        x = _flat(image)
        x = x + self.attention(self.norm1(x), image)
        wide = self.mlp["fc1"](self.norm2(x))
        mixed = _flat(self.mlp["depthwise"](_unflat(wide, image)))
        return _unflat(x + self.mlp["fc2"](functional.gelu(mixed)), image)


class _Attention(nn.Module):
    """Attention whose matrix is materialised."""

    def __init__(self, tokens: int, heads: int, reduction: int) -> None:
        super().__init__()
        self._heads = heads
        self.q = nn.Linear(tokens, tokens, bias=False)
        self.kv = nn.Linear(tokens, 2 * tokens, bias=False)
        self.proj = nn.Linear(tokens, tokens)
        self.reduce = nn.Conv2d(tokens, tokens, reduction, stride=reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(tokens) if reduction > 1 else None

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Tokens `[B, h w, C]` of the image `[B, C, h, w]`."""
        batch, count, tokens = x.shape
        seen = x
        if self.reduce is not None and self.norm is not None:
            seen = self.norm(_flat(self.reduce(_unflat(x, image))))
        query = self.q(x).view(batch, count, self._heads, -1).transpose(1, 2)
        key, value = self.kv(seen).view(batch, seen.shape[1], 2, self._heads, -1).permute(2, 0, 3, 1, 4)
        matrix = (query @ key.transpose(-2, -1)) * (tokens // self._heads) ** -0.5
        mixed = matrix.softmax(dim=-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, tokens))


def _conv(channels_in: int, channels_out: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, size, stride=stride, padding=size // 2)


def _convs(*channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for channels_in, channels_out in itertools.pairwise(channels):
        layers += [_conv(channels_in, channels_out), nn.LeakyReLU()]
    return layers


def _stages(width: int, blocks: tuple[int, int]) -> nn.Sequential:
    first = [_Residual(width, width) for _ in range(blocks[0])]
    second = [_Residual(2 * width, 2 * width) for _ in range(blocks[1] - 1)]
    return nn.Sequential(*first, _Residual(width, 2 * width, 2), *second)


def _flat(image: Tensor) -> Tensor:
    """`[B, C, h, w]` to `[B, h w, C]`."""
    return image.flatten(2).transpose(1, 2)


def _unflat(tokens: Tensor, like: Tensor) -> Tensor:
    """`[B, h w, C]` to `[B, C, h, w]`, h and w as of `like`."""
    return tokens.transpose(1, 2).unflatten(2, like.shape[2:])


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


# LPIPS ------------------------------------------------------------------------------------------------------------

_VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class PlainLpips(nn.Module):
    """LPIPS (Zhang et al. 2018) on VGG-16, with heads that weigh all channels alike: they cost the same.

    Args:
        state: torchvision's VGG-16, `features.N.weight` and `features.N.bias`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, state: Mapping[str, Any]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for block, names in zip(_vgg_layers(), _vgg_names(), strict=True):
            for layer, name in zip(block, names, strict=True):
                layer.load_state_dict({part: state[f"{name}.{part}"] for part in ("weight", "bias")})
            self.blocks.append(block)
        self.requires_grad_(False)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """The mean distance of images `[V, H, W, 3]` in 0..1."""
        first, second = self._features(images), self._features(targets)
        return torch.stack([(a - b).square().mean(dim=1).mean() for a, b in zip(first, second, strict=True)]).sum()

    def _features(self, images: Tensor) -> list[Tensor]:
        x = (2 * images.permute(0, 3, 1, 2) - 1 - self.shift) / self.scale
        kept = []
        for index, block in enumerate(self.blocks):
            x = functional.max_pool2d(x, 2) if index else x
            for layer in block:  # type: ignore[attr-defined]
                x = functional.relu(layer(x))
            kept.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return kept


def _vgg_layers() -> list[nn.ModuleList]:
    blocks, channels = [], 3
    for widths in _VGG:
        block = nn.ModuleList()
        for width in widths:
            block.append(_conv(channels, width))
            channels = width
        blocks.append(block)
    return blocks


def _vgg_names() -> list[list[str]]:
    """torchvision numbers convolutions, activations and poolings alike."""
    names, number = [], 0
    for widths in _VGG:
        names.append([f"features.{number + 2 * index}" for index in range(len(widths))])
        number += 2 * len(widths) + 1
    return names


def random_vgg(seed: int) -> dict[str, Tensor]:
    """A state for `PlainLpips` without a file: random weights that keep the variance (He et al. 2015)."""
    state = {}
    random = torch.Generator().manual_seed(seed)
    for block, names in zip(_vgg_layers(), _vgg_names(), strict=True):
        for layer, name in zip(block, names, strict=True):
            assert isinstance(layer, nn.Conv2d)
            spread = (2 / (layer.in_channels * 9)) ** 0.5
            state[f"{name}.weight"] = spread * torch.randn(layer.weight.shape, generator=random)
            state[f"{name}.bias"] = torch.zeros(layer.out_channels)
    return state

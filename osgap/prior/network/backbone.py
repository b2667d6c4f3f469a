"""Image features from the encoders of `segmentation_models_pytorch` and timm, under one interface.

Normalisation. An avatar's prior is trained with few photographs per step and device, and only the parameters are
averaged over the steps, not the buffers. So nothing here depends on the other photographs of a batch, and nothing but
parameters ever changes: training, inference and averaged weights agree.

- With pretrained weights, BatchNorm keeps the mean and variance that came with them, in training too, and only its
  scale and shift learn, as is usual in detection (He et al., "Mask R-CNN", ICCV 2017).
- With random weights there are no such statistics, and GroupNorm takes BatchNorm's place (Wu and He, "Group
  normalization", ECCV 2018; it trains from nothing: He et al., "Rethinking ImageNet pre-training", ICCV 2019).
- Dropout and stochastic depth are off.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from osgap.prior.network.attention import is_half_on_cuda
from osgap.prior.network.resnet import RESNETS, ResNet
from osgap.prior.network_config import BackboneConfig
from osgap.runtime.errors import UserError

TIMM = "tu-"
"""What the names of timm's models begin with, as in `segmentation_models_pytorch`."""

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CENTRED = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DPN = (tuple(value / 255 for value in (124, 117, 104)), (1 / (0.0167 * 255),) * 3)
_COLORS = {"inception": _CENTRED, "xception": _CENTRED, "timm-tf_efficientnet_lite": _CENTRED, "dpn": _DPN}
"""Mean and standard deviation of an image's channels for those who were not trained with ImageNet's, by what their
names begin with. `segmentation_models_pytorch` would download them."""

_PLAIN_TRANSFORMERS = ("vision_transformer", "deit", "eva")  # timm's modules: all blocks at one resolution
_TAKEN = 4  # maps of a plain transformer, evenly over its blocks, as in DPT (Ranftl et al., ICCV 2021)
_UNUSED = {"_conv_head": "_bn1", "conv_head": "bn2"}
"""A convolution and a normalisation of EfficientNets that no map depends on: parameters without a gradient stop
processes that train together."""
_IMAGE = 3  # channels
_GROUPS = 32
_CLOSE = 3  # similar names in a message


class Backbone(nn.Module):
    """A photograph to feature maps. Its weights are random until `backbone_weights.load_weights` has read some.

    A ViT takes images of any size, resampled to the nearest multiple of its patch: of 512 pixels, patches of 14 make
    37 x 37 tokens (518 pixels). Its maps are the tokens after four of its blocks, each through the last normalisation,
    all of one size. Positions are resampled to the number of tokens.

    Nothing is downloaded. Under `torch.device("meta")` no weights are drawn, except of networks with constants that are
    in no file: those are made on the CPU.

    Args:
        config: which encoder. Whether it names weights decides the normalisation layers; see this module.

    Raises:
        UserError: there is no such encoder, or it gives no feature maps.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.network = _constructed(config.name)
        maps = _maps(self.network)
        self.channels: tuple[int, ...] = tuple(channels for _, channels, _ in maps)
        """Of each feature map, finest first."""
        self.strides: tuple[int, ...] = tuple(stride for _, _, stride in maps)
        """Pixels of the image for one of each feature map, in each direction; a ViT's are its patch's."""
        self._indices = [index for index, _, _ in maps]
        mean, std = _colors(config.name, self.network)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        if not config.pretrained:
            _normalise_groups(self.network)
        self.network.eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps `[B, C_i, I / s_i, I / s_i]`, finest first.

        Args:
            images: `[B, 3, I, I]`, RGB in 0..1 on white; `I` a multiple of 32 (of 16: the coarsest map is rounded up;
                anything: ViTs, whose maps have the nearest number of patches to a side).
        """
        x = (images - self.mean) / self.std
        if not _is_plain_transformer(self.network):
            try:
                maps = self.network(x)
            except AssertionError as error:  # Swin and others are made for one size
                size = " x ".join(map(str, x.shape[-2:]))
                raise UserError(
                    f"{self.config.name}: does not take images of {size} pixels ({error}); take another encoder, such "
                    f"as resnet34"
                ) from error
            return [maps[index] for index in self._indices]
        sides = [max(1, math.floor(side / self.strides[0] + 0.5)) * self.strides[0] for side in x.shape[-2:]]
        if sides != list(x.shape[-2:]):
            x = F.interpolate(x, sides, mode="bicubic", antialias=True)
        # All maps through the last normalisation: what a block leaves has no certain size.
        return self.network.forward_intermediates(  # type: ignore[operator]
            x, indices=self._indices, norm=True, intermediates_only=True
        )

    def train(self, mode: bool = True) -> Self:
        """Set the mode of this module, whose network computes the same in both."""
        super().train(mode)
        self.network.eval()
        return self


def _constructed(name: str) -> nn.Module:
    """The network with random weights, on the default device, which may be `meta`.

    Raises:
        UserError: see `Backbone`.
    """
    if name in RESNETS:
        return ResNet(name)
    if torch.get_default_device().type != "meta":
        return _from_library(name)
    network = None
    with contextlib.suppress(UserError), _RealNumbers():
        network = _from_library(name)
    # Constants that are in no file have to be computed.
    if network is not None and network.state_dict().keys() >= {name for name, _ in network.named_buffers()}:
        return network
    with torch.device("cpu"):
        return _from_library(name)


class _RealNumbers(TorchFunctionMode):
    """Let `torch.linspace` make numbers on the meta device too: MiT reads them while it is constructed."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}) | ({"device": "cpu"} if func is torch.linspace else {}))


def _from_library(name: str) -> nn.Module:
    import timm  # seconds, which only those who need it pay
    from segmentation_models_pytorch import encoders

    model = name.removeprefix(TIMM)
    if name not in encoders.encoders and not (name.startswith(TIMM) and timm.is_model(model)):
        known = [*encoders.encoders, *(TIMM + model for model in timm.list_models())]
        close = difflib.get_close_matches(name, known, n=_CLOSE)
        advice = f"did you mean {' or '.join(close)}?" if close else "such as resnet34 and tu-vit_small_patch14_dinov2"
        raise UserError(
            f"{name}: no encoder of segmentation_models_pytorch has this name, nor has a model of timm the name after "
            f"{TIMM}; {advice}"
        )
    try:
        if name.startswith(TIMM) and timm.models.is_model_in_modules(model.split(".")[0], _PLAIN_TRANSFORMERS):
            transformer: Any = timm.create_model(model, pretrained=False, num_classes=0, dynamic_img_size=True)
            transformer.prune_intermediate_layers(_indices(len(transformer.blocks)), prune_norm=False, prune_head=True)
            return transformer
        network = encoders.get_encoder(name, weights=None)
    except (ValueError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        raise UserError(f"{name}: gives no feature maps ({error}); take another encoder, such as resnet34") from error
    for convolution, norm in _UNUSED.items():
        if hasattr(network, convolution):
            delattr(network, convolution)
            delattr(network, norm)
    return network


def _indices(blocks: int) -> list[int]:
    """Of the blocks that a plain transformer's maps are taken after."""
    return [blocks * (index + 1) // _TAKEN - 1 for index in range(_TAKEN)]


def _is_plain_transformer(network: nn.Module) -> bool:
    return hasattr(network, "forward_intermediates") and hasattr(network, "patch_embed")


def _maps(network: Any) -> list[tuple[int, int, int]]:
    """Of each map that has features: which of the network's outputs (or blocks) it is, its channels, its stride."""
    if _is_plain_transformer(network):
        info = network.feature_info
        return [(index, info[index]["num_chs"], info[index]["reduction"]) for index in _indices(len(network.blocks))]
    if isinstance(network, ResNet):
        return [(index, channels, 2 ** (index + 1)) for index, channels in enumerate(network.channels)]
    # The image itself comes first, unless there are features of its size; what the network lacks has no channels.
    listed = enumerate(network.out_channels)
    return [(index, channels, 2**index) for index, channels in listed if channels not in (0, _IMAGE)]


def _colors(name: str, network: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the images that the encoder's weights were trained with, of each channel."""
    cfg = getattr(network if _is_plain_transformer(network) else getattr(network, "model", None), "pretrained_cfg", {})
    if cfg.get("mean") and cfg.get("std"):
        return cfg["mean"], cfg["std"]
    return next((colors for start, colors in _COLORS.items() if name.startswith(start)), _IMAGENET)


class _GroupNorm(nn.GroupNorm):
    """In place of a BatchNorm, with its parameters and the activation that timm puts into it.

    In the type of what it reads: autocast alone would make float32 of all that follows.
    """

    def __init__(self, replaced: _BatchNorm) -> None:
        channels = replaced.num_features
        super().__init__(math.gcd(_GROUPS, channels), channels, replaced.eps, replaced.affine)
        self.weight, self.bias = replaced.weight, replaced.bias
        self.act = getattr(replaced, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        # Who answers once would wait longer for the compiled code than for torch's copies of the maps.
        fast = torch.is_grad_enabled() and is_half_on_cuda(x) and self.affine
        if fast and x.is_contiguous(memory_format=torch.channels_last):
            from osgap.prior.network import groups_triton  # compiled code: loaded by those who need it only

            y = groups_triton.group_norm(x.permute(0, 2, 3, 1), self.num_groups, self.weight, self.bias, self.eps)
            return self.act(y.permute(0, 3, 1, 2))
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = (None if value is None else value.to(x.dtype) for value in (self.weight, self.bias))
            return self.act(F.group_norm(x, self.num_groups, weight, bias, self.eps))


def _normalise_groups(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, _GroupNorm(child))

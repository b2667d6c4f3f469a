"""Published OSGAP checkpoints: the image encoder and the head that turns its features into maps.

Names in the file, after what wrappers and prefixes put around them, and ours:

==========================  ==================  =======================================================
Theirs                      Ours                Part
==========================  ==================  =======================================================
`encoder`                   `trunk`             ResNet-34 up to its second stage; the others never run
`decoder`                   `context`           DeepLabv3's pyramid and one convolution
`F_encoder`                 `global_branch`     attention over the whole image
`EHigh_encoder`             `detail_branch`     shallow features
`Final_encoder`             `fusion`            both joined
==========================  ==================  =======================================================

The head has no weights there: each attribute is the mean of neighbouring features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from osgap.prior.network.decoder import UVDecoder
from osgap.prior.network.encoder import COLOR_CHANNELS, ImageEncoder
from osgap.prior.network_config import EncoderConfig
from osgap.runtime.errors import UserError
from osgap.runtime.weights import WeightFile, read_weights, some, tensors_by_name
from osgap.splat.attributes import CHANNELS, N_CHANNELS, SH_C0

PUBLISHED = EncoderConfig()
"""The published encoder."""

FEATURE_GROUPS: Mapping[str, tuple[int, int]] = {
    "position": (0, 3),
    "rotation": (9, 2),
    "scale": (17, 3),
    "opacity": (26, 2),
    "color": (28, 2),
}
"""Of each attribute: its first feature, and of how many features each of its channels is the mean."""

_FEATURES = 96
_FURTHER = (34, 2)
"""As in `FEATURE_GROUPS`, of the channels that are rendered beside the colours."""
_PREFIXES = ("module.", "model.", "Encoder.")
_IGNORED = ("flame_model.", "cnn", "mlp", "backbone", "encoder.layer3.", "encoder.layer4.")
_READS_COORDINATES = ("trunk.stem.weight", "detail_branch.0.weight")

_BLOCK = {
    "norm1": "norm1",
    "attention.q": "attn.q",
    "attention.kv": "attn.kv",
    "attention.proj": "attn.proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.depthwise": "mlp.dwconv.dwconv",
    "mlp.fc2": "mlp.fc2",
}


def layer_names(config: EncoderConfig) -> dict[str, str]:
    """The name of each layer in a published file, by its name in `ImageEncoder`; both without `.weight` and `.bias`."""
    names = {"trunk.stem": "encoder.conv1"}
    first, second = config.residual_blocks
    for index in range(first + second):
        stage, block = (1, index) if index < first else (2, index - first)
        for layer in ("conv1", "conv2"):
            names[f"trunk.stages.{index}.{layer}"] = f"encoder.layer{stage}.{block}.{layer}"
    names[f"trunk.stages.{first}.shortcut"] = "encoder.layer2.0.downsample.0"

    # In the pyramid, each convolution is first of its branch, but after a pooling in the last one.
    for index in range(1 + len(config.dilations)):
        names[f"context.branches.{index}"] = f"decoder.0.convs.{index}.0"
    names["context.mean"] = f"decoder.0.convs.{1 + len(config.dilations)}.1"
    names |= {"context.project": "decoder.0.project.0", "context.refine": "decoder.1"}

    names |= {f"global_branch.embed.{layer}": f"F_encoder.patchembed.{layer}" for layer in ("proj", "norm")}
    for index in range(config.attention_blocks):
        names |= {f"global_branch.blocks.{index}.{own}": f"F_encoder.blocks.{index}.{t}" for own, t in _BLOCK.items()}
    # Numbers count activations and resampling too.
    names |= {f"global_branch.conv{own}": f"F_encoder.net.{theirs}" for own, theirs in ((1, 0), (2, 3), (3, 5))}

    names |= {f"detail_branch.{index}": f"EHigh_encoder.net.{index}" for index in (0, 2, 4, 6, 8)}

    names |= {f"fusion.joint.{index}": f"Final_encoder.net.{index}" for index in (0, 2)}
    names |= {f"fusion.embed.{layer}": f"Final_encoder.pathembed.{layer}" for layer in ("proj", "norm")}
    names |= {f"fusion.block.{own}": f"Final_encoder.block.{theirs}" for own, theirs in _BLOCK.items()}
    names |= {"fusion.block.attention.reduce": "Final_encoder.block.attn.sr"}
    names |= {"fusion.block.attention.norm": "Final_encoder.block.attn.norm"}
    names |= {f"fusion.refine.{index}": f"Final_encoder.output_net.{index}" for index in (0, 2, 4)}
    names["fusion.out"] = "Final_encoder.output_net.6"
    return names


def read_published(file: WeightFile, key: str, config: EncoderConfig = PUBLISHED) -> dict[str, Tensor]:
    """The encoder's weights of a published checkpoint, under the names of `ImageEncoder`'s `state_dict`.

    Any of the spellings that are in use is read: with or without `module.` and `Encoder.`, the pyramid as
    `decoder.{0,1}` or `decoder.{aspp,conv}`, with or without the unused third and fourth stage of the trunk, and
    wrapped in a dict of further training state. FLAME's buffers and other networks in the file are passed over.

    The published network reads pixel indices in its two coordinate channels, ours numbers from 0 to 1: the weights of
    these channels are multiplied by the largest index.

    Args:
        file: the checkpoint and its checksum.
        key: where the config names it, for messages.
        config: of the encoder that the weights are for. Default is the published one.

    Raises:
        UserError: when the file is missing, has another checksum or is no checkpoint; when it lacks tensors of the
            encoder, or they have other shapes.
    """
    size = (config.input_size, config.input_size)
    return encoder_weights(read_weights(file, key), f"{key}: {file.path}", config, size)


def encoder_weights(content: Any, where: str, config: EncoderConfig, size: tuple[int, int]) -> dict[str, Tensor]:
    """`ImageEncoder`'s `state_dict` from the content of a checkpoint.

    Args:
        content: what the file holds.
        where: the file, for messages.
        config: the size of the network that the file holds.
        size: height and width of the images that the encoder will read, in pixels.

    Raises:
        UserError: see `read_published`.
    """
    state = tensors_by_name(content, where, "a published OSGAP checkpoint")
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        plain = _plain(name)
        if plain in found:
            raise UserError(f"{where}: holds {plain} twice, the second time as {name}; keep one network in the file.")
        if not plain.startswith(_IGNORED):
            found[plain] = value
    with torch.device("meta"):
        expected = {name: value.shape for name, value in ImageEncoder(config).state_dict().items()}
    layers = layer_names(config)
    theirs = {name: _join(layers, name) for name in expected}

    missing = [name for name in theirs.values() if name not in found]
    if missing:
        raise UserError(
            f"{where} is no published OSGAP checkpoint: it lacks {len(missing)} of the {len(theirs)} tensors of the "
            f"image encoder, such as {some(missing)}. {_found(state, found)} Use the file as its publisher "
            f"distributes it."
        )
    misshapen = [
        f"{theirs[name]} {tuple(found[theirs[name]].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if found[theirs[name]].shape != shape
    ]
    if misshapen:
        raise UserError(
            f"{where}: {len(misshapen)} tensors have other shapes than the published encoder: {some(misshapen)}. It "
            f"is of another network; use the file as its publisher distributes it."
        )
    weights = {name: found[theirs[name]].float() for name in expected}
    broken = [theirs[name] for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"{where}: holds numbers that are not finite, in {some(broken)}. Fetch the file again.")
    largest = torch.tensor([side - 1.0 for side in size])  # pixel index: row, column
    for name in _READS_COORDINATES:
        color, coordinates = weights[name].split((COLOR_CHANNELS, len(size)), dim=1)
        weights[name] = torch.cat((color, coordinates * largest[:, None, None]), dim=1)
    return weights


def published_decoder(mask: Tensor, residual_scale: Tensor, features: int = 0) -> UVDecoder:
    """The published network's way from 96 features to maps, exactly, as a `UVDecoder`.

    Its attributes are means of consecutive features (`FEATURE_GROUPS`). Those of colour are RGB, ours SH DC: hence
    divided by 0.282, with a bias. The mean avatar, which the published network does not have, is zero. Its 31 feature
    channels are means of the pairs that are left; further ones are random.

    Args:
        mask: covered texels, bool `[S, S]`.
        residual_scale: what one unit of the network's output means in each channel, `[14]`.
        features: feature channels beside the attributes. Default is none.
    """
    mean = torch.zeros(*mask.shape, N_CHANNELS)
    decoder = UVDecoder(_FEATURES, mean, residual_scale, mask, features)
    weight, bias = torch.zeros(N_CHANNELS, _FEATURES), torch.zeros(N_CHANNELS)
    for name, (first, width) in FEATURE_GROUPS.items():
        for index, channel in enumerate(range(N_CHANNELS)[CHANNELS[name]]):
            start = first + index * width
            weight[channel, start : start + width] = 1 / width
    color = CHANNELS["color"]
    weight[color] /= SH_C0
    bias[color] = -0.5 / SH_C0
    with torch.no_grad():
        decoder.out.weight.copy_((weight / residual_scale[:, None])[..., None, None])
        decoder.out.bias.copy_(bias / residual_scale)  # type: ignore[union-attr]
        if decoder.features is not None:
            first, width = _FURTHER
            for channel, start in zip(range(features), range(first, _FEATURES, width), strict=False):
                decoder.features.weight[channel] = 0
                decoder.features.weight[channel, start : start + width] = 1 / width
                decoder.features.bias[channel] = 0  # type: ignore[index]
    return decoder


def _plain(name: str) -> str:
    """A name without prefixes, in the spelling of `layer_names`."""
    while prefix := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return re.sub(r"^decoder\.conv\.", "decoder.1.", re.sub(r"^decoder\.aspp\.", "decoder.0.", name))


def _join(layers: Mapping[str, str], name: str) -> str:
    layer, _, parameter = name.rpartition(".")
    return f"{layers[layer]}.{parameter}"


def _found(state: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    if not found:
        return f"Found are only tensors of other parts ({some(state)})."
    return f"Found are {some(found)}."

"""Pretrained weights of a backbone, from the layouts in which they are distributed.

- torchvision's, timm's and `segmentation_models_pytorch`'s own names, which are those of the networks here but for what
  wrappers put before them (`module.`, `encoder.`, `model.`), flattened stages (`stages.0`, `stages_0`) and classifiers;
- SegFormer's MiT, whose names are `segmentation_models_pytorch`'s;
- DINOv2's (Oquab et al., "DINOv2: Learning robust visual features without supervision", TMLR 2024), with and without
  registers: see `_from_dinov2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from osgap.prior.network.backbone import TIMM, Backbone
from osgap.runtime.errors import UserError
from osgap.runtime.weights import WeightFile, read_weights, some, tensors_by_name

_CLASSIFIER = re.compile(
    r"(fc|head|heads|head_dist|classifier|last_linear|fc_norm|attn_pool|conv_head|bn2|_fc|_conv_head|_bn1)\."
)
"""Parts after the last feature map, whatever the network."""
_COUNTER = "num_batches_tracked"
"""A number of BatchNorm's that nothing reads; old files lack it."""
_POSITIONS = "pos_embed"


def load_weights(backbone: Backbone, file: WeightFile, key: str) -> None:
    """Put the weights of a file into a backbone.

    Classifiers in the file are passed over, and so is what lies beside the prefix under which the network is found. A
    ViT's positions are resampled to its grid.

    Args:
        backbone: constructed with a config that names weights.
        file: the file and its checksum.
        key: where the config names it, for messages.

    Raises:
        UserError: the file is missing, has another checksum, is no file of weights, or is of another network.
    """
    if not backbone.config.pretrained:
        raise ValueError("this backbone was made for random weights: it has no BatchNorm that statistics could go into")
    where = f"{key}: {file.path}"
    state = tensors_by_name(read_weights(file, key), where, "a file of pretrained weights")
    found = pretrained(state, backbone, where)
    broken = [name for name, value in found.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"{where}: holds numbers that are not finite, in {some(broken)}. Fetch the file again.")
    # Not the network's own method: some libraries' take other arguments.
    nn.Module.load_state_dict(backbone.network, backbone.network.state_dict() | found)


def pretrained(state: Mapping[str, Tensor], backbone: Backbone, where: str) -> dict[str, Tensor]:
    """The tensors of a file under the names of `backbone.network`, float32.

    Args:
        state: the file's tensors by name.
        where: the file, for messages.

    Raises:
        UserError: see `load_weights`.
    """
    own = backbone.network.state_dict()
    wrapped = "model." if all(name.startswith("model.") for name in own) else ""
    expected = {_canonical(name.removeprefix(wrapped)): (name, value) for name, value in own.items()}
    found = _unwrapped({_canonical(name): value for name, value in state.items()}, expected)
    if _POSITIONS in expected:
        found = _resampled(_from_dinov2(found), backbone.network, expected[_POSITIONS][1])
    _check(found, {name: value for name, (_, value) in expected.items()}, backbone.config.name, where)
    kept = {expected[name][0]: value for name, value in found.items() if name in expected}
    return {name: value.float() if value.is_floating_point() else value for name, value in kept.items()}


def _canonical(name: str) -> str:
    """Stages are numbered after a point or, where timm has flattened them, after an underscore."""
    return re.sub(r"_(\d+)(?=\.)", r".\1", name)


def _unwrapped(state: Mapping[str, Tensor], expected: Mapping[str, tuple[str, Tensor]]) -> dict[str, Tensor]:
    """What follows the prefix under which most of the expected names are found."""
    anchor = next(name for name, (_, value) in expected.items() if value.ndim == 4)
    prefixes = [name.removesuffix(anchor) for name in state if name.endswith(anchor)]
    prefix = max(["", *prefixes], key=lambda prefix: sum(prefix + name in state for name in expected))
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _from_dinov2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names for DINOv2's.

    What stood for masked patches in its training goes. With registers, timm gives no position to the class token, so
    it takes its own; `w12` and `w3` are the layers of a gated MLP.
    """
    if "mask_token" not in state:
        return state
    found = {
        re.sub(r"\.mlp\.w3\.", ".mlp.fc2.", re.sub(r"\.mlp\.w12\.", ".mlp.fc1.", name)): value
        for name, value in state.items()
        if name != "mask_token"
    }
    if "register_tokens" in found and _POSITIONS in found and "cls_token" in found:
        found["reg_token"] = found.pop("register_tokens")
        found["cls_token"] = found["cls_token"] + found[_POSITIONS][:, :1]
        found[_POSITIONS] = found[_POSITIONS][:, 1:]
    return found


def _resampled(state: dict[str, Tensor], network: Any, positions: Tensor) -> dict[str, Tensor]:
    """With positions for the network's grid of patches, where the file's are of another square grid."""
    theirs = state.get(_POSITIONS)
    if theirs is None or theirs.shape == positions.shape or theirs.shape[::2] != positions.shape[::2]:
        return state
    from timm.layers import resample_abs_pos_embed

    prefix = 0 if getattr(network, "no_embed_class", False) else network.num_prefix_tokens
    if round((theirs.shape[1] - prefix) ** 0.5) ** 2 != theirs.shape[1] - prefix:
        return state
    size = list(network.patch_embed.grid_size)
    return state | {_POSITIONS: resample_abs_pos_embed(theirs, size, num_prefix_tokens=prefix)}


def _check(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str, where: str) -> None:
    """Raise a `UserError` where tensors are missing, of other shapes, or of another network."""
    missing = [tensor for tensor in expected if tensor not in found and not tensor.endswith(_COUNTER)]
    misshapen = [
        f"{tensor} {tuple(found[tensor].shape)} instead of {tuple(value.shape)}"
        for tensor, value in expected.items()
        if tensor in found and found[tensor].shape != value.shape
    ]
    further = [tensor for tensor in found if tensor not in expected and not _CLASSIFIER.match(tensor)]
    if further:
        further = sorted(set(further) - _of_whole(name), key=further.index)
    faults = [
        (missing, f"lacks {len(missing)} of its {len(expected)} tensors ({some(missing)})"),
        (misshapen, f"has {len(misshapen)} of another shape ({some(misshapen)})"),
        (further, f"has {len(further)} that it does not have ({some(further)})"),
    ]
    told = [text for names, text in faults if names]
    if told:
        raise UserError(
            f"{where} is of another network than {name}: it {', and '.join(told)}. Name the encoder that these weights "
            f"are of, or the file of this one."
        )


def _of_whole(name: str) -> set[str]:
    """The names of all tensors of a model of timm, with what features do without."""
    if not name.startswith(TIMM):
        return set()
    import timm

    with torch.device("meta"):
        return _canonicals(timm.create_model(name.removeprefix(TIMM), pretrained=False).state_dict())


def _canonicals(names: Iterable[str]) -> set[str]:
    return {_canonical(name) for name in names}

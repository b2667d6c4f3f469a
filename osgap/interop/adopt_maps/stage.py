"""The stage `adopt-maps`: UV attribute maps that the reference code made, in place of baking them here.

Files are taken as they are where they can be: at the same UV size, and with colours that are SH DC coefficients
already, the attributes stay the same bit for bit (rotations become unit quaternions with w >= 0, unless they are that
already, as everywhere in this project).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from osgap.bake.stage import canonical
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.texels import TexelBinding, bind_texels
from osgap.interop.color import check_color_space, to_sh_dc
from osgap.interop.config import ColorSpace, InteropConfig
from osgap.interop.resample import resample_maps
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Provenance
from osgap.splat.attributes import CHANNELS, GaussianAttributes
from osgap.splat.uv_maps import load_uv_gt, save_uv_gt

_UNIT = 1e-6

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MapsInputs:
    """What adopting maps reads."""

    source: Path
    """The reference's `gs_attrs_uv_*.npz`, of any size."""
    head: HeadAssets
    """The head model that the maps were made on."""


@dataclass(frozen=True)
class MapsOutputs:
    """What adopting maps writes."""

    maps: Path
    """The `.npz` file, as `bake` writes it."""


def run(
    config: InteropConfig, inputs: MapsInputs, outputs: MapsOutputs, *, subject: str, seed: int, uv_size: int
) -> None:
    """Adopt one subject's attribute maps. Nothing is random: the seed is only recorded.

    Args:
        uv_size: of the result; maps of another size are resampled.

    Raises:
        UserError: when the file is none, does not fit the head's UV layout, or its colours look like another kind than
            `interop.color` says.
    """
    if not inputs.source.is_file():
        raise UserError(f"{inputs.source}: no such file; attribute maps are expected there. Correct interop.uv_gt.")
    maps = load_uv_gt(inputs.source)
    head = load_head(inputs.head)
    binding = bind_texels(head.uvs, head.uv_faces, maps.shape[0])
    check_layout(maps, binding, inputs.source, inputs.head.template)
    attributes = GaussianAttributes.from_uv(maps, binding)
    colors = attributes.color.numpy()
    # A provenance says that the file was written here, and so what its colours are.
    color: ColorSpace = "sh_dc" if read_provenance(inputs.source) is not None else config.color
    if color == config.color:
        check_color_space(colors, color, str(inputs.source))
    converted = with_channels(attributes, color=torch.from_numpy(to_sh_dc(colors, color)))
    resampled = resample_maps(converted.to_uv(binding), head, uv_size)
    target = bind_texels(head.uvs, head.uv_faces, uv_size)
    adopted = GaussianAttributes.from_uv(resampled, target)
    adopted = with_channels(adopted, rotation=canonical_rotations(adopted.rotation))
    provenance = Provenance.collect(
        "adopt-maps",
        __name__,
        subject=subject,
        config={"color": config.color, "uv_size": uv_size},
        inputs=[inputs.source, *inputs.head.files],
        seed=seed,
    )
    save_uv_gt(outputs.maps, adopted.to_uv(target), provenance.as_dict())
    logger.info("adopted the maps of %s: size %d, from %d", subject, uv_size, binding.size)


def check_layout(maps: Tensor, binding: TexelBinding, path: Path, template: Path) -> None:
    """Maps `[S, S, 14]` must be filled where the head's UV layout covers a texel, and zero elsewhere.

    Raises:
        UserError: when they are not; names how many texels differ.
    """
    filled = (maps != 0).any(dim=-1)
    outside, empty = int((filled & ~binding.mask).sum()), int((~filled & binding.mask).sum())
    if outside or empty:
        raise UserError(
            f"{path}: does not fit the UV layout of {template}: of {len(binding)} covered texels at size "
            f"{binding.size}, {empty} are empty, and {outside} are filled that are not covered. It was baked on "
            f"another template or UV layout: set flame.assets to that head model, or fit the subject here."
        )


def with_channels(attributes: GaussianAttributes, **parts: Tensor) -> GaussianAttributes:
    """The attributes with some of them, by name, replaced."""
    channels = attributes.channels.clone()
    for name, values in parts.items():
        channels[..., CHANNELS[name]] = values
    return GaussianAttributes(channels)


def canonical_rotations(rotation: Tensor) -> Tensor:
    """`osgap.bake.stage.canonical`, but what is canonical to single precision stays as it is, bit for bit."""
    kept = ((rotation.norm(dim=-1) - 1).abs() < _UNIT) & (rotation[..., 0] >= 0)
    return torch.where(kept[..., None], rotation, canonical(rotation))

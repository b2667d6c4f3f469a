"""Stage `bake`: an avatar to attribute maps in UV space, the training target of the prior."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from osgap.fit.summary import SUMMARY, read_uv_size
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.editions import check_head, recorded
from osgap.head.texels import TexelBinding, bind_texels
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Provenance
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.avatar import FLAME_PARAM, POINT_CLOUD, Avatar
from osgap.splat.uv_maps import COLOR_SPACE, save_uv_gt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BakeInputs:
    """What baking reads."""

    avatar: Path
    """Folder of a fitted avatar, with its `fit.json`, which says the size of the UV map."""
    head: HeadAssets
    """The head model that the avatar was fitted with."""


@dataclass(frozen=True)
class BakeOutputs:
    """What baking writes."""

    maps: Path
    """The `.npz` file."""


def run(inputs: BakeInputs, outputs: BakeOutputs, *, subject: str, seed: int) -> None:
    """Bake one avatar. There is nothing to configure, and nothing random: the seed is only recorded.

    Raises:
        UserError: when the avatar's Gaussians are not those of the UV map on this head, or the head is another edition.
    """
    head_files = inputs.head.files
    avatar_files = [inputs.avatar / name for name in (POINT_CLOUD, FLAME_PARAM, SUMMARY)]
    uv_size = read_uv_size(inputs.avatar / SUMMARY)
    avatar = Avatar.load(inputs.avatar)
    provenance = Provenance.collect(
        "bake",
        __name__,
        subject=subject,
        config={"color_space": COLOR_SPACE},
        inputs=[*avatar_files, *head_files],
        seed=seed,
    )
    head = load_head(inputs.head)
    check_head(head, recorded(read_provenance(inputs.avatar / FLAME_PARAM)), inputs.avatar / FLAME_PARAM)
    binding = bind_texels(head.uvs, head.uv_faces, uv_size)
    if not torch.equal(avatar.faces, binding.faces):
        raise UserError(
            f"{inputs.avatar}: its {len(avatar.faces)} Gaussians are not bound to the {len(binding)} texels of a UV "
            f"map of size {binding.size} on {inputs.head.template}. Bake with the head model that it was fitted with."
        )
    save_uv_gt(outputs.maps, bake(avatar.attributes, binding), provenance.as_dict())
    logger.info("baked %s: %d texels of %d x %d", subject, len(binding), binding.size, binding.size)


def bake(attributes: GaussianAttributes, binding: TexelBinding) -> Tensor:
    """Attribute maps `[S, S, 14]`, zero outside covered texels, with `canonical` rotations."""
    return GaussianAttributes.from_parts(
        position=attributes.position,
        rotation=canonical(attributes.rotation),
        scale=attributes.scale,
        opacity=attributes.opacity,
        color=attributes.color,
    ).to_uv(binding)


def canonical(rotation: Tensor) -> Tensor:
    """The unit quaternion with w >= 0 of the same rotation, `[..., 4]` wxyz.

    A quaternion, its negative and its multiples are one rotation; a network that regresses maps needs one of them.
    """
    unit = functional.normalize(rotation, dim=-1)
    return torch.where(unit[..., :1] < 0, -unit, unit)

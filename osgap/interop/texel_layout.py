"""Which UV map an avatar's Gaussians are the texels of; point clouds do not say."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from osgap.head.model import HeadModel
from osgap.head.texels import TexelBinding, bind_texels
from osgap.runtime.errors import UserError

USUAL_SIZES = (300, 256, 512, 128, 64)
"""UV sizes that an avatar without a note of its own is tried with; the reference fits at 300 and learns at 256."""


def find_layout(faces: Tensor, head: HeadModel, sizes: Iterable[int]) -> tuple[TexelBinding | None, str]:
    """The UV map whose covered texels the Gaussians are, in raster order.

    Args:
        faces: `[N]` triangle of each Gaussian.
        head: the head model that they are bound to.
        sizes: of the maps that are tried, in this order.

    Returns:
        The map (None: not one of these), and how many texels each size has that was tried, for a message.
    """
    tried = []
    for size in dict.fromkeys(sizes):
        try:
            binding = bind_texels(head.uvs, head.uv_faces, size)
        except UserError:  # no texel of so small a map is covered
            continue
        if torch.equal(binding.faces, faces):
            return binding, ""
        tried.append(f"{len(binding)} at {size}")
    return None, ", ".join(tried) or "none"

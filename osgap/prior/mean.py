"""The mean avatar of the training people: the start of the prior, and the baseline that it has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from osgap.head.params import FlameParams
from osgap.head.texels import TexelBinding
from osgap.runtime.errors import UserError
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.avatar import Avatar
from osgap.splat.uv_maps import load_uv_gt


def load_maps(paths: Sequence[Path]) -> Tensor:
    """Fitted maps of several people, `[P, S, S, 14]`.

    Raises:
        UserError: maps of different sizes; see also `osgap.splat.uv_maps.load_uv_gt`.
    """
    maps = [load_uv_gt(path) for path in paths]
    sizes = {path: loaded.shape[0] for path, loaded in zip(paths, maps, strict=True)}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{path.name} {size}" for path, size in sizes.items())
        raise UserError(f"{paths[0].parent}: maps of different sizes ({listed}); fit all people with one fit.uv_size")
    return torch.stack(maps)


def mean_avatar(mean: Tensor, binding: TexelBinding, params: FlameParams) -> Avatar:
    """The mean of the training people's maps on a person's head.

    Args:
        mean: `[S, S, 14]`, see `load_maps`.
        binding: the texels of maps of that size.
        params: of the person whose head it is put on.
    """
    return Avatar(GaussianAttributes.from_uv(mean, binding), binding.faces, params)

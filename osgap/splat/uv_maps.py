"""Attribute maps in UV space as files: `uv_gt` in the keys, shapes and orientation that OSGAP reads.

Key                    Shape       Content, before activation, zero where no triangle covers the texel
---------------------  ----------  --------------------------------------------------------------------
`local_position_uv`    (S, S, 3)   position in the triangle's frame, triangle units
`rot_delta_uv`         (S, S, 4)   quaternion wxyz
`local_scaling_uv`     (S, S, 3)   log scale, relative to the triangle
`gs_opacity_uv`        (S, S, 1)   opacity logit
`gs_features_uv`       (S, S, 3)   colour as the SH DC coefficient

All float32; row 0 is the top of the texture (v near 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osgap.runtime.artifacts import read_npz, write_npz
from osgap.runtime.errors import UserError
from osgap.splat.attributes import CHANNELS

KEYS: Mapping[str, str] = {
    "local_position_uv": "position",
    "rot_delta_uv": "rotation",
    "local_scaling_uv": "scale",
    "gs_opacity_uv": "opacity",
    "gs_features_uv": "color",
}
"""File key -> attribute."""

COLOR_SPACE = "sh_dc"
"""What `gs_features_uv` holds here; `osgap.interop.adopt_maps` converts files that hold RGB under the same key."""


def save_uv_gt(path: Path | str, maps: Tensor, provenance: Mapping[str, Any] | None = None) -> None:
    """Write attribute maps.

    Args:
        maps: `[S, S, 14]`, before activation, in the channel order of `GaussianAttributes`.
        provenance: goes into the archive's comment, where numpy and OSGAP do not look.
    """
    array = maps.detach().cpu().numpy().astype(np.float32, copy=False)
    write_npz(path, {key: array[..., CHANNELS[name]] for key, name in KEYS.items()}, provenance)


def load_uv_gt(path: Path | str) -> Tensor:
    """Read attribute maps, `[S, S, 14]` float32 in the channel order of `GaussianAttributes`.

    Files of other programs may hold other floating-point types and further keys; those keys are not even read. Nothing
    is unpickled. The colours are what the file holds (see `osgap.interop.color`).

    Raises:
        UserError: when the file is missing or no archive, a key is absent, a shape is not that of one square map, or
            a value is not a finite float32.
    """
    path = Path(path)
    arrays = read_npz(path, KEYS, kind="attribute maps", remedy="Run the stage `bake`, which makes it.")
    missing = [key for key in KEYS if key not in arrays]
    if missing:
        raise UserError(
            f"{path}: attribute maps lack {', '.join(missing)}; expected are {', '.join(KEYS)}. Give a file "
            f"that `osgap bake` or OSGAP's fork of GaussianAvatars has written."
        )

    size = max(arrays["gs_opacity_uv"].shape[:1], default=0)
    maps = np.zeros((size, size, sum(width(name) for name in CHANNELS)), np.float32)
    for key, name in KEYS.items():
        array = arrays[key]
        expected = (size, size, width(name))
        if array.shape != expected or array.dtype.kind != "f":
            raise UserError(
                f"{path}: {key} is {array.dtype} of shape {array.shape}; float32 of shape {expected} is expected "
                f"(the size is taken from gs_opacity_uv). Give the file as `osgap bake`, or the program that it is "
                f"from, has written it."
            )
        with np.errstate(over="ignore"):
            single = array.astype(np.float32)
        if not np.isfinite(single).all():
            where = np.argwhere(~np.isfinite(single))[0].tolist()
            raise UserError(
                f"{path}: {key}{where} is {array[tuple(where)]}; finite numbers of single precision are expected. "
                f"The fit has diverged or the file is damaged: run `osgap fit` and `osgap bake` again, or copy it."
            )
        maps[..., CHANNELS[name]] = single
    return torch.from_numpy(maps)


def width(name: str) -> int:
    """How many channels an attribute has."""
    channels = CHANNELS[name]
    return channels.stop - channels.start

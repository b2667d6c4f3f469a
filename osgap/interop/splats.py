"""World-space Gaussians as splat viewers and editors open them: the PLY of 3D Gaussian Splatting (Kerbl et al. 2023).

One `vertex` element of little-endian float32 properties in the order that INRIA's program writes: position, normals
(zero), SH coefficients, opacity logit, log scales, unit quaternion wxyz; metres. Three habits of readers shape the
file beyond that:

- INRIA's viewer takes the number of Gaussians from the third line and rows of degree 3 without looking, so comments
  stand behind the `element` line, and degree 3 (45 zeros) is the default. Others read any degree.
- antimatter15's viewer looks for the end of the header in the first 10 KB.
- y points down (see `osgap.interop.axes`). SuperSplat and PlayCanvas turn a PLY half about z when they open it,
  GaussianSplats3D is shown with its camera's up at -y, Spark's and gsplat.js's examples turn the model half about x,
  and converters to SPZ take a PLY for right-down-forward. With `up="-y"` a head stands upright in all of them; programs
  that open a PLY as it is (Blender's importers, Unity) want `up="y"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osgap.interop.axes import DESCRIPTIONS, Up, turn_points, turn_rotations, turn_rotations_back
from osgap.runtime.artifacts import ply_comments
from osgap.runtime.errors import UserError
from osgap.splat.attributes import GaussianAttributes, rgb_to_sh, sh_to_rgb
from osgap.splat.gaussians import Gaussians
from osgap.splat.ply import rest_count
from osgap.splat.ply_rows import write_rows

_POSITION = ("x", "y", "z")
_COLOR = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALE = ("scale_0", "scale_1", "scale_2")
_ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
_REQUIRED = (*_POSITION, *_COLOR, "opacity", *_SCALE, *_ROTATION)
_SMALLEST = torch.finfo(torch.float32).tiny  # what a scale or an opacity of zero is written as
_LARGEST_OPACITY = 1 - 2.0**-24  # the largest float32 below 1


def save_splats(
    path: Path | str,
    gaussians: Gaussians,
    provenance: Mapping[str, Any] | None = None,
    *,
    raw: GaussianAttributes | None = None,
    up: Up = "-y",
    sh_degree: int = 3,
) -> None:
    """Write one set of world-space Gaussians.

    Args:
        path: the file to write.
        gaussians: fields `[N, ...]` in FLAME's axes (y up), metres. Opacities of 0 and 1 and scales of 0, whose logits
            and logarithms are infinite, are written as the nearest float32 that has one.
        provenance: goes into the header's comments.
        raw: `[N, 14]` attributes whose colours and opacities before activation are written as they are. Default is to
            compute them from the activated ones.
        up: the axis of the file that points up.
        sh_degree: degree that the reader expects; coefficients above degree 0 are zeros. Default is 3.

    Raises:
        UserError: when a Gaussian has a value that is not finite, or the file does not read back as it was meant.
    """
    if gaussians.batch is not None:
        raise ValueError(f"save_splats takes one set of Gaussians, got a batch of {gaussians.batch}")
    columns = {
        _POSITION: turn_points(gaussians.means, up),
        _COLOR: rgb_to_sh(gaussians.colors) if raw is None else raw.color,
        ("opacity",): (_logit(gaussians.opacities) if raw is None else raw.opacity.squeeze(-1))[:, None],
        _SCALE: gaussians.scales.clamp_min(_SMALLEST).log(),
        _ROTATION: turn_rotations(_unit(gaussians.rotations), up),
    }
    names = [*_POSITION, "nx", "ny", "nz", *_COLOR, *(f"f_rest_{index}" for index in range(rest_count(sh_degree)))]
    names += ["opacity", *_SCALE, *_ROTATION]
    rows = np.zeros(gaussians.count, dtype=[(name, "<f4") for name in names])
    for part, values in columns.items():
        for name, column in zip(part, values.detach().cpu().numpy().T, strict=True):
            rows[name] = column
            wrong = np.flatnonzero(~np.isfinite(rows[name]))
            if len(wrong):
                raise UserError(
                    f"{path}: {name} of Gaussian {wrong[0]} would be {rows[name][wrong[0]]} ({len(wrong)} Gaussians "
                    f"are like it): its values, or those of the motion, are too large. Give another motion, or fit "
                    f"that person again (`osgap fit`)."
                )
    comments = [DESCRIPTIONS[up]] + (ply_comments(provenance) if provenance is not None else [])
    write_rows(path, rows, element_comments=comments)


def load_splats(path: Path | str, up: Up = "-y") -> Gaussians:
    """Read world-space Gaussians, `[N, ...]` in FLAME's axes (y up); colours are those of degree 0.

    Args:
        path: a file that `save_splats` or another program wrote.
        up: the axis of the file that points up.

    Raises:
        UserError: when the file is absent or damaged, or lacks properties.
    """
    from plyfile import PlyData

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; a PLY file of Gaussians is expected there.")
    try:
        rows = {element.name: np.array(element.data) for element in PlyData.read(str(path)).elements}.get("vertex")
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(
            f"{path}: not a readable PLY file ({error}). Is it truncated? Copy it again from "
            f"where it was made, or export it again (`osgap export-splats`)."
        ) from error
    names = () if rows is None else rows.dtype.names or ()
    missing = [name for name in _REQUIRED if name not in names]
    if rows is None or missing:
        raise UserError(f"{path}: lacks the properties {', '.join(missing)}. A file of 3D Gaussians is expected.")

    def columns(part: tuple[str, ...]) -> Tensor:
        return torch.from_numpy(np.stack([rows[name] for name in part], axis=-1).astype(np.float32))

    return Gaussians(
        means=turn_points(columns(_POSITION), up),
        rotations=turn_rotations_back(columns(_ROTATION), up),
        scales=columns(_SCALE).exp(),
        opacities=columns(("opacity",)).squeeze(-1).sigmoid(),
        colors=sh_to_rgb(columns(_COLOR)),
    )


def _logit(opacities: Tensor) -> Tensor:
    """Computed in float64: next to 1, float32 has no room for `1 - opacity`."""
    return opacities.double().clamp(_SMALLEST, _LARGEST_OPACITY).logit().float()


def _unit(quaternions: Tensor) -> Tensor:
    """Unit quaternions `[..., 4]`; a zero one, which renderers take for no rotation, becomes the identity.

    In float64, because the squares of small float32 numbers are zero in float32.
    """
    precise = quaternions.double()
    length = precise.norm(dim=-1, keepdim=True)
    identity = precise.new_tensor([1.0, 0.0, 0.0, 0.0])
    return torch.where(length > 0, precise / length.clamp_min(torch.finfo(torch.float64).tiny), identity).float()

"""`point_cloud.ply` as GaussianAvatars reads and writes it.

One `vertex` element of little-endian float32 properties with the values before activation: local position, normals
(zero), colour as `f_dc` (degree 0) and `f_rest` (higher degrees, zero here), opacity logit, log scales, quaternion
wxyz of any length, and `binding_0`, the triangle as a float (exact below 2^24).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osgap.artifacts import atomic_path, ply_comments
from osgap.errors import UserError
from osgap.splat.attributes import CHANNELS, N_CHANNELS, GaussianAttributes

VIEWER_SH_DEGREE = 3
"""The degree that GaussianAvatars' viewer expects unless told otherwise."""
_MAX_SH_DEGREE = 3
_MAX_EXACT_FLOAT32 = 1 << 24

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "position": ("x", "y", "z"),
    "color": ("f_dc_0", "f_dc_1", "f_dc_2"),
    "opacity": ("opacity",),
    "scale": ("scale_0", "scale_1", "scale_2"),
    "rotation": ("rot_0", "rot_1", "rot_2", "rot_3"),
}
_REQUIRED = tuple(column for columns in _COLUMNS.values() for column in columns)
_REST = "f_rest_"
_BINDING = "binding_0"


def rest_count(sh_degree: int) -> int:
    """How many `f_rest` properties a file of this spherical-harmonics degree has."""
    return 3 * (sh_degree + 1) ** 2 - 3


def save_ply(
    path: Path | str,
    attributes: GaussianAttributes,
    faces: Tensor,
    provenance: Mapping[str, Any] | None = None,
    *,
    sh_degree: int = VIEWER_SH_DEGREE,
) -> None:
    """Write Gaussians that are bound to triangles.

    Args:
        path: the file to write.
        attributes: `[N, 14]`; feature channels have no place in the format and are refused.
        faces: `[N]` int64 triangle of each Gaussian.
        provenance: goes into the header's comments.
        sh_degree: degree that the reader expects; coefficients above degree 0 are written as zeros. Default is 3.
    """
    from plyfile import PlyData, PlyElement

    channels = attributes.channels.detach().cpu().numpy()
    if channels.ndim != 2 or channels.shape[1] != N_CHANNELS or tuple(faces.shape) != channels.shape[:1]:
        raise ValueError(
            f"save_ply takes attributes [N, {N_CHANNELS}] and faces [N], got {channels.shape} and {tuple(faces.shape)}"
        )
    if len(faces) and int(faces.max()) >= _MAX_EXACT_FLOAT32:
        raise ValueError(f"triangle {int(faces.max())} cannot be written as float32")
    names = ["x", "y", "z", "nx", "ny", "nz", *_COLUMNS["color"]]
    names += [f"{_REST}{index}" for index in range(rest_count(sh_degree))]
    names += [*_COLUMNS["opacity"], *_COLUMNS["scale"], *_COLUMNS["rotation"], _BINDING]
    rows = np.zeros(len(channels), dtype=[(name, "<f4") for name in names])
    for part, columns in _COLUMNS.items():
        for column, values in zip(columns, channels[:, CHANNELS[part]].T, strict=True):
            rows[column] = values
    rows[_BINDING] = faces.cpu().numpy()
    comments = ply_comments(provenance) if provenance is not None else []
    with atomic_path(path) as temporary:
        PlyData([PlyElement.describe(rows, "vertex")], byte_order="<", comments=comments).write(str(temporary))


def load_ply(path: Path | str, face_count: int | None = None) -> tuple[GaussianAttributes, Tensor]:
    """Read Gaussians that are bound to triangles.

    Args:
        path: a file written by `save_ply` or by GaussianAvatars, of any spherical-harmonics degree up to 3.
        face_count: F of the head; triangles are checked against it. Default is no check.

    Returns:
        Attributes `[N, 14]` and the triangle of each Gaussian `[N]` int64.

    Raises:
        UserError: when the file is absent or damaged, lacks properties, has a number of `f_rest` properties that
            belongs to no degree, has colours that depend on the view, or binds to triangles that the head lacks.
    """
    rows = _read_vertices(Path(path))
    names = rows.dtype.names or ()
    _check_properties(path, names)
    _check_values(path, rows)
    channels = np.empty((len(rows), N_CHANNELS), np.float32)
    for part, columns in _COLUMNS.items():
        channels[:, CHANNELS[part]] = np.stack([rows[column] for column in columns], axis=-1)
    faces = rows[_BINDING].astype(np.int64)
    limit = _MAX_EXACT_FLOAT32 if face_count is None else face_count
    wrong = np.flatnonzero((rows[_BINDING] != faces) | (faces < 0) | (faces >= limit))
    if len(wrong):
        first = int(wrong[0])
        raise UserError(
            f"{path}: Gaussian {first} is bound to triangle {rows[_BINDING][first]:g}, expected an integer from 0 to "
            f"{limit - 1}. Use the head model that the avatar was made with."
        )
    return GaussianAttributes(torch.from_numpy(channels)), torch.from_numpy(faces)


def _read_vertices(path: Path) -> np.ndarray:
    from plyfile import PlyData

    if not path.is_file():
        raise UserError(f"{path}: no such file; an avatar's point cloud is expected there.")
    try:
        elements = {element.name: element for element in PlyData.read(str(path), mmap=False).elements}
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(f"{path}: not a readable PLY file ({error}). It may be truncated; make it anew.") from error
    if "vertex" not in elements:
        found = ", ".join(elements) or "none"
        raise UserError(f"{path}: has no element 'vertex' (found: {found}). A Gaussian avatar is expected.")
    return elements["vertex"].data


def _check_values(path: Path | str, rows: np.ndarray) -> None:
    if len(rows) == 0:
        raise UserError(f"{path}: contains no Gaussians.")
    rest = [name for name in rows.dtype.names or () if name.startswith(_REST)]
    for name in (*_REQUIRED, _BINDING, *rest):
        if rows[name].dtype.kind not in "fiu":
            raise UserError(f"{path}: property {name} is a list; a number per Gaussian is expected.")
        if not np.isfinite(rows[name]).all():
            index = int(np.flatnonzero(~np.isfinite(rows[name]))[0])
            raise UserError(f"{path}: {name} of Gaussian {index} is {rows[name][index]}; finite numbers are expected.")
    largest = max((float(np.abs(rows[name]).max()) for name in rest), default=0.0)
    if largest > 0:
        raise UserError(
            f"{path}: colours depend on the view (f_rest up to {largest:.3g}), which avatars here cannot represent. "
            f"Export the avatar with spherical-harmonics degree 0."
        )


def _check_properties(path: Path | str, names: tuple[str, ...]) -> None:
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise UserError(f"{path}: lacks the properties {', '.join(missing)}. A 3D Gaussian avatar is expected.")
    if _BINDING not in names:
        raise UserError(
            f"{path}: lacks the property {_BINDING}, so its Gaussians are not bound to a head. Use the point cloud of "
            f"a head avatar (GaussianAvatars or this project)."
        )
    rest = sum(name.startswith(_REST) for name in names)
    degrees = {rest_count(degree): degree for degree in range(_MAX_SH_DEGREE + 1)}
    if rest not in degrees:
        raise UserError(
            f"{path}: has {rest} f_rest properties; expected {', '.join(map(str, degrees))} for the "
            f"spherical-harmonics degrees 0 to {_MAX_SH_DEGREE}. The file is damaged or not a Gaussian avatar."
        )

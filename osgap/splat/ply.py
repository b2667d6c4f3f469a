"""`point_cloud.ply` as GaussianAvatars reads and writes it.

One `vertex` element of little-endian float32 properties with the values before activation: local position, normals
(zero), colour as `f_dc` (degree 0) and `f_rest` (higher degrees, zero here), opacity logit, log scales, quaternion
wxyz of any length, and `binding_0`, the triangle as a float (exact below 2^24).

`f_dc` is the SH coefficient, except in files for OSGAP's renderers, which take it for RGB. Files of that kind that are
written here have the coefficients as well, as `sh_dc`, so that they come back exactly; readers pick properties by name
and pass over these.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osgap.runtime.artifacts import ply_comments
from osgap.runtime.errors import UserError
from osgap.splat.attributes import CHANNELS, N_CHANNELS, SH_C0, GaussianAttributes
from osgap.splat.color_space import ColorSpace
from osgap.splat.ply_rows import write_rows

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
_SH_DC = ("sh_dc_0", "sh_dc_1", "sh_dc_2")


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
    color_space: ColorSpace = "sh_dc",
) -> None:
    """Write Gaussians that are bound to triangles.

    Args:
        path: the file to write.
        attributes: `[N, 14]`; feature channels have no place in the format and are refused.
        faces: `[N]` int64 triangle of each Gaussian.
        provenance: goes into the header's comments.
        sh_degree: degree that the reader expects; coefficients above degree 0 are written as zeros. Default is 3.
        color_space: what the reader takes `f_dc` for. Default is SH coefficients.

    Raises:
        UserError: when the file does not read back as it was meant.
    """
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
    names += _SH_DC if color_space == "rgb" else ()
    rows = np.zeros(len(channels), dtype=[(name, "<f4") for name in names])
    for part, columns in _COLUMNS.items():
        for column, values in zip(columns, channels[:, CHANNELS[part]].T, strict=True):
            rows[column] = values
    rows[_BINDING] = faces.cpu().numpy()
    comments = ply_comments(provenance) if provenance is not None else []
    if color_space == "rgb":
        for rgb, exact in zip(_COLUMNS["color"], _SH_DC, strict=True):
            rows[exact] = rows[rgb]
            rows[rgb] = _rgb(rows[exact])
        comments.append(f"f_dc is RGB, as OSGAP's viewer takes it: 0.5 + {SH_C0} sh_dc")
    write_rows(path, rows, comments=comments)


def load_ply(
    path: Path | str, face_count: int | None = None, color_space: ColorSpace = "sh_dc"
) -> tuple[GaussianAttributes, Tensor]:
    """Read Gaussians that are bound to triangles.

    Args:
        path: a file written by `save_ply`, GaussianAvatars or OSGAP, of any spherical-harmonics degree up to 3, binary
            of either byte order or text, with numbers of any type.
        face_count: F of the head; triangles are checked against it. Default is no check.
        color_space: what `f_dc` holds. Files written here for OSGAP's viewer say so themselves and come back exactly
            either way. Default is SH coefficients.

    Returns:
        Attributes `[N, 14]` and the triangle of each Gaussian `[N]` int64.

    Raises:
        UserError: when the file is absent or damaged, lacks properties, has a number of `f_rest` properties that
            belongs to no degree, has colours that depend on the view, or binds to triangles that the head lacks.
    """
    rows = _read_checked(Path(path))
    channels = np.empty((len(rows), N_CHANNELS), np.float32)
    for part, columns in _COLUMNS.items():
        channels[:, CHANNELS[part]] = np.stack([rows[column] for column in columns], axis=-1)
    if color_space == "rgb" or _is_marked(rows):
        channels[:, CHANNELS["color"]] = _coefficients(rows)
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


def read_colors(path: Path | str) -> tuple[np.ndarray, bool]:
    """The colours of a file as they are, for telling SH coefficients from RGB.

    Returns:
        `f_dc` of every Gaussian `[N, 3]`, and whether the file itself says what it is (it has `sh_dc`).

    Raises:
        UserError: see `load_ply`.
    """
    rows = _read_checked(Path(path))
    return np.stack([rows[column].astype(np.float32) for column in _COLUMNS["color"]], axis=-1), _is_marked(rows)


def _is_marked(rows: np.ndarray) -> bool:
    return set(_SH_DC) <= set(rows.dtype.names or ())


def _rgb(coefficients: np.ndarray) -> np.ndarray:
    return (0.5 + SH_C0 * coefficients.astype(np.float64)).astype(np.float32)


def _coefficients(rows: np.ndarray) -> np.ndarray:
    """`[N, 3]` SH coefficients of rows whose `f_dc` is RGB."""
    rgb = np.stack([rows[column].astype(np.float32) for column in _COLUMNS["color"]], axis=-1)
    coefficients = ((rgb.astype(np.float64) - 0.5) / SH_C0).astype(np.float32)
    if _is_marked(rows):
        exact = np.stack([rows[column].astype(np.float32) for column in _SH_DC], axis=-1)
        # Another program may have edited the colours and kept properties that it does not know: then the RGB holds.
        coefficients = np.where(_rgb(exact) == rgb, exact, coefficients)
    return coefficients


def _read_checked(path: Path) -> np.ndarray:
    rows = _read_vertices(path)
    _check_properties(path, rows.dtype.names or ())
    _check_values(path, rows)
    return rows


def _read_vertices(path: Path) -> np.ndarray:
    from plyfile import PlyData

    if not path.is_file():
        raise UserError(
            f"{path}: no such file; an avatar's point cloud is expected there. Check the path: it "
            f"must name a folder that `osgap fit`, `osgap oneshot` or GaussianAvatars has written."
        )
    try:
        # Mapped, then copied: without a map, rows are read one number at a time, which takes seconds.
        elements = {element.name: np.array(element.data) for element in PlyData.read(str(path)).elements}
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from None
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(
            f"{path}: not a readable PLY file ({error}). Is it truncated? Copy it again from "
            f"where it was made, or run the stage that makes it again (`osgap fit`, `osgap oneshot`)."
        ) from error
    if "vertex" not in elements:
        found = ", ".join(elements) or "none"
        raise UserError(f"{path}: has no element 'vertex' (found: {found}). Use the point cloud of a Gaussian avatar.")
    return elements["vertex"]


def _check_values(path: Path, rows: np.ndarray) -> None:
    if len(rows) == 0:
        raise UserError(f"{path}: contains no Gaussians. Use the point cloud of an avatar that was fitted to its end.")
    rest = [name for name in rows.dtype.names or () if name.startswith(_REST)]
    exact = [name for name in rows.dtype.names or () if name in _SH_DC]
    for name in (*_REQUIRED, _BINDING, *rest, *exact):
        if rows[name].dtype.kind not in "fiu":
            raise UserError(
                f"{path}: property {name} is a list; a number per Gaussian is expected. Save it as `property "
                f"float {name}`."
            )
        with np.errstate(over="ignore"):  # a double may be finite, and too large all the same
            finite = np.isfinite(rows[name].astype(np.float32))
        if not finite.all():
            index = int(np.flatnonzero(~finite)[0])
            raise UserError(
                f"{path}: {name} of Gaussian {index} is {rows[name][index]}; finite numbers are expected. The "
                f"fit has diverged or the file is damaged: copy it again, or fit that person again."
            )
    largest = max((float(np.abs(rows[name]).max()) for name in rest), default=0.0)
    if largest > 0:
        raise UserError(
            f"{path}: colours depend on the view (f_rest up to {largest:.3g}), which avatars here cannot represent. "
            f"Export the avatar with spherical-harmonics degree 0."
        )


def _check_properties(path: Path, names: tuple[str, ...]) -> None:
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise UserError(
            f"{path}: lacks the properties {', '.join(missing)}. Use the point cloud of a head avatar (GaussianAvatars "
            f"or this project)."
        )
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
            f"spherical-harmonics degrees 0 to {_MAX_SH_DEGREE}. Save all coefficients of one degree, or "
            f"none (degree 0)."
        )

"""Avatars as GaussianAvatars' and OSGAP's programs open them, and those that they made.

Both take a folder with `point_cloud.ply` and `flame_param.npz`, and both refuse a point cloud whose number of `f_rest`
properties is not that of the degree they were started with. GaussianAvatars' viewer starts with degree 3 and takes
`f_dc` for SH coefficients; OSGAP's starts with degree 0 and takes `f_dc` for RGB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from osgap.head.params import load_flame_param
from osgap.interop.config import ColorSpace
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.splat.avatar import FLAME_PARAM, POINT_CLOUD, Avatar
from osgap.splat.ply import VIEWER_SH_DEGREE, load_ply, read_colors

ViewerName = Literal["gaussianavatars", "osgap"]


@dataclass(frozen=True)
class Viewer:
    """What a viewer expects of a point cloud when it is started without options."""

    sh_degree: int
    color_space: ColorSpace


VIEWERS: Mapping[ViewerName, Viewer] = {
    "gaussianavatars": Viewer(sh_degree=VIEWER_SH_DEGREE, color_space="sh_dc"),
    "osgap": Viewer(sh_degree=0, color_space="rgb"),
}


def save_for_viewer(
    avatar: Avatar, folder: Path | str, viewer: ViewerName, provenance: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write `point_cloud.ply` and `flame_param.npz` as a viewer opens them; `Avatar.load` reads them back exactly.

    Returns:
        The two files.
    """
    folder = Path(folder)
    expected = VIEWERS[viewer]
    avatar.save(folder, provenance, sh_degree=expected.sh_degree, color_space=expected.color_space)
    return [folder / POINT_CLOUD, folder / FLAME_PARAM]


def load_foreign_avatar(
    folder: Path | str,
    color: ColorSpace = "sh_dc",
    face_count: int | None = None,
    vertex_count: int | None = None,
) -> Avatar:
    """Read an avatar that GaussianAvatars, its OSGAP fork, OSGAP or this project wrote.

    Args:
        folder: where `point_cloud.ply` and `flame_param.npz` are.
        color: what the point cloud's colours are. Files that were written here say it themselves.
        face_count: F of the head; triangles are checked against it. Default is no check.
        vertex_count: V of the head; needed for parameters without a static offset. Default is what the file has.

    Raises:
        UserError: see `load_ply` and `load_flame_param`; or when the colours look like the other kind.
    """
    from osgap.interop.color import check_color_space

    path = Path(folder) / POINT_CLOUD
    if not Path(folder).is_dir():
        raise UserError(
            f"{folder}: no such folder; an avatar ({POINT_CLOUD} and {FLAME_PARAM}) is expected there. Check the path."
        )
    colors, marked = read_colors(path)
    known: ColorSpace | None = "sh_dc" if marked else _color_from_provenance(path)
    if known is None:
        check_color_space(colors, color, str(path))
    attributes, faces = load_ply(path, face_count, known or color)
    return Avatar(attributes, faces, load_flame_param(Path(folder) / FLAME_PARAM, vertex_count))


def _color_from_provenance(path: Path) -> ColorSpace | None:
    """What the colours of a file that was written here are, even where another program dropped a part of it since."""
    provenance = read_provenance(path)
    if provenance is None:
        return None
    viewer = provenance.get("config", {}).get("viewer")
    return VIEWERS[viewer].color_space if viewer in VIEWERS else "sh_dc"

"""Avatars as GaussianAvatars' and OSGAP's programs open them, and those that they made.

Both take a folder with `point_cloud.ply` and FLAME parameters beside it, and both refuse a point cloud whose number of
`f_rest` properties is not that of the degree they were started with. GaussianAvatars' viewer starts with degree 3,
takes `f_dc` for SH coefficients and looks for `flame_param.npz`. OSGAP's starts with degree 0, takes `f_dc` for RGB and
looks for `flame_param_024.npz`, the name that its training writes; without it, it shows Gaussians that no head moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from osgap.head.params import load_flame_param, save_flame_param
from osgap.interop.config import ColorSpace
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.runtime.swapping import atomic_files
from osgap.splat.avatar import FLAME_PARAM, POINT_CLOUD, Avatar
from osgap.splat.ply import VIEWER_SH_DEGREE, load_ply, read_colors

ViewerName = Literal["gaussianavatars", "osgap"]

OSGAP_FLAME_PARAM = "flame_param_024.npz"


@dataclass(frozen=True)
class Viewer:
    """What a viewer expects of a point cloud when it is started without options."""

    sh_degree: int
    color_space: ColorSpace
    flame_param: str
    """The file name under which it looks for the FLAME parameters."""


VIEWERS: Mapping[ViewerName, Viewer] = {
    "gaussianavatars": Viewer(sh_degree=VIEWER_SH_DEGREE, color_space="sh_dc", flame_param=FLAME_PARAM),
    "osgap": Viewer(sh_degree=0, color_space="rgb", flame_param=OSGAP_FLAME_PARAM),
}


def save_for_viewer(
    avatar: Avatar, folder: Path | str, viewer: ViewerName, provenance: Mapping[str, Any] | None = None
) -> list[Path]:
    """Write an avatar's files as a viewer opens them; `Avatar.load` reads them back exactly.

    That is `point_cloud.ply`, `flame_param.npz`, and the same parameters under the name that the viewer looks for,
    where it is another one: all of them, or none, in which case an earlier export stays as it was.

    Returns:
        The files.

    Raises:
        UserError: when a file does not read back as it was meant, or the folder has parameters under a name that would
            stay as it is.
    """
    folder = Path(folder)
    expected = VIEWERS[viewer]
    further = [folder / expected.flame_param] if expected.flame_param != FLAME_PARAM else []
    stale = folder / OSGAP_FLAME_PARAM
    if stale.exists() and stale not in further:
        raise UserError(
            f"{stale}: is of an earlier export, for OSGAP's viewer, and would stay beside the new files. Remove it, or "
            f"write to another folder."
        )
    # A viewer takes the point cloud for an avatar if the parameters are beside it: they come first.
    names = [*(path.name for path in further), FLAME_PARAM, POINT_CLOUD]
    with atomic_files(folder, names) as temporary:
        for path in further:
            save_flame_param(temporary / path.name, avatar.params, provenance)
        avatar.save(temporary, provenance, sh_degree=expected.sh_degree, color_space=expected.color_space)
    return [folder / POINT_CLOUD, folder / FLAME_PARAM, *further]


def flame_param_file(folder: Path) -> Path:
    """An avatar's FLAME parameters: `flame_param.npz`, or `flame_param_024.npz` as OSGAP's training writes it.

    Raises:
        UserError: when there are both, and they are not the same.
    """
    usual, theirs = folder / FLAME_PARAM, folder / OSGAP_FLAME_PARAM
    if not theirs.is_file():
        return usual
    if usual.is_file() and usual.read_bytes() != theirs.read_bytes():
        raise UserError(
            f"{folder}: {FLAME_PARAM} and {OSGAP_FLAME_PARAM} differ, and only one can be the avatar's. Remove or "
            f"rename the other one."
        )
    return usual if usual.is_file() else theirs


def load_foreign_avatar(
    folder: Path | str,
    color: ColorSpace = "sh_dc",
    face_count: int | None = None,
    vertex_count: int | None = None,
) -> Avatar:
    """Read an avatar that GaussianAvatars, its OSGAP fork, OSGAP or this project wrote.

    Args:
        folder: where `point_cloud.ply` and the FLAME parameters are (see `flame_param_file`).
        color: what the point cloud's colours are. Files that were written here say it themselves.
        face_count: F of the head; triangles are checked against it. Default is no check.
        vertex_count: V of the head; needed for parameters without a static offset. Default is what the file has.

    Raises:
        UserError: see `load_ply`, `flame_param_file` and `load_flame_param`; or when the colours look like the other
            kind.
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
    return Avatar(attributes, faces, load_flame_param(flame_param_file(Path(folder)), vertex_count))


def _color_from_provenance(path: Path) -> ColorSpace | None:
    """What the colours of a file that was written here are, even where another program dropped a part of it since."""
    provenance = read_provenance(path)
    if provenance is None:
        return None
    viewer = provenance.get("config", {}).get("viewer")
    return VIEWERS[viewer].color_space if viewer in VIEWERS else "sh_dc"

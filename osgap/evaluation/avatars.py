"""Opening a person's capture and what the methods made of it."""

from __future__ import annotations

from pathlib import Path

from osgap.capture.store import CaptureStore
from osgap.evaluation.methods import METHODS
from osgap.head.editions import check_head, recorded
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import bind_texels
from osgap.prior.mean import mean_avatar
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.splat.avatar import FLAME_PARAM, POINT_CLOUD, Avatar
from osgap.splat.uv_maps import load_uv_gt


def open_store(path: Path, subject: str) -> CaptureStore:
    """The capture store of a subject.

    Raises:
        UserError: when it holds another subject's capture.
    """
    store = CaptureStore(path)
    if store.subject != subject:
        raise UserError(
            f"{path}: holds the capture of subject {store.subject}, but {subject} is asked for; import {subject} again"
        )
    return store


def load_avatar(method: str, path: Path, head: HeadModel, tracked: FlameParams) -> Avatar:
    """The avatar of one method.

    Args:
        method: one of `osgap.evaluation.methods.METHODS`.
        path: the folder of `point_cloud.ply` and `flame_param.npz`; for `mean_avatar` the maps (`mean_uv.npz`).
        head: the head model that it is bound to.
        tracked: the person's parameters; the mean avatar, which is nobody's, takes its identity from them.

    Raises:
        UserError: when the method is unknown, a file is missing or damaged, or the avatar was made with another edition
            of the head model.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}; the methods are {', '.join(METHODS)}")
    if method == "mean_avatar":
        maps = load_uv_gt(path)
        return mean_avatar(maps, bind_texels(head.uvs, head.uv_faces, maps.shape[0]), tracked)
    avatar = Avatar.load(path)
    head.check_fits(avatar.params, path / FLAME_PARAM)
    check_head(head, recorded(read_provenance(path / FLAME_PARAM)), path / FLAME_PARAM)
    last = int(avatar.faces.max())
    if last >= len(head.faces):
        raise UserError(
            f"{path / POINT_CLOUD}: is bound to triangle {last}, but the head model (flame.assets) has "
            f"{len(head.faces)} triangles. Set flame.assets to the head model that the avatar was made with."
        )
    return avatar


def avatar_files(method: str, path: Path) -> list[Path]:
    """The files that `load_avatar` reads."""
    return [path] if method == "mean_avatar" else [path / POINT_CLOUD, path / FLAME_PARAM]

"""Exports of an avatar that another tracker's motion drives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from interop.balls import Ball, make_ball
from osgap.head.assets import load_head
from osgap.head.editions import Edition, recorded
from osgap.head.params import load_flame_param, save_flame_param
from osgap.interop.export import export_avatar, export_mesh, export_splats
from osgap.interop.mesh import posed_mesh
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.splat.avatar import Avatar


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Ball:
    return make_ball(tmp_path_factory.mktemp("ball"))


def test_decas_names_drive_the_mesh(ball: Ball, tmp_path: Path) -> None:
    own = load_flame_param(ball.folder / "flame_param.npz")
    rng = np.random.default_rng(1)
    exp, pose = (rng.normal(0, 0.3, (3, width)).astype(np.float32) for width in (50, 6))
    np.savez(tmp_path / "deca.npz", exp=exp, pose=pose, shape=np.ones((3, 100)))
    (path,) = export_mesh(ball.folder, tmp_path / "a.obj", ball.assets, frames="2", motion=tmp_path / "deca.npz")
    zeros = {name: torch.zeros(3, width) for name, width in (("neck_pose", 3), ("eyes_pose", 6), ("translation", 3))}
    driven = own.replace(
        expr=torch.from_numpy(np.pad(exp, ((0, 0), (0, 50)))),
        rotation=torch.from_numpy(pose[:, :3]),
        jaw_pose=torch.from_numpy(pose[:, 3:]),
        **zeros,
    )
    expected = posed_mesh(load_head(ball.assets), driven, 2, "y").vertices
    lines = [line.split()[1:4] for line in path.read_text().splitlines() if line.startswith("v ")]
    np.testing.assert_allclose(np.array(lines, float), expected, atol=1e-5)


def test_editions_go_with_exports(ball: Ball, tmp_path: Path) -> None:
    head = load_head(ball.assets)
    own, other = Edition(head.edition_id, "FLAME 2023"), Edition("0" * 16, "FLAME 2020")
    avatar = Avatar.load(ball.folder)
    avatar.save(tmp_path / "avatar", {"stage": "fit", **own.record})
    export_avatar(tmp_path / "avatar", tmp_path / "viewer", ball.assets)
    assert recorded(read_provenance(tmp_path / "viewer" / "flame_param.npz")) == own
    save_flame_param(tmp_path / "motion.npz", avatar.params, other.record)
    with pytest.raises(UserError, match=r"motion\.npz: the motion was tracked with FLAME 2020"):
        export_splats(tmp_path / "avatar", tmp_path / "a.ply", ball.assets, motion=tmp_path / "motion.npz")
    avatar.save(tmp_path / "avatar", {"stage": "fit", **other.record})
    with pytest.raises(UserError, match=r"flame_param\.npz: was made with FLAME 2020"):
        export_splats(tmp_path / "avatar", tmp_path / "a.ply", ball.assets)
    assert not (tmp_path / "a.ply").exists()

"""Exports of an avatar that another tracker's motion drives."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rendering.people import make_world

from interop.balls import Ball, make_ball
from osgap.cli import main
from osgap.head.assets import load_head
from osgap.head.editions import Edition, recorded
from osgap.head.params import load_flame_param, save_flame_param
from osgap.interop.export import export_avatar, export_mesh, export_splats
from osgap.interop.mesh import posed_mesh
from osgap.interop.motion import load_motion
from osgap.interop.splats import load_splats
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
    zeros = {name: torch.zeros(3, width) for name, width in (("neck_pose", 3), ("eyes_pose", 6))}
    driven = own.replace(
        expr=torch.from_numpy(np.pad(exp, ((0, 0), (0, 50)))),
        rotation=torch.from_numpy(pose[:, :3]),
        jaw_pose=torch.from_numpy(pose[:, 3:]),
        translation=own.translation.mean(dim=0).expand(3, 3),
        **zeros,
    )
    expected = posed_mesh(load_head(ball.assets), driven, 2, "y").vertices
    np.testing.assert_allclose(vertices(path), expected, atol=1e-5)


def vertices(path: Path) -> np.ndarray:
    """`[V, 3]` of an OBJ file."""
    lines = [line.split()[1:4] for line in path.read_text().splitlines() if line.startswith("v ")]
    return np.array(lines, float)


def test_the_head_stays_about_where_the_avatars_own_is(ball: Ball, tmp_path: Path) -> None:
    """Exports put somebody else's motion where `osgap render` does, whichever of its sources it is from."""
    head, own = load_head(ball.assets), ball.avatar.params
    theirs = own.replace(shape=own.shape + 1, translation=own.translation + torch.tensor([0.5, -2.0, 1.0]))
    dataclasses.replace(ball.avatar, params=theirs).save(tmp_path / "theirs", {"stage": "fit"})
    np.savez(tmp_path / "unnamed.npz", **{name: value.numpy() for name, value in theirs.motion.items()})  # type: ignore[arg-type]
    for source in (tmp_path / "theirs", tmp_path / "theirs/flame_param.npz", tmp_path / "unnamed.npz"):
        params = load_motion(own, source, None, head)
        torch.testing.assert_close(params.translation.mean(dim=0), own.translation.mean(dim=0))
        (mesh,) = export_mesh(ball.folder, tmp_path / "a.obj", ball.assets, frames="1", motion=source)
        np.testing.assert_allclose(vertices(mesh), posed_mesh(head, params, 1, "y").vertices, atol=1e-5)
        (splats,) = export_splats(ball.folder, tmp_path / "a.ply", ball.assets, frames="1", motion=source)
        expected = ball.avatar.gaussians(head, [1], params).means[0]
        torch.testing.assert_close(load_splats(splats).means, expected, atol=1e-5, rtol=0)
    for damaged, message in ((tmp_path, "is a folder without"), (tmp_path / "nobody.h5", "no such capture store")):
        with pytest.raises(UserError, match=message):
            export_mesh(ball.folder, tmp_path / "b.obj", ball.assets, motion=damaged)
    assert not (tmp_path / "b.obj").exists()


def test_a_capture_drives_exports(small_files: Any, tmp_path: Path) -> None:
    world = make_world(tmp_path, small_files.write(tmp_path))
    params = load_motion(world.anna.avatar.params, world.bert.capture, None, world.head)
    (mesh,) = export_mesh(world.anna.folder, tmp_path / "a.obj", world.assets, frames="2", motion=world.bert.capture)
    np.testing.assert_allclose(vertices(mesh), posed_mesh(world.head, params, 2, "y").vertices, atol=1e-5)


def test_a_sequence_of_a_capture_drives_exports(
    small_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(tmp_path, small_files.write(tmp_path))
    assets = {name: str(getattr(world.assets, name)) for name in ("model", "masks", "template")}
    options = ["--config", json.dumps({"flame": {"assets": assets}}), "--frames", "all", "--sequence", "EMO-1"]
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["osgap", *arguments, *options])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    params = load_motion(world.anna.avatar.params, world.bert.capture, "EMO-1", world.head)
    whole = load_motion(world.anna.avatar.params, world.bert.capture, None, world.head)
    assert 0 < params.timesteps < whole.timesteps
    for kind in ("mesh", "splats"):
        motion = ["--motion", str(world.bert.capture)]
        assert command(f"export-{kind}", str(world.anna.folder), str(tmp_path / kind), *motion) == 0
        files = sorted((tmp_path / kind).iterdir())
        assert len(files) == params.timesteps
        provenance = read_provenance(files[0])
        assert kind == "mesh" or (provenance or {})["config"]["sequence"] == "EMO-1"
    expected = posed_mesh(world.head, params, 1, "y").vertices
    np.testing.assert_allclose(vertices(tmp_path / "mesh" / "00001.obj"), expected, atol=1e-5)
    splats = world.anna.avatar.gaussians(world.head, [1], params).means[0]
    torch.testing.assert_close(load_splats(tmp_path / "splats" / "00001.ply").means, splats, atol=1e-5, rtol=0)

    assert command("export-mesh", str(world.anna.folder), str(tmp_path / "own")) == UserError.EXIT_CODE
    assert "sequence EMO-1: only capture stores have sequences" in capsys.readouterr().err
    assert not (tmp_path / "own").exists()


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

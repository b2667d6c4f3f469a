"""Avatars for GaussianAvatars' and OSGAP's viewers, and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from plyfile import PlyData, PlyElement

from interop.balls import Ball, make_ball, read_as_the_reference
from osgap.head.params import MOTION_WIDTHS, FlameParams, save_flame_param
from osgap.interop.export import export_avatar, export_splats
from osgap.interop.viewers import VIEWERS, ViewerName, load_foreign_avatar, save_for_viewer
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import file_digest
from osgap.splat.attributes import SH_C0, GaussianAttributes
from osgap.splat.avatar import Avatar

BOTH = pytest.mark.parametrize("viewer", ["gaussianavatars", "osgap"])


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Ball:
    return make_ball(tmp_path_factory.mktemp("ball"))


def assert_same(loaded: Avatar, saved: Avatar) -> None:
    """Bit for bit, the sign of zero included."""
    assert torch.equal(loaded.attributes.channels.view(torch.int32), saved.attributes.channels.view(torch.int32))
    assert torch.equal(loaded.faces, saved.faces)
    for field in dataclasses.fields(FlameParams):
        ours, theirs = (getattr(params, field.name) for params in (loaded.params, saved.params))
        assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32)), field.name


@BOTH
def test_a_viewer_finds_what_it_expects(ball: Ball, tmp_path: Path, viewer: ViewerName) -> None:
    files = save_for_viewer(ball.avatar, tmp_path, viewer, {"stage": "export-avatar"})
    assert sorted(files) == sorted(tmp_path.iterdir())
    found = read_as_the_reference(tmp_path / "point_cloud.ply", {"gaussianavatars": 3, "osgap": 0}[viewer])
    local = ball.avatar.attributes
    np.testing.assert_array_equal(found["xyz"], local.position)
    np.testing.assert_array_equal(found["opacity"], local.opacity[:, 0])
    np.testing.assert_array_equal(found["scale"], local.scale)
    np.testing.assert_array_equal(found["rot"], local.rotation)
    np.testing.assert_array_equal(found["binding"][:, 0], ball.avatar.faces)
    assert not found["rest"].any()
    # what the viewer shows: GaussianAvatars evaluates SH, OSGAP takes the values as they are
    shown = np.maximum(0.5 + SH_C0 * found["dc"], 0) if viewer == "gaussianavatars" else np.maximum(found["dc"], 0)
    np.testing.assert_allclose(shown, local.colors(), atol=1e-6)
    assert read_provenance(tmp_path / "point_cloud.ply") == {"stage": "export-avatar"}


@BOTH
def test_parameters_have_the_references_keys(ball: Ball, tmp_path: Path, viewer: ViewerName) -> None:
    save_for_viewer(ball.avatar, tmp_path, viewer)
    timesteps, vertices = ball.avatar.params.timesteps, ball.head.vertex_count
    with np.load(tmp_path / "flame_param.npz") as archive:
        assert {key: (archive[key].shape, archive[key].dtype) for key in archive.files} == {
            "shape": ((300,), np.float32), "expr": ((timesteps, 100), np.float32),
            "rotation": ((timesteps, 3), np.float32), "neck_pose": ((timesteps, 3), np.float32),
            "jaw_pose": ((timesteps, 3), np.float32), "eyes_pose": ((timesteps, 6), np.float32),
            "translation": ((timesteps, 3), np.float32), "static_offset": ((1, vertices, 3), np.float32),
            "dynamic_offset": ((timesteps, vertices, 3), np.float32),
        }  # fmt: skip
        assert not archive["dynamic_offset"].any()
        np.testing.assert_array_equal(archive["static_offset"][0], ball.avatar.params.static_offset)


@BOTH
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_and_back_without_loss(
    tmp_path_factory: pytest.TempPathFactory, viewer: ViewerName, data: st.DataObject
) -> None:
    def floats(*shape: int) -> torch.Tensor:
        elements = st.floats(allow_nan=False, allow_infinity=False, width=32)
        return torch.from_numpy(
            data.draw(npst.arrays(np.float32, shape, elements=elements, fill=st.just(np.float32(0))))
        )

    count, timesteps, vertices = (data.draw(st.integers(1, 4)) for _ in range(3))
    params = FlameParams(
        shape=floats(300),
        static_offset=floats(vertices, 3),
        **{name: floats(timesteps, width) for name, width in MOTION_WIDTHS.items()},
    )
    faces = torch.tensor(data.draw(st.lists(st.integers(0, 10143), min_size=count, max_size=count)))
    saved = Avatar(GaussianAttributes(floats(count, 14)), faces, params)
    folder = tmp_path_factory.mktemp("avatar")
    save_for_viewer(saved, folder, viewer)
    assert_same(Avatar.load(folder), saved)


@BOTH
@pytest.mark.parametrize("declared", ["sh_dc", "rgb"])
def test_what_was_written_here_needs_no_declaration(ball: Ball, tmp_path: Path, viewer: ViewerName, declared) -> None:
    save_for_viewer(ball.avatar, tmp_path, viewer, {"stage": "export-avatar"})
    assert_same(load_foreign_avatar(tmp_path, declared, len(ball.head.faces), ball.head.vertex_count), ball.avatar)


def as_osgaps_viewer_opens(point_path: Path) -> dict[str, torch.Tensor] | None:
    """The parameters of the head that moves the Gaussians: without the file it has a model that no head moves."""
    beside = point_path.parent / "flame_param_024.npz"
    if not beside.exists():
        return None
    with np.load(beside) as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


def test_osgaps_viewer_gets_the_file_that_it_looks_for(ball: Ball, tmp_path: Path) -> None:
    files = save_for_viewer(ball.avatar, tmp_path, "osgap", {"stage": "export-avatar"})
    assert [path.name for path in files] == ["point_cloud.ply", "flame_param.npz", "flame_param_024.npz"]
    found = as_osgaps_viewer_opens(tmp_path / "point_cloud.ply")
    assert found is not None
    assert found["dynamic_offset"].shape == (ball.avatar.params.timesteps, ball.head.vertex_count, 3)
    for field in dataclasses.fields(FlameParams):
        expected = getattr(ball.avatar.params, field.name)
        assert torch.equal(found[field.name].reshape(expected.shape), expected), field.name
    assert as_osgaps_viewer_opens(ball.folder / "point_cloud.ply") is None


def test_a_folder_with_the_name_of_osgaps_training_alone(ball: Ball, tmp_path: Path) -> None:
    """As the reference saves it, and as an export is from which the other copy was removed."""
    save_for_viewer(ball.avatar, tmp_path / "theirs", "osgap", {"stage": "export-avatar"})
    (tmp_path / "theirs" / "flame_param.npz").unlink()
    assert_same(load_foreign_avatar(tmp_path / "theirs", "rgb", len(ball.head.faces)), ball.avatar)
    for viewer in VIEWERS:
        export_avatar(tmp_path / "theirs", tmp_path / viewer, ball.assets, viewer=viewer)
        assert_same(Avatar.load(tmp_path / viewer), ball.avatar)
    (splats,) = export_splats(tmp_path / "theirs", tmp_path / "a.ply", ball.assets)
    provenance = read_provenance(splats)
    assert provenance is not None
    assert provenance["inputs"]["flame_param"] == file_digest(tmp_path / "theirs" / "flame_param_024.npz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "flame_param_024.npz").symlink_to(tmp_path / "theirs" / "flame_param_024.npz")
    with pytest.raises(UserError, match=r"out/flame_param_024\.npz: would be overwritten, and is read"):
        export_avatar(tmp_path / "theirs", tmp_path / "out", ball.assets, viewer="osgap")


def test_parameters_under_both_names_must_be_the_same(ball: Ball, tmp_path: Path) -> None:
    save_for_viewer(ball.avatar, tmp_path, "osgap")
    other = ball.avatar.params.replace(expr=ball.avatar.params.expr + 1)
    save_flame_param(tmp_path / "flame_param.npz", other)
    with pytest.raises(UserError, match=r"flame_param\.npz and flame_param_024\.npz differ.*Remove or rename"):
        load_foreign_avatar(tmp_path)
    with pytest.raises(UserError, match=r"flame_param_024\.npz: is of an earlier export.*Remove it, or"):
        save_for_viewer(ball.avatar, tmp_path, "gaussianavatars")
    save_for_viewer(ball.avatar, tmp_path, "osgap")
    assert_same(load_foreign_avatar(tmp_path), ball.avatar)


def test_nothing_is_left_of_an_export_for_osgap_that_fails(
    ball: Ball, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("osgap.splat.avatar.save_ply", full)
    with pytest.raises(OSError, match="No space left"):
        save_for_viewer(ball.avatar, tmp_path / "out", "osgap")
    assert list(tmp_path.iterdir()) == []


@BOTH
def test_an_export_that_fails_leaves_an_earlier_one_as_it_was(ball: Ball, tmp_path: Path, viewer: ViewerName) -> None:
    """It fails at the point cloud, after the parameters."""
    save_for_viewer(ball.avatar, tmp_path, viewer, {"stage": "export-avatar"})
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    params = ball.avatar.params.replace(expr=ball.avatar.params.expr + 1)
    with pytest.raises(ValueError, match="cannot be written as float32"):
        save_for_viewer(Avatar(ball.avatar.attributes, ball.avatar.faces + 2**24, params), tmp_path, viewer)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    save_for_viewer(dataclasses.replace(ball.avatar, params=params), tmp_path, viewer)
    assert_same(Avatar.load(tmp_path), dataclasses.replace(ball.avatar, params=params))
    assert {path.name for path in tmp_path.iterdir()} == set(before)


def make_foreign(ball: Ball, folder: Path, viewer: ViewerName) -> None:
    """What the reference itself writes: no comments, and no other properties."""
    save_for_viewer(ball.avatar, folder, viewer)
    rows = PlyData.read(str(folder / "point_cloud.ply"), mmap=False).elements[0].data
    names = [name for name in rows.dtype.names or () if not name.startswith("sh_dc")]
    plain = rows[names].astype([(name, "<f4") for name in names])
    PlyData([PlyElement.describe(plain, "vertex")], byte_order="<").write(str(folder / "point_cloud.ply"))


@BOTH
def test_foreign_avatars_are_read_as_declared(ball: Ball, tmp_path: Path, viewer: ViewerName) -> None:
    # A real head's colours cover the range; the ball's lie close together, and could be either.
    spread = ball.avatar.attributes.channels.clone()
    spread[:, 11:] = (torch.rand(len(spread), 3, generator=torch.Generator().manual_seed(0)) - 0.5) / SH_C0
    ball = dataclasses.replace(ball, avatar=dataclasses.replace(ball.avatar, attributes=GaussianAttributes(spread)))
    make_foreign(ball, tmp_path, viewer)
    right = VIEWERS[viewer].color_space
    loaded = load_foreign_avatar(tmp_path, right)
    torch.testing.assert_close(loaded.attributes.color, ball.avatar.attributes.color, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        loaded.attributes.channels[:, :11], ball.avatar.attributes.channels[:, :11], atol=0, rtol=0
    )
    with pytest.raises(UserError, match=r"point_cloud\.ply.*look like"):
        load_foreign_avatar(tmp_path, "rgb" if right == "sh_dc" else "sh_dc")


def test_an_export_that_lost_its_coefficients_is_known_still(ball: Ball, tmp_path: Path) -> None:
    """Programs that keep comments and drop properties that they do not know."""
    export_avatar(ball.folder, tmp_path / "osgap", ball.assets, viewer="osgap")
    path = tmp_path / "osgap" / "point_cloud.ply"
    data = PlyData.read(str(path), mmap=False)
    names = [p.name for p in data.elements[0].properties if not p.name.startswith("sh_dc")]
    rows = data.elements[0].data[names].astype([(name, "<f4") for name in names])
    PlyData([PlyElement.describe(rows, "vertex")], comments=data.comments).write(str(path))
    loaded = load_foreign_avatar(tmp_path / "osgap", "sh_dc")
    torch.testing.assert_close(loaded.attributes.color, ball.avatar.attributes.color, atol=1e-5, rtol=1e-5)


def test_parameters_without_a_static_offset(ball: Ball, tmp_path: Path) -> None:
    """As VHAP writes them: zeros, of the head's size."""
    save_for_viewer(ball.avatar, tmp_path, "gaussianavatars", {"stage": "x"})
    with np.load(tmp_path / "flame_param.npz") as archive:
        arrays = {key: archive[key] for key in archive.files if "offset" not in key}
    np.savez(tmp_path / "flame_param.npz", **arrays)
    loaded = load_foreign_avatar(tmp_path, vertex_count=ball.head.vertex_count)
    assert loaded.params.static_offset.shape == (ball.head.vertex_count, 3)
    assert not loaded.params.static_offset.any()


def test_no_avatar(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        load_foreign_avatar(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"point_cloud\.ply: no such file"):
        load_foreign_avatar(tmp_path)

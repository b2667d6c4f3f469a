"""The export commands: what they write, and what they refuse before they write anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interop.balls import UV_SIZE, Ball, camera_array, make_ball, motion, read_as_the_reference
from osgap.head.params import save_flame_param
from osgap.interop.export import export_avatar, export_maps, export_mesh, export_splats
from osgap.interop.splats import load_splats
from osgap.interop.viewers import ViewerName
from osgap.runtime.artifacts import read_provenance, write_json
from osgap.runtime.errors import UserError
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.avatar import Avatar
from osgap.splat.render import render

Export = Callable[..., list[Path]]
TIMES = 6


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Ball:
    return make_ball(tmp_path_factory.mktemp("ball"))


def test_avatars_for_viewers(ball: Ball, tmp_path: Path) -> None:
    viewers: list[tuple[ViewerName, int, ViewerName]] = [
        ("gaussianavatars", 3, "osgap"),
        ("osgap", 0, "gaussianavatars"),
    ]
    for viewer, degree, other in viewers:
        out = tmp_path / viewer
        files = export_avatar(ball.folder, out, ball.assets, viewer=viewer)
        assert sorted(files) == sorted(out.iterdir())
        read_as_the_reference(out / "point_cloud.ply", degree)
        # from one viewer's flavour to the other's and back
        again = tmp_path / f"{viewer}_again"
        export_avatar(out, again, ball.assets, viewer=other)
        for folder in (out, again):
            loaded = Avatar.load(folder)
            assert torch.equal(loaded.attributes.channels, ball.avatar.attributes.channels)
            assert torch.equal(loaded.faces, ball.avatar.faces)
        provenance = read_provenance(out / "point_cloud.ply")
        assert provenance is not None
        assert provenance["stage"] == "export-avatar"
        assert provenance["subject"] == "ball"


def test_one_frame_is_a_file(ball: Ball, tmp_path: Path) -> None:
    output = tmp_path / "new" / "head.ply"
    assert export_splats(ball.folder, output, ball.assets, frames="2") == [output]
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "new", output]
    expected = render(ball.avatar.gaussians(ball.head, [2]), camera_array(), torch.ones(3)).rgb
    found = render(load_splats(output), camera_array(), torch.ones(3)).rgb
    assert -10 * torch.log10((found - expected).square().mean()) > 90
    provenance = read_provenance(output)
    assert provenance is not None
    assert provenance["timestep"] == 2
    assert provenance["config"] == {"up": "-y", "sh_degree": 3}
    assert set(provenance["inputs"]) == {"point_cloud", "flame_param", "head_model", "head_masks", "head_template"}


@pytest.mark.parametrize(("export", "suffix"), [(export_splats, ".ply"), (export_mesh, ".glb")])
def test_several_frames_are_a_folder(ball: Ball, tmp_path: Path, export: Export, suffix: str) -> None:
    options = {} if export is export_splats else {"suffix": suffix}
    files = export(ball.folder, tmp_path / "out", ball.assets, frames="1:4:2", **options)
    assert files == [tmp_path / "out" / f"{timestep:05d}{suffix}" for timestep in (1, 3)]
    assert sorted((tmp_path / "out").iterdir()) == files
    single = export(ball.folder, tmp_path / f"3{suffix}", ball.assets, frames="3")
    assert single[0].read_bytes() == files[1].read_bytes()


def test_another_persons_motion(ball: Ball, tmp_path: Path) -> None:
    other = motion(ball.head.vertex_count, seed=9, timesteps=TIMES)
    save_flame_param(tmp_path / "motion.npz", other)
    files = export_splats(ball.folder, tmp_path / "out", ball.assets, frames="all", motion=tmp_path / "motion.npz")
    assert len(files) == TIMES
    shift = ball.avatar.params.translation.mean(dim=0) - other.translation.mean(dim=0)  # of somebody else
    driven = ball.avatar.params.driven_by(other.replace(translation=other.translation + shift))
    expected = ball.avatar.gaussians(ball.head, params=driven).means
    for timestep, path in enumerate(files):
        torch.testing.assert_close(load_splats(path).means, expected[timestep], atol=1e-6, rtol=0)
    provenance = read_provenance(files[0])
    assert provenance is not None
    assert "motion" in provenance["inputs"]


def test_meshes_of_every_format_are_the_same(ball: Ball, tmp_path: Path) -> None:
    import trimesh

    meshes = []
    for suffix in (".obj", ".ply", ".glb"):
        (path,) = export_mesh(ball.folder, tmp_path / f"a{suffix}", ball.assets, frames="1")
        meshes.append(np.asarray(trimesh.load_mesh(path, process=False).triangles, np.float32))
    expected = ball.head.vertices(ball.avatar.params, [1])[0].numpy()[ball.head.faces.numpy()]
    for triangles in meshes:
        np.testing.assert_array_equal(triangles, expected)


def read_maps(path: Path, size: int) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    widths = {
        "local_position_uv": 3, "rot_delta_uv": 4, "local_scaling_uv": 3, "gs_opacity_uv": 1, "gs_features_uv": 3
    }  # fmt: skip
    assert {key: (value.shape, value.dtype) for key, value in arrays.items()} == {
        key: ((size, size, width), np.dtype(np.float32)) for key, width in widths.items()
    }
    return arrays


@pytest.mark.parametrize("told", ["option", "fit.json", "nothing"])
def test_maps_in_the_references_layout(ball: Ball, tmp_path: Path, told: str) -> None:
    folder = tmp_path / "avatar"
    ball.avatar.save(folder, {"stage": "fit"})
    if told == "fit.json":
        write_json(folder / "fit.json", {"uv_size": UV_SIZE})
    size = UV_SIZE if told == "option" else None
    assert export_maps(folder, tmp_path / "maps.npz", ball.assets, uv_size=size) == [tmp_path / "maps.npz"]
    arrays = read_maps(tmp_path / "maps.npz", UV_SIZE)
    local = ball.avatar.attributes
    rows, columns = ball.binding.texels.T.numpy()
    for key, values in {
        "local_position_uv": local.position, "rot_delta_uv": local.rotation, "local_scaling_uv": local.scale,
        "gs_opacity_uv": local.opacity, "gs_features_uv": local.color,
    }.items():  # fmt: skip
        np.testing.assert_array_equal(arrays[key][rows, columns], values)
        assert not arrays[key][~ball.binding.mask.numpy()].any()
    # row 0 is the top of the texture, which is the top of the ball: red
    assert arrays["gs_features_uv"][: UV_SIZE // 4, :, 0].max() > arrays["gs_features_uv"][UV_SIZE // 2 :, :, 0].max()
    provenance = read_provenance(tmp_path / "maps.npz")
    assert provenance is not None
    assert provenance["config"] == {"uv_size": UV_SIZE, "color_space": "sh_dc"}


def test_maps_of_an_avatar_without_texels(ball: Ball, tmp_path: Path) -> None:
    half = Avatar(GaussianAttributes(ball.avatar.attributes.channels[::2]), ball.avatar.faces[::2], ball.avatar.params)
    half.save(tmp_path / "half", {"stage": "fit"})
    for size, sizes in ((None, r"at 300, .* at 64"), (32, r"\d+ at 32")):
        with pytest.raises(UserError, match=rf"half: its \d+ Gaussians are not those .*{sizes}.*one Gaussian per"):
            export_maps(tmp_path / "half", tmp_path / "maps.npz", ball.assets, uv_size=size)
    # the size that is written beside the avatar is taken at its word
    write_json(tmp_path / "copy" / "fit.json", {"uv_size": 32})
    ball.avatar.save(tmp_path / "copy", {"stage": "fit"})
    with pytest.raises(UserError, match=r"at 32\)"):
        export_maps(tmp_path / "copy", tmp_path / "maps.npz", ball.assets)
    assert not (tmp_path / "maps.npz").exists()


@pytest.mark.parametrize(
    ("export", "output", "options", "message"),
    [
        (export_splats, "a.splat", {}, r"a\.splat: a file name that ends in \.ply is expected"),
        (export_splats, "folder.ply", {}, r"folder\.ply: is a folder; a file \(\.ply\) is written here"),
        (export_splats, "file/a.ply", {}, r"file: is a file"),
        (export_splats, "file", {"frames": "all"}, r"file: is a file"),
        (export_splats, "a.ply", {"frames": "0:2"}, r"a\.ply: 2 frames need a folder"),
        (export_splats, "a.ply", {"frames": "9"}, r"there is no timestep 9; .*flame_param\.npz has 4"),
        (export_splats, "a.ply", {"sh_degree": 4}, r"spherical-harmonics degree 4"),
        (export_splats, "a.ply", {"motion": Path("nowhere.npz")}, r"nowhere\.npz: no such file"),
        (export_splats, "avatar/point_cloud.ply", {}, r"point_cloud\.ply: would be overwritten, and is read"),
        (export_mesh, "a.fbx", {}, r"a\.fbx: a file name that ends in \.obj or \.ply or \.glb is expected"),
        (export_mesh, "a", {"frames": "all", "suffix": ".stl"}, r"format '\.stl': meshes are written as \.obj, \.ply"),
        (export_mesh, "a.glb", {"frames": "all"}, r"a\.glb: 4 frames need a folder"),
        (export_avatar, "file", {}, r"file: is a file"),
        (export_avatar, "avatar", {}, r"would be overwritten"),
        (export_maps, "a.npy", {}, r"a\.npy: a file name that ends in \.npz"),
        (export_maps, "a.npz", {"uv_size": 0}, r"UV size 0"),
        (export_maps, "avatar/flame_param.npz", {}, r"would be overwritten"),
    ],
)
def test_nothing_is_written_where_something_is_wrong(
    ball: Ball, tmp_path: Path, export: Export, output: str, options: dict[str, Any], message: str
) -> None:
    ball.avatar.save(tmp_path / "avatar", {"stage": "fit"})
    (tmp_path / "folder.ply").mkdir()
    (tmp_path / "file").write_text("x")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=message):
        export(tmp_path / "avatar", tmp_path / output, ball.assets, **options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(("export", "name"), [(export_splats, "a.ply"), (export_mesh, "a.obj"), (export_maps, "a.npz")])
def test_avatars_of_other_heads_are_refused(ball: Ball, tmp_path: Path, export: Export, name: str) -> None:
    avatar, count = ball.avatar, len(ball.head.faces)
    Avatar(avatar.attributes, avatar.faces + count, avatar.params).save(tmp_path / "faces", {"stage": "fit"})
    with pytest.raises(UserError, match=rf"faces/point_cloud\.ply: .* expected an integer from 0 to {count - 1}"):
        export(tmp_path / "faces", tmp_path / name, ball.assets)
    offset = torch.zeros(len(avatar.params.static_offset) + 1, 3)
    Avatar(avatar.attributes, avatar.faces, avatar.params.replace(static_offset=offset)).save(tmp_path / "vertices")
    with pytest.raises(UserError, match=r"vertices"):
        export(tmp_path / "vertices", tmp_path / name, ball.assets)
    assert not (tmp_path / name).exists()


def test_one_frame_goes_into_a_folder_too(ball: Ball, tmp_path: Path) -> None:
    paths = export_splats(ball.folder, tmp_path / "frames", ball.assets, frames="2")
    assert paths == [tmp_path / "frames" / "00002.ply"]
    (mesh,) = export_mesh(ball.folder, tmp_path / "meshes", ball.assets, suffix=".glb")
    assert mesh == tmp_path / "meshes" / "00000.glb"


def test_an_avatar_is_written_whole_or_not_at_all(ball: Ball, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("osgap.splat.avatar.save_ply", full)
    with pytest.raises(OSError, match="No space left"):
        export_avatar(ball.folder, tmp_path / "out", ball.assets)
    assert list(tmp_path.iterdir()) == []


def test_headers_stay_short(ball: Ball, tmp_path: Path) -> None:
    (path,) = export_splats(ball.folder, tmp_path / "a.ply", ball.assets)
    assert path.read_bytes().index(b"end_header\n") < 5000
    (glb,) = export_mesh(ball.folder, tmp_path / "a.glb", ball.assets)
    data = glb.read_bytes()
    tree = json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])
    assert tree["scenes"][0]["extras"]["provenance"]["stage"] == "export-mesh"

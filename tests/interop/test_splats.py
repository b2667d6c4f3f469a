"""World-space PLY: the format as readers take it, upright, to scale, and the same picture."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from plyfile import PlyData

from interop.balls import Ball, camera_array, make_ball
from osgap.interop.axes import Up
from osgap.interop.splats import load_splats, save_splats
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.splat.attributes import SH_C0
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import render

UPS = pytest.mark.parametrize("up", ["y", "-y"])


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Ball:
    return make_ball(tmp_path_factory.mktemp("ball"))


def one_set(ball: Ball, timestep: int = 1) -> Gaussians:
    batch = ball.avatar.gaussians(ball.head, [timestep])
    return Gaussians(batch.means[0], batch.rotations[0], batch.scales[0], batch.opacities[0], batch.colors[0])


def as_a_viewer_reads(path: Path) -> Gaussians:
    """The activations of 3D Gaussian Splatting, in the axes of the file."""
    vertex = PlyData.read(str(path)).elements[0]

    def columns(*names: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([np.asarray(vertex[name]) for name in names], axis=-1))

    rotations = columns("rot_0", "rot_1", "rot_2", "rot_3")
    torch.testing.assert_close(rotations.norm(dim=-1), torch.ones(len(rotations)))
    return Gaussians(
        means=columns("x", "y", "z"),
        rotations=rotations,
        scales=columns("scale_0", "scale_1", "scale_2").exp(),
        opacities=1 / (1 + torch.exp(-columns("opacity")[:, 0])),
        colors=(0.5 + SH_C0 * columns("f_dc_0", "f_dc_1", "f_dc_2")).clamp_min(0),
    )


def in_file_axes(cameras: Cameras, up: Up) -> Cameras:
    """The same cameras in a world that was turned as the file was."""
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])) if up == "-y" else torch.eye(4)
    return Cameras(cameras.world_to_camera @ turn, cameras.intrinsics, cameras.width, cameras.height)


@UPS
@pytest.mark.parametrize("sh_degree", [0, 3])
def test_the_same_picture(ball: Ball, tmp_path: Path, up: Up, sh_degree: int) -> None:
    gaussians = one_set(ball)
    save_splats(tmp_path / "a.ply", gaussians, raw=ball.avatar.attributes, up=up, sh_degree=sh_degree)
    expected = render(gaussians, camera_array(), torch.ones(3)).rgb
    found = render(as_a_viewer_reads(tmp_path / "a.ply"), in_file_axes(camera_array(), up), torch.ones(3)).rgb
    assert expected.std() > 0.1
    assert -10 * torch.log10((found - expected).square().mean()) > 90
    if up == "-y":  # and not by symmetry
        wrong = render(as_a_viewer_reads(tmp_path / "a.ply"), camera_array(), torch.ones(3)).rgb
        assert (wrong - expected).abs().mean() > 0.02


@UPS
def test_upright_and_to_scale(ball: Ball, tmp_path: Path, up: Up) -> None:
    save_splats(tmp_path / "a.ply", one_set(ball), raw=ball.avatar.attributes, up=up)
    gaussians = as_a_viewer_reads(tmp_path / "a.ply")
    red = gaussians.colors[:, 0] > 1  # the top of the ball
    height = gaussians.means[:, 1] if up == "y" else -gaussians.means[:, 1]
    assert height[red].min() > 0.03
    assert height[~red].max() < height[red].max()
    extent = gaussians.means.amax(0) - gaussians.means.amin(0)
    assert ((extent > 0.18) & (extent < 0.25)).all()  # 20 cm


def test_default_is_y_down_and_degree_3(ball: Ball, tmp_path: Path) -> None:
    save_splats(tmp_path / "a.ply", one_set(ball))
    vertex = PlyData.read(str(tmp_path / "a.ply")).elements[0]
    np.testing.assert_array_equal(vertex["y"], -one_set(ball).means[:, 1])
    assert "f_rest_44" in [p.name for p in vertex.properties]


def read_as_inria(path: Path) -> np.ndarray:
    """INRIA's viewer: the count from the third line, then rows of 62 floats after the header, unseen."""
    with path.open("rb") as file:
        first, second, third = (file.readline() for _ in range(3))
        assert (first, second) == (b"ply\n", b"format binary_little_endian 1.0\n")
        words = third.split()
        assert words[:2] == [b"element", b"vertex"]
        while file.readline() != b"end_header\n":
            pass
        return np.frombuffer(file.read(), "<f4").reshape(int(words[2]), 62)


def test_rows_as_inrias_viewer_takes_them(ball: Ball, tmp_path: Path) -> None:
    save_splats(tmp_path / "a.ply", one_set(ball), {"stage": "export-splats"}, raw=ball.avatar.attributes, up="y")
    rows, gaussians, local = read_as_inria(tmp_path / "a.ply"), one_set(ball), ball.avatar.attributes
    np.testing.assert_array_equal(rows[:, :3], gaussians.means)
    assert not rows[:, 3:6].any()
    np.testing.assert_array_equal(rows[:, 6:9], local.color)
    assert not rows[:, 9:54].any()
    np.testing.assert_array_equal(rows[:, 54], local.opacity[:, 0])
    np.testing.assert_array_equal(rows[:, 55:58], gaussians.scales.log())
    np.testing.assert_allclose(rows[:, 58:], gaussians.rotations, atol=1e-6)


def test_the_header_says_what_it_is_and_is_short(ball: Ball, tmp_path: Path) -> None:
    provenance = {"stage": "export-splats", "inputs": {f"file{i}": "0" * 64 for i in range(6)}}
    save_splats(tmp_path / "a.ply", one_set(ball), provenance, up="-y")
    header = (tmp_path / "a.ply").read_bytes()[:10240].decode("latin-1").split("end_header\n")
    assert len(header) == 2, "antimatter15's viewer reads 10 KB"
    assert re.search(r"^comment axes: .* y down, .*; unit: metre$", header[0], re.MULTILINE)
    assert read_provenance(tmp_path / "a.ply") == provenance
    data = PlyData.read(str(tmp_path / "a.ply"))
    assert [element.name for element in data.elements] == ["vertex"]
    assert {p.val_dtype for p in data.elements[0].properties} == {"f4"}


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(np.float32(low).item(), np.float32(high).item(), width=32, allow_nan=False)


@UPS
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, up: Up, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))

    def draw(shape: tuple[int, ...], low: float, high: float) -> torch.Tensor:
        return torch.from_numpy(data.draw(npst.arrays(np.float32, shape, elements=floats(low, high))))

    gaussians = Gaussians(
        means=draw((count, 3), -1e30, 1e30),
        rotations=draw((count, 4), -1e3, 1e3),
        scales=draw((count, 3), 0, 1e6),
        opacities=draw((count,), 0, 1),
        colors=draw((count, 3), 0, 50),
    )
    path = tmp_path_factory.mktemp("splats") / "a.ply"
    save_splats(path, gaussians, up=up, sh_degree=data.draw(st.sampled_from([0, 1, 2, 3])))
    rows = PlyData.read(str(path)).elements[0].data
    assert all(np.isfinite(rows[name]).all() for name in rows.dtype.names or ())
    loaded = load_splats(path, up)
    assert torch.equal(loaded.means.view(torch.int32), gaussians.means.view(torch.int32))
    torch.testing.assert_close(loaded.scales, gaussians.scales, rtol=2e-5, atol=1e-36)
    torch.testing.assert_close(loaded.opacities, gaussians.opacities, rtol=2e-5, atol=1e-7)
    torch.testing.assert_close(loaded.colors, gaussians.colors, rtol=1e-5, atol=1e-6)
    length = gaussians.rotations.double().norm(dim=-1, keepdim=True)
    for index in np.flatnonzero(length[:, 0] > 1e-15):
        expected = (gaussians.rotations[index].double() / length[index]).float()
        torch.testing.assert_close(loaded.rotations[index], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loaded.rotations.norm(dim=-1), torch.ones(count))


def test_the_avatars_own_values_come_back_exactly(ball: Ball, tmp_path: Path) -> None:
    """Colours that are out of range or opacities next to 1 lose nothing on the way."""
    channels = ball.avatar.attributes.channels.clone()
    channels[0, 10], channels[1, 10], channels[2, 11] = 60.0, -60.0, -9.0
    raw = type(ball.avatar.attributes)(channels)
    save_splats(tmp_path / "a.ply", one_set(ball), raw=raw)
    vertex = PlyData.read(str(tmp_path / "a.ply")).elements[0]
    np.testing.assert_array_equal(vertex["opacity"], raw.opacity[:, 0])
    for index in range(3):
        np.testing.assert_array_equal(vertex[f"f_dc_{index}"], raw.color[:, index])


def test_bad_gaussians_and_files(ball: Ball, tmp_path: Path) -> None:
    gaussians = one_set(ball)
    gaussians.scales[7, 1] = torch.inf
    with pytest.raises(UserError, match=r"a\.ply: scale_1 of Gaussian 7 would be inf"):
        save_splats(tmp_path / "a.ply", gaussians)
    with pytest.raises(ValueError, match="batch of 2"):
        save_splats(tmp_path / "a.ply", ball.avatar.gaussians(ball.head, [0, 1]))
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="no such file"):
        load_splats(tmp_path / "a.ply")
    (tmp_path / "a.ply").write_bytes(b"ply\nnothing")
    with pytest.raises(UserError, match="not a readable PLY"):
        load_splats(tmp_path / "a.ply")
    (tmp_path / "a.ply").write_bytes(b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n")
    with pytest.raises(UserError, match=r"lacks the properties y, z, f_dc_0"):
        load_splats(tmp_path / "a.ply")

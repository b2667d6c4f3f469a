"""OBJ, PLY and GLB of the posed head: exact, upright, and where the splats are."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from plyfile import PlyData

from interop.balls import Ball, make_ball
from osgap.interop.axes import Up
from osgap.interop.mesh import SAVERS, Mesh, posed_mesh, save_glb, save_mesh_ply, save_obj
from osgap.interop.splats import save_splats
from osgap.runtime.artifacts import read_provenance
from osgap.splat.gaussians import Gaussians

PROVENANCE = {"stage": "export-mesh", "subject": "ball", "inputs": {"point_cloud": "0" * 64}}


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Ball:
    return make_ball(tmp_path_factory.mktemp("ball"))


def read_obj(path: Path) -> dict[str, np.ndarray]:
    """Every line must be a comment or one of the three kinds."""
    rows: dict[str, list[list[float]]] = {"v": [], "vt": [], "f": []}
    for line in path.read_text().splitlines():
        kind, *words = line.split()
        if kind != "#":
            rows[kind].append([float(word) for item in words for word in item.split("/")])
    corners = np.array(rows["f"], np.int64).reshape(-1, 3, 2) - 1
    v, vt = (np.array(rows[kind]).astype(np.float32) for kind in ("v", "vt"))
    return {"vertices": v, "uvs": vt, "faces": corners[..., 0], "uv_faces": corners[..., 1]}


def read_glb(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON chunk, and the arrays of the one primitive; the container is checked by the specification's rules."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    assert size % 4 == 0
    tree = json.loads(data[20 : 20 + size])
    binary_size, kind = struct.unpack_from("<I4s", data, 20 + size)
    assert kind == b"BIN\0"
    assert binary_size % 4 == 0
    assert 28 + size + binary_size == len(data)
    binary = data[28 + size :]
    assert tree["buffers"][0]["byteLength"] <= len(binary) < tree["buffers"][0]["byteLength"] + 4

    primitive = tree["meshes"][0]["primitives"][0]
    arrays = {}
    for name, index in {**primitive["attributes"], "indices": primitive["indices"]}.items():
        accessor = tree["accessors"][index]
        view = tree["bufferViews"][accessor["bufferView"]]
        dtype, item = {5126: "<f4", 5125: "<u4"}[accessor["componentType"]], {"SCALAR": 1, "VEC2": 2, "VEC3": 3}
        width = item[accessor["type"]]
        assert view["byteOffset"] % 4 == 0
        assert view["byteLength"] == 4 * width * accessor["count"]
        target = 34963 if name == "indices" else 34962
        assert view.get("target", target) == target  # may be left out
        array = np.frombuffer(binary, dtype, width * accessor["count"], view["byteOffset"])
        arrays[name] = array.reshape(-1, width) if width > 1 else array
    return tree, arrays


def same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found.astype(np.float32).view(np.int32), expected.view(np.int32))


def test_obj_is_exact(ball: Ball, tmp_path: Path) -> None:
    mesh = posed_mesh(ball.head, ball.avatar.params, 2)
    save_obj(tmp_path / "a.obj", mesh, PROVENANCE)
    found = read_obj(tmp_path / "a.obj")
    same_bits(found["vertices"], ball.head.vertices(ball.avatar.params, [2])[0].numpy())
    same_bits(found["uvs"], ball.head.uvs.numpy())
    np.testing.assert_array_equal(found["faces"], ball.head.faces)
    np.testing.assert_array_equal(found["uv_faces"], ball.head.uv_faces)
    text = (tmp_path / "a.obj").read_text()
    assert json.loads("".join(line[2:] for line in text.splitlines()[1:] if line.startswith("# "))) == PROVENANCE
    assert "y up" in text.splitlines()[0]
    assert max(map(len, text.splitlines())) < 256
    loaded = trimesh.load_mesh(tmp_path / "a.obj", process=False)
    np.testing.assert_allclose(loaded.bounds, [found["vertices"].min(0), found["vertices"].max(0)], atol=1e-7)
    assert len(loaded.faces) == len(ball.head.faces)


def test_ply_is_exact(ball: Ball, tmp_path: Path) -> None:
    mesh = posed_mesh(ball.head, ball.avatar.params, 1)
    save_mesh_ply(tmp_path / "a.ply", mesh, PROVENANCE)
    vertex, face = PlyData.read(str(tmp_path / "a.ply")).elements
    assert (vertex.name, face.name) == ("vertex", "face")
    assert [(p.name, p.val_dtype) for p in vertex.properties] == [("x", "f4"), ("y", "f4"), ("z", "f4")]
    same_bits(np.stack([vertex[name] for name in "xyz"], -1), ball.head.vertices(ball.avatar.params, [1])[0].numpy())
    np.testing.assert_array_equal(np.stack(face["vertex_indices"]), ball.head.faces)
    assert read_provenance(tmp_path / "a.ply") == PROVENANCE
    assert len(trimesh.load_mesh(tmp_path / "a.ply", process=False).faces) == len(ball.head.faces)


def test_glb_is_valid_and_exact(ball: Ball, tmp_path: Path) -> None:
    mesh = posed_mesh(ball.head, ball.avatar.params, 0)
    save_glb(tmp_path / "a.glb", mesh, PROVENANCE)
    tree, arrays = read_glb(tmp_path / "a.glb")
    assert tree["asset"]["version"] == "2.0"
    assert tree["scenes"][0]["extras"]["provenance"] == PROVENANCE
    position = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    assert position["min"] == arrays["POSITION"].min(0).tolist()
    assert position["max"] == arrays["POSITION"].max(0).tolist()
    np.testing.assert_allclose(np.linalg.norm(arrays["NORMAL"], axis=-1), 1, atol=1e-6)
    # corner by corner, so that splitting at seams is right whatever the order of the vertices
    indices = arrays["indices"].reshape(-1, 3)
    same_bits(arrays["POSITION"][indices], mesh.vertices[mesh.faces])
    expected = mesh.uvs[mesh.uv_faces] * [1, -1] + [0, 1]
    np.testing.assert_allclose(arrays["TEXCOORD_0"][indices], expected, atol=1e-7)
    assert len(arrays["POSITION"]) == len(ball.head.uvs)  # split at the cut, and nowhere else


def test_glb_opens_in_trimesh(ball: Ball, tmp_path: Path) -> None:
    save_glb(tmp_path / "a.glb", posed_mesh(ball.head, ball.avatar.params, 0))
    scene = trimesh.load_scene(tmp_path / "a.glb")
    (loaded,) = scene.geometry.values()
    assert loaded.faces.shape == ball.head.faces.shape
    vertices = ball.head.vertices(ball.avatar.params, [0])[0].numpy()
    np.testing.assert_array_equal(np.asarray(loaded.triangles, np.float32), vertices[ball.head.faces.numpy()])
    uv = np.asarray(loaded.visual.uv)[loaded.faces]  # trimesh turns v upwards again
    np.testing.assert_allclose(uv, ball.head.uvs.numpy()[ball.head.uv_faces.numpy()], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_float32_comes_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    elements = st.floats(width=32, allow_nan=False, allow_infinity=False)
    vertices = data.draw(npst.arrays(np.float32, (4, 3), elements=elements))
    uvs = data.draw(npst.arrays(np.float32, (3, 2), elements=elements))
    mesh = Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]]), uvs, np.array([[0, 1, 2], [0, 2, 1]]), about="")
    folder = tmp_path_factory.mktemp("mesh")
    save_obj(folder / "a.obj", mesh)
    save_mesh_ply(folder / "a.ply", mesh)
    found = read_obj(folder / "a.obj")
    same_bits(found["vertices"], vertices)
    same_bits(found["uvs"], uvs)
    rows = PlyData.read(str(folder / "a.ply")).elements[0]
    same_bits(np.stack([rows[name] for name in "xyz"], -1), vertices)


@pytest.mark.parametrize("up", ["y", "-y"])
def test_mesh_and_splats_coincide(ball: Ball, tmp_path: Path, up: Up) -> None:
    """Gaussians of this avatar lie on the surface, but for what the expression bends it."""
    batch = ball.avatar.gaussians(ball.head, [3])
    fields = (batch.means, batch.rotations, batch.scales, batch.opacities, batch.colors)
    save_splats(tmp_path / "splats.ply", Gaussians(*(field[0] for field in fields)), up=up)
    rows = PlyData.read(str(tmp_path / "splats.ply")).elements[0]
    points = np.stack([rows[name] for name in "xyz"], axis=-1)
    for suffix, save in SAVERS.items():
        save(tmp_path / f"a{suffix}", posed_mesh(ball.head, ball.avatar.params, 3, up), None)
        loaded = trimesh.load_mesh(tmp_path / f"a{suffix}", process=False)
        assert isinstance(loaded, trimesh.Trimesh)
        triangles = np.asarray(loaded.triangles)[ball.avatar.faces.numpy()]
        distance = np.linalg.norm(trimesh.triangles.closest_point(triangles, points) - points, axis=-1)
        assert np.median(distance) < 1e-6
        assert distance.max() < 5e-3
        top = loaded.vertices[:, 1].argmax() if up == "y" else loaded.vertices[:, 1].argmin()
        expected = ball.head.vertices(ball.avatar.params, [3])[0]
        np.testing.assert_allclose(abs(loaded.vertices[top, 1]), expected[:, 1].max(), rtol=1e-6)


def test_damaged_writes_leave_nothing(ball: Ball, tmp_path: Path) -> None:
    mesh = posed_mesh(ball.head, ball.avatar.params, 0)
    broken = dataclasses.replace(mesh, faces=mesh.faces + len(mesh.vertices))
    with pytest.raises(IndexError):
        save_glb(tmp_path / "a.glb", broken)
    assert not list(tmp_path.iterdir())

"""The reference's own numbers on assets of FLAME's shapes, and a model that is not FLAME's.

`test_flame_sized.py` checks the same against plain code, wherever these numbers are not at hand.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams, full_static_offset, load_flame_param, read_flame_arrays
from osgap.head.texels import bind_texels
from osgap.head.triangles import triangle_frames
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.rig import to_world

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, torch.Tensor]:
    with np.load(shared / "parity" / "flame_io.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


@pytest.fixture(scope="module")
def flame(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    """The head of FLAME's shapes whose outputs these are."""
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run([sys.executable, str(shared / "parity" / "make_fake_flame.py"), str(folder), "0"], check=True)
    return load_head(
        HeadAssets(
            model=folder / "flame2023.pkl",
            masks=folder / "FLAME_masks.pkl",
            template=folder / "head_template_mesh.obj",
        )
    )


@pytest.fixture(scope="module")
def cc0(shared: Path) -> HeadModel:
    folder = shared / "captures_cc0" / "model"
    return load_head(
        HeadAssets(
            model=folder / "head_model.pkl", masks=folder / "head_masks.pkl", template=folder / "head_template.obj"
        )
    )


def params_of(reference: dict[str, torch.Tensor], sample: int, with_offset: bool) -> FlameParams:
    row = slice(sample, sample + 1)
    return FlameParams(
        shape=reference["in_shape"][sample],
        static_offset=reference["in_static_offset"][0] * with_offset,
        expr=reference["in_expr"][row],
        rotation=reference["in_rotation"][row],
        neck_pose=reference["in_neck"][row],
        jaw_pose=reference["in_jaw"][row],
        eyes_pose=reference["in_eyes"][row],
        translation=reference["in_translation"][row],
    )


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


def assert_same_rotation(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Quaternions agree up to sign."""
    assert_close(actual * (actual * expected).sum(-1, keepdim=True).sign(), expected)


def test_flame_gets_the_reference_teeth(flame: HeadModel, reference: dict[str, torch.Tensor]) -> None:
    assert flame.is_flame
    assert torch.equal(flame.faces, reference["out_faces"])
    assert torch.equal(flame.uv_faces, reference["out_textures_idx"])
    assert torch.equal(flame.skinning_weights[5023:], reference["out_lbs_weights_teeth"])
    assert_close(flame.uvs, reference["out_verts_uvs"])
    assert_close(flame.v_template, reference["out_v_template"])
    assert len(flame.masks["teeth"]) == 120
    assert sorted([*flame.masks["teeth_upper"].tolist(), *flame.masks["teeth_lower"].tolist()]) == list(
        range(5023, 5143)
    )
    assert flame.skinning_weights[flame.masks["teeth_upper"], 1].min() == 1


@pytest.mark.parametrize(("with_offset", "key"), [(True, "out_verts"), (False, "out_verts_nooffset")])
def test_vertices(flame: HeadModel, reference: dict[str, torch.Tensor], with_offset: bool, key: str) -> None:
    vertices = torch.cat([flame.vertices(params_of(reference, sample, with_offset)) for sample in range(4)])
    assert_close(vertices, reference[key])


def test_canonical_vertices(flame: HeadModel, reference: dict[str, torch.Tensor]) -> None:
    vertices = torch.cat([flame.canonical_vertices(params_of(reference, sample, True)) for sample in range(4)])
    assert_close(vertices, reference["out_verts_cano"])


def test_triangle_frames(flame: HeadModel, reference: dict[str, torch.Tensor]) -> None:
    frames = triangle_frames(reference["out_verts"], flame.faces)
    assert_close(frames.rotation, reference["out_face_R"])
    assert_close(frames.scale, reference["out_face_scale"])
    assert_close(frames.center, reference["out_face_center"])
    assert_same_rotation(frames.quaternion, reference["out_face_quat_wxyz"])


def test_gaussians_to_world(flame: HeadModel, reference: dict[str, torch.Tensor]) -> None:
    count = len(reference["out_gs_binding"])
    attributes = GaussianAttributes.from_parts(
        position=reference["out_gs_local_xyz"],
        rotation=reference["out_gs_local_rot"],
        scale=reference["out_gs_local_logscale"],
        opacity=torch.zeros(count, 1),
        color=torch.zeros(count, 3),
    )
    gaussians = to_world(attributes, triangle_frames(reference["out_verts"], flame.faces), reference["out_gs_binding"])
    assert_close(gaussians.means, reference["out_gs_xyz"])
    assert_close(gaussians.scales, reference["out_gs_scale"])
    assert_same_rotation(gaussians.rotations, reference["out_gs_rot"])


@pytest.mark.parametrize("size", [64, 256, 300])
def test_texel_binding_is_exact(flame: HeadModel, reference: dict[str, torch.Tensor], size: int) -> None:
    binding = bind_texels(flame.uvs, flame.uv_faces, size)
    map_of_faces = torch.full((size, size), -1, dtype=torch.int64)
    map_of_faces[binding.mask] = binding.faces
    assert torch.equal(map_of_faces, reference[f"out_pix_to_face_{size}"].long())


def test_other_topology_loads_as_it_is(cc0: HeadModel, shared: Path) -> None:
    assert not cc0.is_flame
    assert cc0.vertex_count == 5274
    assert cc0.faces.shape == (10368, 3)
    assert "teeth" not in cc0.masks
    for path in sorted((shared / "captures_cc0").glob("subject_*/flame_param/*.npz")):
        arrays = read_flame_arrays(path)
        params = load_flame_param(path, cc0.vertex_count)
        assert np.array_equal(params.static_offset.numpy(), full_static_offset(arrays["static_offset"], 5274, path))
        vertices = cc0.vertices(params)
        assert vertices.shape == (1, 5274, 3)
        assert vertices.isfinite().all()

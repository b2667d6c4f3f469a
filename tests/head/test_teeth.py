"""The teeth, piece by piece, on a mesh with FLAME's counts whose lips are two straight lines."""

from __future__ import annotations

import numpy as np
import pytest

from osgap.head.teeth import _LOWER_LIP, _UPPER_LIP, add_teeth, has_flame_topology

GAP = 0.01
ROWS = ("upper_root", "lower_root", "upper_edge", "lower_edge")
BACK = ("upper_root_back", "upper_edge_back", "lower_root_back", "lower_edge_back")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    template = random.normal(size=(5023, 3))
    x = np.linspace(-0.03, 0.03, 15)
    template[list(_UPPER_LIP)] = np.stack((x, np.full(15, 0.2 + GAP), np.full(15, 0.1)), axis=-1)
    template[list(_LOWER_LIP)] = np.stack((x, np.full(15, 0.2), np.full(15, 0.1)), axis=-1)
    return {
        "v_template": template.astype(np.float32),
        "shapedirs": random.normal(size=(5023, 3, 7)).astype(np.float32),
        "posedirs": random.normal(size=(5023, 3, 36)).astype(np.float32),
        "joint_regressor": random.normal(size=(5, 5023)).astype(np.float32),
        "skinning_weights": random.dirichlet(np.ones(5), 5023).astype(np.float32),
        "faces": random.integers(0, 5023, (9976, 3)),
        "uvs": random.random((5118, 2)).astype(np.float32),
        "uv_faces": random.integers(0, 5118, (9976, 3)),
    }


def test_what_was_there_stays(arrays: dict[str, np.ndarray]) -> None:
    result, masks = add_teeth(arrays, {"nose": np.array([1, 2])}, n_shape=4)
    for name, array in arrays.items():
        kept = result[name][:, :5023] if name == "joint_regressor" else result[name][: len(array)]
        np.testing.assert_array_equal(kept, array)
        assert result[name].dtype == array.dtype
    assert {name: len(rows) for name, rows in result.items()} == {
        "v_template": 5143,
        "shapedirs": 5143,
        "posedirs": 5143,
        "joint_regressor": 5,
        "skinning_weights": 5143,
        "faces": 10144,
        "uvs": 5238,
        "uv_faces": 10144,
    }
    assert {name: len(ids) for name, ids in masks.items()} == {
        "nose": 2,
        "teeth_upper": 60,
        "teeth_lower": 60,
        "teeth": 120,
    }


def test_rows_stand_between_the_lips(arrays: dict[str, np.ndarray]) -> None:
    """Heights and depths in gaps, from the middle between the lips."""
    result, masks = add_teeth(arrays, {}, n_shape=4)
    rows = result["v_template"][5023:].reshape(8, 15, 3)
    named = dict(zip((*ROWS, *BACK), rows, strict=True))
    for name, (height, depth) in {
        "upper_root": (2.1, -1.5),
        "upper_edge": (0.1, -1.5),
        "lower_edge": (-0.1, -1.9),
        "lower_root": (-2.1, -1.9),
    }.items():
        for row, extra in ((named[name], 0), (named[f"{name}_back"], -1)):
            np.testing.assert_allclose(row[:, 0], np.linspace(-0.03, 0.03, 15), atol=1e-7)
            np.testing.assert_allclose(row[:, 1], 0.2 + GAP / 2 + height * GAP, atol=1e-6)
            np.testing.assert_allclose(row[:, 2], 0.1 + (depth + extra) * GAP, atol=1e-6)
    for region in ("upper", "lower"):
        expected = [index for index, name in enumerate((*ROWS, *BACK)) if name.startswith(region)]
        assert sorted({(vertex - 5023) // 15 for vertex in masks[f"teeth_{region}"].tolist()}) == expected
        joint = {"upper": 1, "lower": 2}[region]
        weights = result["skinning_weights"][masks[f"teeth_{region}"]]
        np.testing.assert_array_equal(weights, np.eye(5)[[joint] * 60])


def test_only_identity_moves_them(arrays: dict[str, np.ndarray]) -> None:
    result, _ = add_teeth(arrays, {}, n_shape=4)
    added = result["shapedirs"][5023:].reshape(8, 15, 3, 7)
    lips = (arrays["shapedirs"][list(_UPPER_LIP)] + arrays["shapedirs"][list(_LOWER_LIP)]) / 2
    for row in added:
        np.testing.assert_allclose(row[..., :4], lips[..., :4], rtol=1e-6)
    assert not added[..., 4:].any()
    assert not result["posedirs"][5023:].any()
    assert not result["joint_regressor"][:, 5023:].any()


def test_uv_rows(arrays: dict[str, np.ndarray]) -> None:
    result, _ = add_teeth(arrays, {}, n_shape=4)
    rows = result["uvs"][5118:].reshape(8, 15, 2)
    np.testing.assert_allclose(rows[..., 0], np.tile(np.linspace(0.62, 0.38, 15), (8, 1)), atol=1e-6)
    heights = [0.9746, 0.9803, 0.9917, 0.9860, 0.9746, 0.9689, 0.9575, 0.9632]
    np.testing.assert_allclose(rows[..., 1], np.tile(np.array(heights)[:, None], (1, 15)), atol=1e-6)


@pytest.mark.parametrize(
    ("strip", "left", "right"),
    [
        # First row r, second row e or b as in the published order; the first quad (i = 0), then the last (i = 13).
        (0, [(0, 31, 30), (0, 1, 31)], [(13, 14, 43), (14, 44, 43)]),
        (1, [(60, 75, 76), (60, 76, 61)], [(73, 88, 74), (74, 88, 89)]),
        (2, [(75, 30, 76), (76, 30, 31)], [(88, 43, 44), (88, 44, 89)]),
        (3, [(45, 46, 15), (46, 16, 15)], [(58, 29, 28), (58, 59, 29)]),
        (4, [(90, 106, 105), (90, 91, 106)], [(103, 104, 118), (104, 119, 118)]),
        (5, [(105, 106, 45), (106, 46, 45)], [(118, 59, 58), (118, 119, 59)]),
    ],
)
def test_strips(
    arrays: dict[str, np.ndarray], strip: int, left: list[tuple[int, ...]], right: list[tuple[int, ...]]
) -> None:
    result, _ = add_teeth(arrays, {}, n_shape=4)
    for name, start in (("faces", 5023), ("uv_faces", 5118)):
        quads = result[name][9976 + 28 * strip : 9976 + 28 * (strip + 1)] - start
        assert quads[:2].tolist() == [list(triangle) for triangle in left]
        assert quads[-2:].tolist() == [list(triangle) for triangle in right]


def test_only_flame_gets_them() -> None:
    assert has_flame_topology(5023, 9976)
    assert not has_flame_topology(5274, 10368)
    assert not has_flame_topology(5023, 9975)

"""Teeth for FLAME, which has none: two curved strips behind the lips, as GaussianAvatars adds them.

Every vertex keeps its place in the order that GaussianAvatars defines, because avatar files refer to triangles by
index. The strips are built from the mean template, before any shape.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

FLAME_VERTICES = 5023
FLAME_FACES = 9976
TEETH_VERTICES = 120

_UPPER_LIP = (1713, 1715, 1716, 1735, 1696, 1694, 1657, 3543, 2774, 2811, 2813, 2850, 2833, 2832, 2830)
_LOWER_LIP = (1576, 1577, 1773, 1774, 1795, 1802, 1865, 3503, 2948, 2905, 2898, 2881, 2880, 2713, 2712)
_ROW = len(_UPPER_LIP)

# Rows of vertices in the order in which they are appended.
_UPPER_ROOT, _LOWER_ROOT, _UPPER_EDGE, _LOWER_EDGE = range(4)
_UPPER_ROOT_BACK, _UPPER_EDGE_BACK, _LOWER_ROOT_BACK, _LOWER_EDGE_BACK = range(4, 8)
_ROW_COUNT = 8
_UPPER_ROWS = (_UPPER_ROOT, _UPPER_EDGE, _UPPER_ROOT_BACK, _UPPER_EDGE_BACK)
_LOWER_ROWS = (_LOWER_ROOT, _LOWER_EDGE, _LOWER_ROOT_BACK, _LOWER_EDGE_BACK)

# A strip joins two rows by quads: corners 0, 1 are vertices i, i + 1 of its first row, corners 2, 3 those of its second
# row. Each quad is split into two triangles, along one diagonal in the left half of the mouth and along the other in
# the right half.
_Split = tuple[tuple[int, int, int], tuple[int, int, int]]
_STRIPS: tuple[tuple[int, int, _Split, _Split], ...] = (
    (_UPPER_ROOT, _UPPER_EDGE, ((0, 3, 2), (0, 1, 3)), ((0, 1, 2), (1, 3, 2))),
    (_UPPER_ROOT_BACK, _UPPER_EDGE_BACK, ((0, 2, 3), (0, 3, 1)), ((0, 2, 1), (1, 2, 3))),
    (_UPPER_EDGE_BACK, _UPPER_EDGE, ((0, 2, 1), (1, 2, 3)), ((0, 2, 3), (0, 3, 1))),
    (_LOWER_ROOT, _LOWER_EDGE, ((2, 3, 0), (3, 1, 0)), ((2, 1, 0), (2, 3, 1))),
    (_LOWER_ROOT_BACK, _LOWER_EDGE_BACK, ((0, 3, 2), (0, 1, 3)), ((0, 1, 2), (1, 3, 2))),
    (_LOWER_EDGE_BACK, _LOWER_EDGE, ((0, 1, 2), (1, 3, 2)), ((0, 3, 2), (0, 1, 3))),
)

_NECK, _JAW = 1, 2  # joints that carry the upper and the lower teeth
_ROW_LEVELS = (3, 2, 0, 1, 3, 4, 6, 5)  # height of each row in the UV layout, an index into the levels below
_UV_LEVELS = np.linspace(1 - 0.0083, 1 - 0.0425, 7)
_UV_LEFT, _UV_RIGHT = 0.62, 0.38


def has_flame_topology(vertex_count: int, face_count: int) -> bool:
    """Whether a mesh is FLAME's, so that vertex indices of the lips mean what they mean there."""
    return vertex_count == FLAME_VERTICES and face_count == FLAME_FACES


def add_teeth(
    arrays: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray], n_shape: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Append the teeth to FLAME's arrays: 120 vertices, 120 UVs and 168 triangles.

    Upper teeth follow the neck joint (the skull), lower teeth the jaw. Identity moves them like the lips, expression
    and pose-dependent corrections do not.

    Args:
        arrays: `v_template` `[V, 3]`, `shapedirs` `[V, 3, S + E]`, `posedirs` `[V, 3, P]`, `joint_regressor` `[J, V]`,
            `skinning_weights` `[V, J]`, `faces` `[F, 3]`, `uvs` `[VT, 2]`, `uv_faces` `[F, 3]`.
        masks: region -> vertex ids.
        n_shape: S, how many of the shape directions are identity.

    Returns:
        Copies of both with the teeth, and the masks `teeth_upper`, `teeth_lower` and `teeth`.
    """
    template = arrays["v_template"]
    vertex_count, uv_count = len(template), len(arrays["uvs"])
    strips = _strip_faces()

    identity = arrays["shapedirs"][:, :, :n_shape]
    lips = (identity[list(_UPPER_LIP)] + identity[list(_LOWER_LIP)]) / 2
    shapedirs = np.zeros((_ROW_COUNT * _ROW, *arrays["shapedirs"].shape[1:]), arrays["shapedirs"].dtype)
    shapedirs[:, :, :n_shape] = np.tile(lips, (_ROW_COUNT, 1, 1))

    weights = np.zeros((_ROW_COUNT, _ROW, arrays["skinning_weights"].shape[1]), arrays["skinning_weights"].dtype)
    weights[_UPPER_ROWS, :, _NECK] = 1
    weights[_LOWER_ROWS, :, _JAW] = 1

    added = {
        "v_template": _rows_of_vertices(template).reshape(-1, 3),
        "shapedirs": shapedirs,
        "posedirs": np.zeros((_ROW_COUNT * _ROW, *arrays["posedirs"].shape[1:]), arrays["posedirs"].dtype),
        "skinning_weights": weights.reshape(-1, weights.shape[-1]),
        "faces": strips + vertex_count,
        "uvs": _rows_of_uvs().reshape(-1, 2),
        "uv_faces": strips + uv_count,
    }
    result = {name: np.concatenate((arrays[name], rows.astype(arrays[name].dtype))) for name, rows in added.items()}
    regressor = arrays["joint_regressor"]
    result["joint_regressor"] = np.pad(regressor, ((0, 0), (0, _ROW_COUNT * _ROW)))

    ids = vertex_count + np.arange(_ROW_COUNT * _ROW).reshape(_ROW_COUNT, _ROW)
    upper, lower = ids[list(_UPPER_ROWS)].ravel(), ids[list(_LOWER_ROWS)].ravel()
    return result, {**masks, "teeth_upper": upper, "teeth_lower": lower, "teeth": ids.ravel()}


def _rows_of_vertices(template: np.ndarray) -> np.ndarray:
    """The rows, `[8, 15, 3]`, fitted between the lips of the mean head; all sizes in gaps between the lips."""
    upper, lower = template[list(_UPPER_LIP)].astype(np.float64), template[list(_LOWER_LIP)].astype(np.float64)
    gap = np.linalg.norm(upper - lower, axis=-1).mean()
    up, forward = np.array([0, gap, 0]), np.array([0, 0, gap])
    middle = (upper + lower) / 2
    middle[:, 1] = middle[:, 1].mean()
    middle -= 1.5 * forward

    rows = np.empty((_ROW_COUNT, _ROW, 3))
    rows[_UPPER_EDGE] = middle + 0.1 * up
    rows[_UPPER_ROOT] = rows[_UPPER_EDGE] + 2 * up
    rows[_LOWER_EDGE] = middle - 0.1 * up - 0.4 * forward
    rows[_LOWER_ROOT] = rows[_LOWER_EDGE] - 2 * up
    for front, back in (
        (_UPPER_ROOT, _UPPER_ROOT_BACK),
        (_UPPER_EDGE, _UPPER_EDGE_BACK),
        (_LOWER_ROOT, _LOWER_ROOT_BACK),
        (_LOWER_EDGE, _LOWER_EDGE_BACK),
    ):
        rows[back] = rows[front] - forward
    return rows


def _rows_of_uvs() -> np.ndarray:
    """UVs of the rows, `[8, 15, 2]`, in the free band at the top of FLAME's layout."""
    u = np.broadcast_to(np.linspace(_UV_LEFT, _UV_RIGHT, _ROW), (_ROW_COUNT, _ROW))
    v = np.broadcast_to(_UV_LEVELS[list(_ROW_LEVELS), None], (_ROW_COUNT, _ROW))
    return np.stack((u, v), axis=-1)


def _strip_faces() -> np.ndarray:
    """The 168 triangles, `[168, 3]`, in indices that start at the first tooth vertex."""
    faces = []
    for first, second, left, right in _STRIPS:
        for i in range(_ROW - 1):
            corners = (first * _ROW + i, first * _ROW + i + 1, second * _ROW + i, second * _ROW + i + 1)
            for triangle in left if i < _ROW // 2 else right:
                faces.append([corners[corner] for corner in triangle])
    return np.array(faces, np.int64)

"""Triangle frames and quaternions against plain loops and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from osgap.head.triangles import quaternion_from_matrix, triangle_frames, vertex_normals


def plain_frame(v0: np.ndarray, v1: np.ndarray, v2: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    first = (v1 - v0) / np.linalg.norm(v1 - v0)
    normal = np.cross(first, v2 - v0)
    normal /= np.linalg.norm(normal)
    third = np.cross(first, normal)
    scale = (np.linalg.norm(v1 - v0) + abs(third @ (v2 - v0))) / 2
    return np.stack((first, normal, third), axis=-1), scale, (v0 + v1 + v2) / 3


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31), batch=st.sampled_from([(), (1,), (3,), (2, 2)]), size=st.sampled_from([1e-3, 1.0, 1e3])
)
def test_frames_match_a_loop(seed: int, batch: tuple[int, ...], size: float) -> None:
    random = np.random.default_rng(seed)
    vertices = random.normal(size=(*batch, 9, 3)) * size
    faces = np.array([[0, 1, 2], [8, 3, 5], [4, 7, 6]])
    frames = triangle_frames(torch.tensor(vertices), torch.tensor(faces))
    assert frames.quaternion.shape == (*batch, 3, 4)
    for index in np.ndindex(*batch, 3):
        rotation, scale, center = plain_frame(*vertices[index[:-1]][faces[index[-1]]])
        np.testing.assert_allclose(frames.rotation[index], rotation, atol=1e-9)
        np.testing.assert_allclose(frames.scale[index], [scale], rtol=1e-9)
        np.testing.assert_allclose(frames.center[index], center, atol=1e-12 * size)
        quaternion = frames.quaternion[index].numpy()
        np.testing.assert_allclose(Rotation.from_quat(quaternion, scalar_first=True).as_matrix(), rotation, atol=1e-9)


def test_a_subset_of_faces_gives_the_same_frames() -> None:
    vertices = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    faces = torch.tensor([[0, 1, 2], [8, 3, 5], [4, 7, 6]])
    every, some = triangle_frames(vertices, faces), triangle_frames(vertices, faces[[2, 0]])
    assert torch.equal(some.rotation, every.rotation[:, [2, 0]])
    assert torch.equal(some.quaternion, every.quaternion[:, [2, 0]])
    assert torch.equal(some.scale, every.scale[:, [2, 0]])
    assert torch.equal(some.center, every.center[:, [2, 0]])


def test_frames_are_differentiable() -> None:
    vertices = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    faces = torch.tensor([[0, 1, 2], [3, 4, 5], [5, 1, 0]])

    def outputs(vertices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        frames = triangle_frames(vertices, faces)
        return frames.rotation, frames.quaternion, frames.scale, frames.center

    assert torch.autograd.gradcheck(outputs, vertices, fast_mode=True)


@pytest.mark.parametrize(
    "corners", [[[0.0, 0, 0]] * 3, [[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0.0, 0, 0], [0, 0, 0], [1, 0, 0]]]
)
def test_degenerate_triangles_stay_finite(corners: list[list[float]]) -> None:
    vertices = torch.tensor(corners, requires_grad=True)
    frames = triangle_frames(vertices, torch.tensor([[0, 1, 2]]))
    (frames.rotation.sum() + frames.quaternion.sum() + frames.scale.sum() + frames.center.sum()).backward()
    assert frames.quaternion.isfinite().all()
    assert frames.rotation.isfinite().all()
    assert vertices.grad is not None
    assert vertices.grad.isfinite().all()


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(5, 2\)"):
        triangle_frames(torch.zeros(5, 2), torch.zeros(1, 3, dtype=torch.int64))


def half_turns() -> list[list[float]]:
    """Rotation vectors of half turns and nearly so, about axes where the usual formulas lose their footing."""
    axes = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, -1], [0, 1, 1], [1, 1, 1], [1, 1e-6, 0]], float)
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    return [(axis * angle).tolist() for axis in axes for angle in (np.pi, np.pi - 1e-7, np.pi - 1e-3, 2 * np.pi / 3, 0)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quaternions_of_half_turns(dtype: torch.dtype) -> None:
    rotations = Rotation.from_rotvec(half_turns())
    quaternion = quaternion_from_matrix(torch.tensor(rotations.as_matrix(), dtype=dtype)).double().numpy()
    np.testing.assert_allclose(np.linalg.norm(quaternion, axis=-1), 1, atol=1e-6)
    agreement = np.abs((quaternion * rotations.as_quat(scalar_first=True)).sum(-1))
    np.testing.assert_allclose(agreement, 1, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_quaternions_match_scipy_with_gradient(components: list[float]) -> None:
    rotation = Rotation.from_quat(components, scalar_first=True)
    matrix = torch.tensor(rotation.as_matrix())[None]
    quaternion = quaternion_from_matrix(matrix)[0].numpy()
    expected = rotation.as_quat(scalar_first=True)
    np.testing.assert_allclose(quaternion * np.sign(quaternion @ expected), expected, atol=1e-9)

    # Along a rotation about a fixed axis w, dq/dt = (0, w) q / 2.
    axis = np.array([0.3, -0.8, 0.5])
    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    cross = torch.tensor([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    moved = quaternion_from_matrix(torch.matrix_exp(step * cross) @ matrix[0])
    slope = np.array([torch.autograd.grad(component, step, retain_graph=True)[0].item() for component in moved])
    w, v = quaternion[0], quaternion[1:]
    expected_slope = 0.5 * np.concatenate(([-axis @ v], w * axis + np.cross(axis, v)))
    np.testing.assert_allclose(slope, expected_slope, atol=1e-7)


def test_normals_of_a_ball_point_outwards() -> None:
    points = np.random.default_rng(0).normal(size=(300, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    faces = ConvexHull(points).simplices
    a, b, c = (points[faces[:, k]] for k in range(3))
    inwards = (np.cross(b - a, c - a) * a).sum(1) < 0
    faces[inwards] = faces[inwards][:, ::-1]
    normals = vertex_normals(3 * points.astype(np.float32) + 5, faces)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    assert (normals * points).sum(1).min() > 0.95


def test_a_normal_weighs_triangles_by_area() -> None:
    corners = np.array([[0, 0, 0], [2, 0, 0], [0, 3, 0], [0, 0, 4]], np.float32)
    normals = vertex_normals(corners, np.array([[0, 1, 2], [0, 2, 3]]))
    np.testing.assert_allclose(normals[0], np.array([12, 0, 6]) / np.hypot(12, 6))
    np.testing.assert_allclose(normals[[1, 3]], [[0, 0, 1], [1, 0, 0]])


def test_a_vertex_of_no_triangle_has_a_normal() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]], np.float32)
    np.testing.assert_array_equal(vertex_normals(corners, np.array([[0, 2, 1]])), [[0, 0, -1]] * 3 + [[0, 0, 1]])

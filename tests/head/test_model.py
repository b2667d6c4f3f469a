"""The head model against a plain float64 version that loops over joints and vertices."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from osgap.head.model import HeadModel, rotation_matrices
from osgap.head.params import FlameParams
from osgap.runtime.errors import UserError


def random_params(head: HeadModel, timesteps: int, seed: int = 0, *, size: float = 1.0) -> FlameParams:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * scale * size

    return FlameParams(
        shape=normal(300, scale=1),
        static_offset=normal(head.vertex_count, 3, scale=0.01),
        expr=normal(timesteps, 100, scale=1),
        rotation=normal(timesteps, 3, scale=1),
        neck_pose=normal(timesteps, 3, scale=0.5),
        jaw_pose=normal(timesteps, 3, scale=0.5),
        eyes_pose=normal(timesteps, 6, scale=0.5),
        translation=normal(timesteps, 3, scale=1),
    )


def plain_vertices(head: HeadModel, params: FlameParams) -> np.ndarray:
    """FLAME's equations, one vertex and one joint at a time."""
    model = {
        item.name: getattr(head, item.name).double().numpy()
        for item in dataclasses.fields(head)
        if isinstance(getattr(head, item.name), torch.Tensor)
    }
    result = []
    for t in range(params.timesteps):
        betas = torch.cat((params.shape, params.expr[t])).double().numpy()
        shaped = model["v_template"] + model["shapedirs"] @ betas + params.static_offset.double().numpy()
        joints = model["joint_regressor"] @ shaped
        pose = torch.cat((params.rotation[t], params.neck_pose[t], params.jaw_pose[t], params.eyes_pose[t]))
        turns = Rotation.from_rotvec(pose.double().numpy().reshape(5, 3)).as_matrix()
        feature = np.concatenate([(turn - np.eye(3)).ravel() for turn in turns[1:]])
        posed = shaped + (feature @ model["posedirs"]).reshape(-1, 3)
        transforms: list[np.ndarray] = []
        for joint, parent in enumerate(head.parents):
            local = np.eye(4)
            local[:3, :3] = turns[joint]
            local[:3, 3] = joints[joint] if parent < 0 else joints[joint] - joints[parent]
            transforms.append(local if parent < 0 else transforms[parent] @ local)
        vertices = np.zeros_like(shaped)
        for joint, transform in enumerate(transforms):
            moved = (posed - joints[joint]) @ transform[:3, :3].T + transform[:3, 3]
            vertices += model["skinning_weights"][:, joint : joint + 1] * moved
        result.append(vertices + params.translation[t].double().numpy())
    return np.stack(result)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), timesteps=st.integers(0, 4), size=st.sampled_from([0.0, 1e-4, 1.0, 3.0]))
def test_vertices_match_the_equations(small_head: HeadModel, seed: int, timesteps: int, size: float) -> None:
    params = random_params(small_head, timesteps, seed, size=size)
    vertices = small_head.vertices(params)
    assert vertices.shape == (timesteps, small_head.vertex_count, 3)
    if timesteps:
        np.testing.assert_allclose(vertices, plain_vertices(small_head, params), atol=2e-6 * max(1, size))


def test_another_tree_of_joints(small_head: HeadModel) -> None:
    head = dataclasses.replace(small_head, parents=(-1, 0, 0, 2, 3))
    params = random_params(head, 2)
    np.testing.assert_allclose(head.vertices(params), plain_vertices(head, params), atol=2e-6)


def test_neutral_person_is_the_template(small_head: HeadModel) -> None:
    params = random_params(small_head, 2, size=0)
    expected = small_head.v_template.expand(2, -1, -1)
    # The fixture's skinning weights sum to 1 only up to rounding.
    torch.testing.assert_close(small_head.vertices(params), expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(small_head.canonical_vertices(params), expected, atol=0, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    vector=st.lists(st.floats(-4, 4), min_size=3, max_size=3),
    exponent=st.sampled_from([0, -3, -5, -8, -12]),
)
def test_rotations_match_scipy(vector: list[float], exponent: int) -> None:
    rotvec = np.array(vector) * 10.0**exponent
    expected = Rotation.from_rotvec(rotvec).as_matrix()
    np.testing.assert_allclose(rotation_matrices(torch.tensor(rotvec)), expected, atol=1e-8)
    actual = rotation_matrices(torch.tensor(rotvec, dtype=torch.float32))
    np.testing.assert_allclose(actual, expected, atol=2e-6)


@pytest.mark.parametrize("size", [0.0, 1e-6, 0.3, np.pi])
def test_gradient_of_rotations(size: float) -> None:
    vectors = torch.tensor([[1.0, -0.5, 0.2], [0.0, 0.0, 1.0]], dtype=torch.float64) * size
    assert torch.autograd.gradcheck(rotation_matrices, vectors.requires_grad_(), atol=1e-6)


def test_gradient_of_rotations_at_zero_is_exact_in_float32() -> None:
    vector = torch.zeros(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(rotation_matrices(vector)[2, 1], vector)
    assert gradient.tolist() == [1.0, 0.0, 0.0]


def test_vertices_are_differentiable_in_everything(small_head: HeadModel) -> None:
    changes = {
        item.name: getattr(small_head, item.name).double()
        for item in dataclasses.fields(small_head)
        if isinstance(getattr(small_head, item.name), torch.Tensor)
        and getattr(small_head, item.name).is_floating_point()
    }
    head = dataclasses.replace(small_head, **changes)
    params = random_params(head, 2)
    names = [item.name for item in dataclasses.fields(params)]
    values = [getattr(params, name).double().requires_grad_() for name in names]
    weights = torch.randn(2, head.vertex_count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss(*arguments: torch.Tensor) -> torch.Tensor:
        return (head.vertices(FlameParams(**dict(zip(names, arguments, strict=True)))) * weights).sum()

    # fast_mode: random projections of the Jacobian instead of every column of 300 + 200 + 144 inputs
    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


def test_timesteps_are_selected_in_order(small_head: HeadModel) -> None:
    params = random_params(small_head, 5)
    everything = small_head.vertices(params)
    for timesteps in (3, [3, 0, 3], torch.tensor([4, 1]), np.array([2]), slice(1, 4)):
        index = [timesteps] if isinstance(timesteps, int) else timesteps
        torch.testing.assert_close(small_head.vertices(params, timesteps), everything[index], atol=1e-6, rtol=0)


def test_shaped_person_is_reused_but_never_stale(small_head: HeadModel) -> None:
    head = dataclasses.replace(small_head)
    params = random_params(head, 1)
    before = head.vertices(params)
    assert head._person_of(params) is head._person_of(params.select([0, 0]))
    params.shape.mul_(2)
    changed = head.vertices(params)
    assert (changed - before).abs().max() > 1e-4
    np.testing.assert_allclose(changed, plain_vertices(head, params), atol=2e-6)
    other = params.replace(static_offset=params.static_offset + 0.5)
    np.testing.assert_allclose(head.vertices(other), plain_vertices(head, other), atol=2e-6)
    np.testing.assert_allclose(head.vertices(params), plain_vertices(head, params), atol=2e-6)
    trained = params.replace(shape=params.shape.clone().requires_grad_())
    assert head.vertices(trained).requires_grad


def test_training_works_after_a_preview_in_inference_mode(small_head: HeadModel) -> None:
    head = dataclasses.replace(small_head)
    params = random_params(head, 1)
    with torch.inference_mode():
        preview = head.vertices(params)
    trained = params.replace(
        expr=params.expr.clone().requires_grad_(), jaw_pose=params.jaw_pose.clone().requires_grad_()
    )
    vertices = head.vertices(trained)
    vertices.sum().backward()
    assert trained.expr.grad is not None
    torch.testing.assert_close(vertices.detach(), preview.clone())


def test_offset_of_another_head_is_refused(small_head: HeadModel) -> None:
    params = random_params(small_head, 1).replace(static_offset=torch.zeros(7, 3))
    with pytest.raises(UserError, match=r"\(7, 3\).*48 vertices"):
        small_head.vertices(params)


def test_moving_to_another_device_keeps_the_values(small_head: HeadModel) -> None:
    assert small_head.to("cpu") is small_head
    moved = small_head.to("meta")
    assert moved.device.type == "meta"
    assert moved.masks["nose"].device.type == "meta"
    assert moved.parents == small_head.parents

"""From triangle-local to world-space Gaussians, against one Gaussian at a time with SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from osgap.head.triangles import triangle_frames
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.gaussians import Gaussians
from osgap.splat.rig import bind_triangles, pose, quaternion_product, to_world

FACES = torch.tensor([[0, 1, 2], [3, 4, 5], [1, 6, 4], [2, 6, 0]])
BOUND = torch.tensor([2, 0, 0, 3, 2])  # nothing on face 1


def random_case(
    seed: int, batch: tuple[int, ...], width: int = 14, dtype: torch.dtype = torch.float64
) -> tuple[GaussianAttributes, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    channels = torch.randn(len(BOUND), width, generator=random, dtype=dtype)
    return GaussianAttributes(channels), torch.randn(*batch, 7, 3, generator=random, dtype=dtype)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), batch=st.sampled_from([(), (1,), (3,)]))
def test_world_gaussians_match_one_at_a_time(seed: int, batch: tuple[int, ...]) -> None:
    attributes, vertices = random_case(seed, batch)
    gaussians = to_world(attributes, triangle_frames(vertices, FACES), BOUND)
    assert gaussians.means.shape == (*batch, 5, 3)
    assert gaussians.opacities.shape == (*batch, 5)
    for index in np.ndindex(*batch, 5):
        corners = vertices[index[:-1]].numpy()[FACES[BOUND[index[-1]]].numpy()]
        edge = corners[1] - corners[0]
        axes = np.empty((3, 3))
        axes[:, 0] = edge / np.linalg.norm(edge)
        axes[:, 1] = np.cross(axes[:, 0], corners[2] - corners[0])
        axes[:, 1] /= np.linalg.norm(axes[:, 1])
        axes[:, 2] = np.cross(axes[:, 0], axes[:, 1])
        scale = (np.linalg.norm(edge) + abs(axes[:, 2] @ (corners[2] - corners[0]))) / 2

        raw = attributes.channels[index[-1]].numpy()
        np.testing.assert_allclose(gaussians.means[index], scale * axes @ raw[:3] + corners.mean(0), atol=1e-9)
        np.testing.assert_allclose(gaussians.scales[index], np.exp(raw[7:10]) * scale, rtol=1e-9)
        expected = Rotation.from_matrix(axes) * Rotation.from_quat(raw[3:7], scalar_first=True)
        actual = Rotation.from_quat(gaussians.rotations[index].numpy(), scalar_first=True)
        np.testing.assert_allclose(actual.as_matrix(), expected.as_matrix(), atol=1e-7)
        np.testing.assert_allclose(gaussians.opacities[index], 1 / (1 + np.exp(-raw[10])))
        np.testing.assert_allclose(gaussians.colors[index], np.maximum(0.5 + 0.28209479177387814 * raw[11:14], 0))
    assert gaussians.features is None


def fields(gaussians: Gaussians) -> list[torch.Tensor]:
    named = [gaussians.means, gaussians.rotations, gaussians.scales, gaussians.opacities, gaussians.colors]
    return named if gaussians.features is None else [*named, gaussians.features]


@pytest.mark.parametrize("batch", [(), (3,)])
def test_only_carrying_triangles_are_needed(batch: tuple[int, ...]) -> None:
    attributes, vertices = random_case(0, batch, width=16)
    bound = bind_triangles(FACES, BOUND)
    assert bound.triangles.tolist() == FACES[[0, 2, 3]].tolist()
    expected = to_world(attributes, triangle_frames(vertices, FACES), BOUND)
    for a, b in zip(fields(pose(attributes, vertices, bound)), fields(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert expected.features is not None
    assert torch.equal(expected.features, attributes.channels[:, 14:].expand(*batch, -1, -1))


def test_batched_attributes_on_batched_vertices() -> None:
    attributes, vertices = random_case(0, (3,))
    bound = bind_triangles(FACES, BOUND)
    channels = torch.stack([attributes.channels * factor for factor in (1.0, 0.5, 2.0)])
    together = pose(GaussianAttributes(channels), vertices, bound)
    for sample in range(3):
        alone = pose(GaussianAttributes(channels[sample]), vertices[sample], bound)
        for a, b in zip(fields(together), fields(alone), strict=True):
            torch.testing.assert_close(a[sample], b, rtol=0, atol=1e-12)
    shared_vertices = pose(GaussianAttributes(channels), vertices[0], bound)
    assert shared_vertices.means.shape == (3, 5, 3)
    torch.testing.assert_close(shared_vertices.means[0], together.means[0])


@pytest.mark.parametrize("batch", [(), (2,)])
def test_gradients(batch: tuple[int, ...]) -> None:
    attributes, vertices = random_case(3, batch, width=15)
    bound = bind_triangles(FACES, BOUND)

    def outputs(channels: torch.Tensor, vertices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(fields(pose(GaussianAttributes(channels), vertices, bound)))

    inputs = (attributes.channels.requires_grad_(), vertices.requires_grad_())
    assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_quaternion_product_composes_rotations(seed: int) -> None:
    left, right = np.random.default_rng(seed).normal(size=(2, 4, 4))
    product = quaternion_product(torch.tensor(left), torch.tensor(right)).numpy()
    expected = Rotation.from_quat(left, scalar_first=True) * Rotation.from_quat(right, scalar_first=True)
    np.testing.assert_allclose(
        Rotation.from_quat(product, scalar_first=True).as_matrix(), expected.as_matrix(), atol=1e-9
    )
    lengths = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(product, axis=-1), lengths)


def test_wrong_counts_are_named() -> None:
    attributes, vertices = random_case(0, ())
    with pytest.raises(ValueError, match="5 Gaussians but 4"):
        to_world(attributes, triangle_frames(vertices, FACES), BOUND[:4])

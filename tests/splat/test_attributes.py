"""Channel order, activations and UV maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from osgap.head.texels import bind_texels
from osgap.splat.attributes import CHANNELS, N_CHANNELS, GaussianAttributes, rgb_to_sh, sh_to_rgb


def test_channels_cover_every_number_once() -> None:
    order = [index for part in CHANNELS.values() for index in range(part.start, part.stop)]
    assert order == list(range(N_CHANNELS))
    assert list(CHANNELS) == ["position", "rotation", "scale", "opacity", "color"]


def test_parts_and_views_agree() -> None:
    parts = {
        name: torch.randn(2, 5, part.stop - part.start, generator=torch.Generator().manual_seed(part.start))
        for name, part in CHANNELS.items()
    }
    features = torch.randn(2, 5, 3)
    for attributes in (
        GaussianAttributes.from_parts(**parts),
        GaussianAttributes.from_parts(**parts, features=features),
    ):
        for name, part in parts.items():
            assert torch.equal(getattr(attributes, name), part)
        assert len(attributes) == 5
    assert GaussianAttributes.from_parts(**parts).features is None
    with_features = GaussianAttributes.from_parts(**parts, features=features).features
    assert with_features is not None
    assert torch.equal(with_features, features)
    with pytest.raises(ValueError, match=r"scale has shape \(2, 5, 1\), expected \(2, 5, 3\)"):
        GaussianAttributes.from_parts(**{**parts, "scale": parts["opacity"]})
    with pytest.raises(ValueError, match="13"):
        GaussianAttributes(torch.zeros(5, 13))


def test_activations() -> None:
    channels = torch.randn(7, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    attributes, raw = GaussianAttributes(channels), channels.numpy()
    np.testing.assert_allclose(attributes.scales(), np.exp(raw[:, 7:10]))
    np.testing.assert_allclose(attributes.opacities(), 1 / (1 + np.exp(-raw[:, 10])))
    norm = np.linalg.norm(raw[:, 3:7], axis=-1, keepdims=True)
    np.testing.assert_allclose(attributes.rotations(), raw[:, 3:7] / norm)
    np.testing.assert_allclose(attributes.colors(), np.maximum(0.5 + 0.28209479177387814 * raw[:, 11:14], 0))
    assert (attributes.colors() == 0).any()


def test_zero_quaternion_stays_finite() -> None:
    channels = torch.zeros(1, 14, requires_grad=True)
    GaussianAttributes(channels).rotations().sum().backward()
    assert channels.grad is not None
    assert channels.grad.isfinite().all()


@given(st.floats(0, 1))
def test_colours_round_trip(value: float) -> None:
    rgb = torch.tensor([value], dtype=torch.float64)
    np.testing.assert_allclose(sh_to_rgb(rgb_to_sh(rgb)), rgb, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(4, 20), batch=st.sampled_from([(), (2,)]), width=st.sampled_from([14, 17]), seed=st.integers(0, 99)
)
def test_uv_maps_round_trip(size: int, batch: tuple[int, ...], width: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    uvs = torch.cat((torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]]), torch.rand(3, 2, generator=random)))
    binding = bind_texels(uvs, torch.tensor([[0, 1, 2], [3, 4, 5]]), size)
    channels = torch.randn(*batch, len(binding), width, generator=random)
    uv = GaussianAttributes(channels).to_uv(binding)
    assert uv.shape == (*batch, size, size, width)
    assert not uv[..., ~binding.mask, :].any()
    row, column = binding.texels[len(binding) // 2].tolist()
    assert torch.equal(uv[..., row, column, :], channels[..., len(binding) // 2, :])
    assert torch.equal(GaussianAttributes.from_uv(uv, binding).channels, channels)


def test_uv_maps_pass_gradients_and_check_sizes() -> None:
    binding = bind_texels(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]]), torch.tensor([[0, 1, 2]]), 6)
    channels = torch.randn(len(binding), 14, requires_grad=True)
    (GaussianAttributes.from_uv(GaussianAttributes(channels).to_uv(binding) * 3, binding).channels).sum().backward()
    assert channels.grad is not None
    assert torch.equal(channels.grad, torch.full_like(channels, 3))
    with pytest.raises(ValueError, match="covered texels"):
        GaussianAttributes(torch.zeros(3, 14)).to_uv(binding)
    with pytest.raises(ValueError, match="size 6"):
        GaussianAttributes.from_uv(torch.zeros(7, 7, 14), binding)

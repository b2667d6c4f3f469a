"""An avatar on disk and in motion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from osgap.head.model import HeadModel
from osgap.head.params import MOTION_WIDTHS, FlameParams
from osgap.head.texels import bind_texels
from osgap.head.triangles import triangle_frames
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.avatar import Avatar
from osgap.splat.rig import to_world


def make(head: HeadModel, timesteps: int = 3, seed: int = 0) -> Avatar:
    random = torch.Generator().manual_seed(seed)
    binding = bind_texels(head.uvs, head.uv_faces, 12)
    motion = {name: torch.randn(timesteps, width, generator=random) * 0.2 for name, width in MOTION_WIDTHS.items()}
    params = FlameParams(
        shape=torch.randn(300, generator=random),
        static_offset=torch.randn(head.vertex_count, 3, generator=random) * 0.01,
        **motion,
    )
    return Avatar(GaussianAttributes(torch.randn(len(binding), 14, generator=random)), binding.faces, params)


def test_round_trip_is_bit_exact(small_head: HeadModel, tmp_path: Path) -> None:
    avatar = make(small_head)
    avatar.save(tmp_path / "avatar", {"stage": "fit", "subject": "017"})
    assert sorted(path.name for path in (tmp_path / "avatar").iterdir()) == ["flame_param.npz", "point_cloud.ply"]
    loaded = Avatar.load(tmp_path / "avatar")
    assert torch.equal(loaded.attributes.channels, avatar.attributes.channels)
    assert torch.equal(loaded.faces, avatar.faces)
    assert torch.equal(loaded.params.static_offset, avatar.params.static_offset)
    for name, value in avatar.params.motion.items():
        assert torch.equal(loaded.params.motion[name], value)
    for path in (tmp_path / "avatar").iterdir():
        assert read_provenance(path) == {"stage": "fit", "subject": "017"}


def test_equal_avatars_are_equal_bytes(small_head: HeadModel, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(small_head).save(tmp_path / name, {"stage": "fit"})
    for name in ("point_cloud.ply", "flame_param.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_gaussians_ride_on_the_posed_head(small_head: HeadModel) -> None:
    avatar = make(small_head)
    gaussians = avatar.gaussians(small_head, [2, 0])
    vertices = small_head.vertices(avatar.params, [2, 0])
    expected = to_world(avatar.attributes, triangle_frames(vertices, small_head.faces), avatar.faces)
    torch.testing.assert_close(gaussians.means, expected.means)
    torch.testing.assert_close(gaussians.rotations, expected.rotations)
    torch.testing.assert_close(gaussians.scales, expected.scales)
    assert avatar.gaussians(small_head).means.shape == (3, len(avatar.faces), 3)
    assert avatar.gaussians(small_head, 1).opacities.shape == (1, len(avatar.faces))


def test_moving_the_head_moves_the_gaussians(small_head: HeadModel) -> None:
    """A rigid motion of the whole head is the same rigid motion of every Gaussian."""
    avatar = make(small_head, timesteps=1)
    shift = torch.tensor([[1.0, -2.0, 3.0]])
    moved = avatar.params.replace(translation=avatar.params.translation + shift)
    before, after = avatar.gaussians(small_head), avatar.gaussians(small_head, params=moved)
    torch.testing.assert_close(after.means, before.means + shift, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.rotations, before.rotations, atol=1e-4, rtol=0)


def test_another_persons_motion(small_head: HeadModel) -> None:
    avatar, other = make(small_head), make(small_head, timesteps=5, seed=1)
    driven = avatar.params.driven_by(other.params)
    gaussians = avatar.gaussians(small_head, 4, params=driven)
    expected = to_world(
        avatar.attributes, triangle_frames(small_head.vertices(driven.select(4)), small_head.faces), avatar.faces
    )
    torch.testing.assert_close(gaussians.means, expected.means)


def test_gradients_reach_attributes_and_parameters(small_head: HeadModel) -> None:
    avatar = make(small_head)
    channels = avatar.attributes.channels.clone().requires_grad_()
    motion = {name: value.clone().requires_grad_() for name, value in avatar.params.motion.items()}
    shape = avatar.params.shape.clone().requires_grad_()
    trained = Avatar(GaussianAttributes(channels), avatar.faces, avatar.params.replace(shape=shape, **motion))
    gaussians = trained.gaussians(small_head, [1])
    outputs = (gaussians.means, gaussians.rotations, gaussians.scales, gaussians.opacities, gaussians.colors)
    sum(output.square().sum() for output in outputs).backward()  # type: ignore[union-attr]
    assert channels.grad is not None
    assert (channels.grad != 0).any(0).all()
    assert shape.grad is not None
    assert (shape.grad != 0).all()
    for name, value in motion.items():
        assert value.grad is not None, name
        assert (value.grad[1] != 0).all(), name
        assert not value.grad[[0, 2]].any(), name


def test_preview_in_inference_mode_then_training(small_head: HeadModel) -> None:
    gradients = []
    for previews in (0, 1):
        avatar = make(small_head)
        with torch.inference_mode():
            for _ in range(previews):
                avatar.gaussians(small_head)
        trained = avatar.params.replace(expr=avatar.params.expr.clone().requires_grad_())
        means = avatar.gaussians(small_head, params=trained).means
        gradients.append(torch.autograd.grad(means.square().sum(), trained.expr)[0])
    assert gradients[0].abs().min() > 0
    assert torch.equal(*gradients)


def test_avatar_of_another_head_is_refused(small_head: HeadModel) -> None:
    avatar = make(small_head)
    too_far = Avatar(avatar.attributes, avatar.faces + 60, avatar.params)
    with pytest.raises(UserError, match="but the head model has 70 triangles"):
        too_far.gaussians(small_head)
    params = avatar.params.replace(static_offset=torch.zeros(50, 3))
    with pytest.raises(UserError, match="48 vertices"):
        avatar.gaussians(small_head, params=params)


def test_incomplete_folder_is_refused(small_head: HeadModel, tmp_path: Path) -> None:
    make(small_head).save(tmp_path)
    (tmp_path / "flame_param.npz").unlink()
    with pytest.raises(UserError, match=r"flame_param\.npz: no such file"):
        Avatar.load(tmp_path)

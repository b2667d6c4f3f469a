"""Baking: an avatar, its maps, and the same avatar again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fit.people import SUBJECT, UV_SIZE, World, camera_array
from osgap.bake import stage as bake
from osgap.bake.stage import BakeInputs, BakeOutputs
from osgap.head.assets import load_head
from osgap.head.editions import Edition
from osgap.head.texels import bind_texels
from osgap.runtime.artifacts import read_provenance, write_json
from osgap.runtime.errors import UserError
from osgap.splat.attributes import GaussianAttributes
from osgap.splat.avatar import Avatar
from osgap.splat.render import render
from osgap.splat.uv_maps import load_uv_gt


@pytest.fixture
def avatar(world: World, tmp_path: Path) -> Avatar:
    """A saved avatar with every attribute off its initial value, and a fit's `uv_size` beside it."""
    channels = world.truth.attributes.channels
    noise = 0.3 * torch.randn(channels.shape, generator=torch.Generator().manual_seed(1))
    mixed = Avatar(GaussianAttributes(channels + noise), world.truth.faces, world.truth.params)
    rotation = mixed.attributes.rotation
    rotation[::2] *= -3.0  # neither unit nor w >= 0
    mixed.save(tmp_path / "avatar")
    write_json(tmp_path / "avatar" / "fit.json", {"uv_size": UV_SIZE})
    return mixed


def inputs(world: World, folder: Path) -> BakeInputs:
    return BakeInputs(folder / "avatar", world.inputs.head)


def test_round_trip_renders_the_same(world: World, avatar: Avatar, tmp_path: Path) -> None:
    output = BakeOutputs(tmp_path / "uv_gt" / f"{SUBJECT}.npz")
    bake.run(inputs(world, tmp_path), output, subject=SUBJECT, seed=0)
    head = load_head(world.inputs.head)
    binding = bind_texels(head.uvs, head.uv_faces, UV_SIZE)
    maps = load_uv_gt(output.maps)
    again = Avatar(GaussianAttributes.from_uv(maps, binding), binding.faces, avatar.params)
    cameras = camera_array()[[0, 3]]
    before, after = (render(a.gaussians(head, [0, 1]), cameras, torch.ones(3)).rgb for a in (avatar, again))
    assert before.std() > 0.1
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)
    exact = ("position", "scale", "opacity", "color")
    assert all(torch.equal(getattr(again.attributes, name), getattr(avatar.attributes, name)) for name in exact)
    quaternion = again.attributes.rotation
    assert (quaternion[:, 0] >= 0).all()
    torch.testing.assert_close(quaternion.norm(dim=-1), torch.ones(len(quaternion)), atol=1e-6, rtol=0)


def test_a_head_of_another_edition_is_refused(world: World, avatar: Avatar, tmp_path: Path) -> None:
    avatar.save(tmp_path / "avatar", Edition("0000000000000000", "FLAME 2020").record)
    with pytest.raises(UserError, match=r"flame_param\.npz: was made with FLAME 2020 \(0000.* is another edition"):
        bake.run(inputs(world, tmp_path), BakeOutputs(tmp_path / "maps.npz"), subject=SUBJECT, seed=0)
    assert not (tmp_path / "maps.npz").exists()


def test_file_has_the_references_layout(world: World, avatar: Avatar, tmp_path: Path) -> None:
    output = BakeOutputs(tmp_path / "maps.npz")
    bake.run(inputs(world, tmp_path), output, subject=SUBJECT, seed=0)
    head = load_head(world.inputs.head)
    binding = bind_texels(head.uvs, head.uv_faces, UV_SIZE)
    with np.load(output.maps) as archive:
        assert {key: archive[key].shape[2] for key in archive.files} == {
            "local_position_uv": 3, "rot_delta_uv": 4, "local_scaling_uv": 3, "gs_opacity_uv": 1, "gs_features_uv": 3
        }  # fmt: skip
        rows, columns = binding.texels.T.numpy()
        colors = archive["gs_features_uv"]
        assert colors.shape == (UV_SIZE, UV_SIZE, 3)
        assert colors.dtype == np.float32
        np.testing.assert_array_equal(colors[rows, columns], avatar.attributes.color.numpy())
        for key in archive.files:
            assert not archive[key][~binding.mask.numpy()].any()
    provenance = read_provenance(output.maps)
    assert provenance is not None
    assert provenance["stage"] == "bake"
    assert provenance["config"] == {"color_space": "sh_dc"}


def test_a_second_bake_is_byte_equal(world: World, avatar: Avatar, tmp_path: Path) -> None:
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for file in files:
        bake.run(inputs(world, tmp_path), BakeOutputs(file), subject=SUBJECT, seed=0)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_canonical_rotations_are_the_same_rotations() -> None:
    quaternion = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    quaternion[0] = torch.tensor([-0.0, 1.0, 0, 0])
    found = bake.canonical(quaternion)
    cosine = (found * quaternion / quaternion.norm(dim=-1, keepdim=True)).sum(-1)
    torch.testing.assert_close(cosine.abs(), torch.ones(50, dtype=torch.float64))
    assert (found[:, 0] >= 0).all()
    torch.testing.assert_close(bake.canonical(found), found)


def test_an_avatar_of_another_size_is_refused(world: World, avatar: Avatar, tmp_path: Path) -> None:
    write_json(tmp_path / "avatar" / "fit.json", {"uv_size": UV_SIZE + 8})
    output = BakeOutputs(tmp_path / "maps.npz")
    with pytest.raises(UserError, match=r"576 Gaussians are not bound to the 1024 texels.*size 32"):
        bake.run(inputs(world, tmp_path), output, subject=SUBJECT, seed=0)
    assert not output.maps.exists()


def test_a_fit_summary_without_size_is_refused(world: World, avatar: Avatar, tmp_path: Path) -> None:
    summary = tmp_path / "avatar" / "fit.json"
    for content in ("{", json.dumps({"gaussians": 3}), "[]", json.dumps({"uv_size": "large"})):
        summary.write_text(content)
        with pytest.raises(UserError, match=r"fit\.json: does not say"):
            bake.run(inputs(world, tmp_path), BakeOutputs(tmp_path / "maps.npz"), subject=SUBJECT, seed=0)
    summary.unlink()
    with pytest.raises(UserError, match=r"fit\.json"):
        bake.run(inputs(world, tmp_path), BakeOutputs(tmp_path / "maps.npz"), subject=SUBJECT, seed=0)

"""Avatars in motion: the same Gaussians as one call at a time."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from osgap.head.model import HeadModel
from osgap.runtime.errors import UserError
from osgap.splat.animation import Animation

from .test_avatar import make

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_poses_as_the_avatar_does(small_head: HeadModel, device: str) -> None:
    avatar, head = make(small_head, timesteps=7).to(device), small_head.to(device)
    other = make(small_head, timesteps=5, seed=1).params.to(device)
    for params in (None, avatar.params.driven_by(other)):
        animation = Animation(avatar, head, params)
        # As many timesteps as before take the recorded graph again, more or fewer another one.
        for timesteps in ([0, 3], [4, 1], [2], [0, 1, 2], [3, 3]):
            found = animation.gaussians(torch.tensor(timesteps))
            expected = avatar.gaussians(head, timesteps, params)
            for item in dataclasses.fields(found):
                got, want = getattr(found, item.name), getattr(expected, item.name)
                assert (got is None and want is None) or torch.allclose(got, want, atol=1e-6), item.name
            assert not found.means.requires_grad


@pytest.mark.parametrize("device", DEVICES)
def test_two_people_take_turns(small_head: HeadModel, device: str) -> None:
    head = small_head.to(device)
    avatars = [make(small_head, seed=seed).to(device) for seed in (0, 1)]
    animations = [Animation(avatar, head) for avatar in avatars]
    for turn in range(6):
        which = turn % 2
        with torch.inference_mode(turn < 2):  # whoever asks first
            found = animations[which].gaussians(torch.tensor([turn % 3, 1]))
        expected = avatars[which].gaussians(head, [turn % 3, 1])
        torch.cuda.empty_cache()  # memory that nobody holds would be gone
        assert torch.allclose(found.means, expected.means, atol=1e-6)
        assert torch.allclose(found.scales, expected.scales, atol=1e-6)


def test_an_avatar_of_another_head_is_refused(small_head: HeadModel) -> None:
    avatar = make(small_head)
    other = dataclasses.replace(avatar, faces=avatar.faces + len(small_head.faces))
    with pytest.raises(UserError, match="Use the head model that the avatar was made with"):
        Animation(other, small_head)

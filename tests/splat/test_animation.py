"""Avatars in motion: the same Gaussians as one call at a time."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from osgap.head.model import HeadModel
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

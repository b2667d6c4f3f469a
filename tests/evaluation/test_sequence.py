"""Rendering of many frames."""

from __future__ import annotations

import torch

from evaluation.people import HELD_OUT, World, cameras
from osgap.rendering.camera_paths import scaled
from osgap.report.person import PersonFiles
from osgap.splat.avatar import Avatar
from osgap.splat.sequence import images_on_white, posed_once, render_frames


def test_batches_change_nothing(world: World, anna: PersonFiles) -> None:
    avatar, array = Avatar.load(anna.avatars["fit"]), cameras()
    rows, views = torch.tensor([0, 0, 3, 2, 3]), array[torch.tensor([0, 1, 2, 3, 0])]
    whole = render_frames(avatar, world.head, avatar.params, rows, views)
    parts = list(images_on_white(posed_once(avatar, world.head, avatar.params), rows, views, at_once=2))
    assert [len(part) for part in parts] == [2, 2, 1]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)
    one = render_frames(avatar, world.head, avatar.params.select(2), torch.tensor([0]), views[[3]])
    torch.testing.assert_close(one[0], whole[3], atol=1e-5, rtol=0)


def test_a_larger_picture_shows_the_same(world: World, anna: PersonFiles) -> None:
    avatar, view = Avatar.load(anna.avatars["fit"]), cameras()[[HELD_OUT]]
    large = scaled(view, 3)
    assert (large.width, large.height) == (3 * view.width, 3 * view.height)
    params, row = avatar.params.select(0), torch.tensor([0])
    small, big = (render_frames(avatar, world.head, params, row, camera) for camera in (view, large))
    shrunk = torch.nn.functional.avg_pool2d(big.permute(0, 3, 1, 2), 3).permute(0, 2, 3, 1)
    assert float((shrunk - small).abs().mean()) < 0.02
    assert float((small - 1).abs().mean()) > 0.1

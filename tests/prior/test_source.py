from __future__ import annotations

import numpy as np
import torch

from osgap.head.params import FlameParams
from osgap.prior.source import near_frontal, prepare_source
from osgap.splat.cameras import Cameras


def test_padding_is_white_and_centred() -> None:
    image = torch.zeros(7, 4, 3)
    square = prepare_source(image, 7)
    assert square.shape == (3, 7, 7)
    columns = square[0, 0]
    assert columns.tolist() == [1, 0, 0, 0, 0, 1, 1]  # (7 - 4) // 2 to the left, the odd column to the right
    wide = prepare_source(image.transpose(0, 1), 7)
    assert wide[0, :, 0].tolist() == [1, 0, 0, 0, 0, 1, 1]


def test_resizing_is_bilinear_without_antialiasing() -> None:
    image = torch.zeros(8, 8, 3)
    image[3, 3] = 1
    small = prepare_source(image, 2)
    # Output pixel (0, 0) has its centre at 1.5 source pixels: only rows and columns 1 and 2 count, not the lit 3.
    assert small[0, 0, 0] == 0
    large = prepare_source(image, 16)
    assert large.shape == (3, 16, 16)
    assert torch.isclose(large[0, 6, 6], torch.tensor(0.75**2))


def test_an_image_of_the_right_size_is_untouched() -> None:
    image = torch.rand(2, 6, 6, 3)
    assert torch.equal(prepare_source(image, 6), image.permute(0, 3, 1, 2))


def test_near_frontal_follows_the_heads_rotation() -> None:
    angles = torch.tensor([-0.6, -0.3, 0.0, 0.3, 0.6])  # about the vertical, cameras on a circle around the head
    centers = torch.stack([angles.sin(), torch.zeros(5), angles.cos()], dim=-1)
    world_to_camera = torch.eye(4).repeat(5, 1, 1)
    world_to_camera[:, :3, 3] = -centers
    cameras = Cameras(world_to_camera, torch.eye(3).expand(5, 3, 3), 4, 4)
    frames = np.array([(t, c) for t in (0, 1) for c in (0, 1, 3, 4)])  # camera 2 is held out
    widths = {"expr": 100, "rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6, "translation": 3}
    motion = {name: torch.zeros(2, width) for name, width in widths.items()}
    params = FlameParams(shape=torch.zeros(300), static_offset=torch.zeros(4, 3), **motion)
    assert set(near_frontal(cameras, params, frames, 2)) == {1, 3}
    turned = params.replace(rotation=torch.tensor([[0.0, 0.6, 0.0], [0.0, 0.6, 0.0]]))
    assert near_frontal(cameras, turned, frames, 2) == [4, 3]
    shifted = params.replace(translation=torch.tensor([[0.5, 0.0, 0.0]]).expand(2, 3))
    assert near_frontal(cameras, shifted, frames, 1) == [4]

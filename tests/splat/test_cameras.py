from __future__ import annotations

import pytest
import torch

from osgap.splat.cameras import Cameras


def make_cameras(count: int) -> Cameras:
    random = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(count, 3, 3, generator=random, dtype=torch.float64))[0]
    world_to_camera = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    world_to_camera[:, :3, :3] = rotation
    world_to_camera[:, :3, 3] = torch.randn(count, 3, generator=random, dtype=torch.float64)
    intrinsics = torch.eye(3, dtype=torch.float64) * torch.arange(1, count + 1)[:, None, None]
    return Cameras(world_to_camera, intrinsics, 8, 6)


def test_centers_are_the_origins_of_the_cameras() -> None:
    cameras = make_cameras(5)
    homogeneous = torch.cat((cameras.centers, torch.ones(5, 1, dtype=torch.float64)), dim=-1)
    origin = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
    projected = (cameras.world_to_camera @ homogeneous[..., None])[..., 0]
    torch.testing.assert_close(projected, origin.expand(5, 4), rtol=0, atol=1e-12)
    torch.testing.assert_close(cameras[2].centers, cameras.centers[2], rtol=0, atol=1e-15)


def test_indexing_and_stacking() -> None:
    cameras = make_cameras(4)
    assert len(cameras) == cameras.batch == 4
    assert cameras[1].batch is None
    assert torch.equal(cameras[1].intrinsics, cameras.intrinsics[1])
    for index in ([2, 0], torch.tensor([2, 0])):
        chosen = cameras[index]
        assert torch.equal(chosen.world_to_camera, cameras.world_to_camera[[2, 0]])
        assert (chosen.width, chosen.height) == (8, 6)
    assert len(cameras[1:]) == 3
    again = Cameras.stack([cameras[b] for b in range(4)])
    assert torch.equal(again.world_to_camera, cameras.world_to_camera)
    assert torch.equal(again.intrinsics, cameras.intrinsics)


def test_to() -> None:
    cameras = make_cameras(2).to(torch.float32)
    assert cameras.world_to_camera.dtype == cameras.intrinsics.dtype == torch.float32
    assert (cameras.width, cameras.height) == (8, 6)


@pytest.mark.parametrize(
    ("world_to_camera", "intrinsics"),
    [((3, 4), (3, 3)), ((2, 4, 4), (3, 3)), ((2, 4, 4), (3, 3, 3)), ((4, 4), (4, 4)), ((1, 2, 4, 4), (1, 2, 3, 3))],
)
def test_shapes_that_do_not_fit_are_refused(world_to_camera: tuple[int, ...], intrinsics: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Cameras take world_to_camera \[4, 4\].*got \[.*\] with \[.*\]"):
        Cameras(torch.zeros(world_to_camera), torch.zeros(intrinsics), 8, 6)


def test_empty_image_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 x 6"):
        Cameras(torch.eye(4), torch.eye(3), 0, 6)


def test_different_sizes_do_not_stack() -> None:
    small, large = Cameras(torch.eye(4), torch.eye(3), 8, 6), Cameras(torch.eye(4), torch.eye(3), 16, 12)
    with pytest.raises(ValueError, match=r"\[\(8, 6\), \(16, 12\)\]"):
        Cameras.stack([small, large])
    with pytest.raises(ValueError, match="got no camera"):
        Cameras.stack([])


def test_a_single_camera_is_no_sequence() -> None:
    single = Cameras(torch.eye(4), torch.eye(3), 8, 6)
    with pytest.raises(IndexError, match="single camera"):
        single[0]
    with pytest.raises(TypeError, match="single camera"):
        len(single)

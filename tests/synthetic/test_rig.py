"""The cameras: serials, conventions and framing."""

from __future__ import annotations

import numpy as np
import pytest
from nersemble_data.constants import SERIALS

from osgap.synthetic.captures.cameras import FRONTAL, HEAD, make_cameras
from osgap.synthetic.head.assets import build_head


def test_serials_are_nersembles_and_the_frontal_camera_is_number_eight() -> None:
    cameras = make_cameras(176, 256, seed=3)
    assert cameras.serials == tuple(SERIALS)
    assert cameras.serials[FRONTAL] == "222200037"
    x, _, z = cameras.centers[FRONTAL]
    assert abs(np.arctan2(x - HEAD[0], z - HEAD[2])) < np.deg2rad(2)


def test_cameras_run_from_side_to_side_at_differing_heights() -> None:
    centers = make_cameras(176, 256, seed=3).centers
    azimuths = np.rad2deg(np.arctan2(*(centers - HEAD).T[[0, 2]]))
    assert (np.diff(azimuths) > 3).all()
    assert 120 <= azimuths[-1] - azimuths[0] <= 150
    assert np.ptp(centers[:, 1]) > 0.4
    np.testing.assert_allclose(np.linalg.norm(centers - HEAD, axis=1), 1.0, atol=0.03)


def test_poses_are_rigid_and_look_at_the_target_the_right_way_up() -> None:
    target = (0.01, 0.02, -0.03)
    cameras = make_cameras(176, 256, seed=1, target=target)
    rotation = cameras.world_to_camera[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (16, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0)
    pixels = cameras.project(np.stack([target, np.add(target, [0, 0.05, 0])]))
    off_axis = pixels[:, 0] - cameras.intrinsics[:2, 2]
    assert np.abs(off_axis).max() < 0.03 * cameras.width
    assert (pixels[:, 1, 1] < pixels[:, 0, 1] - 20).all()  # image rows run down, the world's y runs up


def test_the_persons_left_is_at_the_right_of_the_frontal_picture() -> None:
    cameras = make_cameras(176, 256, seed=1)
    left, right = cameras.project(np.array([[0.05, 0.0, 0.0], [-0.05, 0.0, 0.0]]))[FRONTAL]
    assert left[0] > right[0]


def test_a_head_fills_the_frame_and_fits_it() -> None:
    cameras = make_cameras(176, 256, seed=0)
    pixels = cameras.project(build_head().v_template)
    assert (pixels > 0).all()
    assert (pixels < [cameras.width, cameras.height]).all()
    assert (np.ptp(pixels[..., 1], axis=1) > 0.65 * cameras.height).all()
    assert (np.ptp(pixels[..., 0], axis=1) > 0.5 * cameras.width).all()


def test_the_principal_point_is_off_centre() -> None:
    cameras = make_cameras(200, 300, seed=0)
    assert abs(cameras.intrinsics[0, 2] - 100) > 1
    assert abs(cameras.intrinsics[1, 2] - 150) > 1


@pytest.mark.parametrize("scale", [2, 3])
def test_intrinsics_scale_with_the_image(scale: int) -> None:
    small, large = make_cameras(88, 128, seed=5), make_cameras(88 * scale, 128 * scale, seed=5)
    np.testing.assert_allclose(large.intrinsics[:2], scale * small.intrinsics[:2])
    np.testing.assert_array_equal(large.world_to_camera, small.world_to_camera)


def test_recordings_differ_a_little() -> None:
    one, other = (make_cameras(176, 256, seed=seed).centers for seed in (1, 2))
    shift = np.linalg.norm(one - other, axis=1)
    assert shift.min() > 0
    assert shift.max() < 0.06
    np.testing.assert_array_equal(one, make_cameras(176, 256, seed=1).centers)


def test_points_behind_a_camera_have_no_pixel() -> None:
    cameras = make_cameras(88, 128, seed=0)
    behind = 3 * cameras.centers[FRONTAL][None]
    assert np.isnan(cameras.project(behind)[FRONTAL]).all()

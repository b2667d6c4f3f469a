"""Camera paths in files: exact at keyframes, smooth between them, and malformed ones refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from osgap.rendering.keyframes import CameraList, Keyframes, look_at, read_path
from osgap.runtime.errors import UserError

FPS = 10.0
LOOKS: list[dict[str, Any]] = [
    {"time": 1.0, "position": [0, 0, 2], "target": [0, 0, 0], "fov_degrees": 20},
    {"time": 2.5, "position": [1.5, 0.5, 1], "target": [0, 0.1, 0], "up": [0.1, 1, 0], "fov_degrees": 40},
    {"time": 3.0, "position": [2, 0, -0.5], "target": [0.1, 0, 0], "fov_degrees": 10},
]


def write(folder: Path, content: Any) -> Path:
    path = folder / "path.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(folder: Path, content: Any, width: int | None = None, height: int | None = None) -> Keyframes | CameraList:
    return read_path(write(folder, content), width, height)


def turn_y(angle: float) -> np.ndarray:
    """A camera at the origin that looks along +z, turned by an angle."""
    cos, sin = math.cos(angle), math.sin(angle)
    view = np.eye(4)
    view[:3, :3] = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    return view


def test_a_camera_sees_its_target_in_the_middle_and_up_upwards() -> None:
    position, target, up = np.array([1.0, 2, 3]), np.array([-0.5, 0.2, 0.1]), np.array([0.2, 1, -0.1])
    view = look_at(position, target, up)
    rotation = view[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(view @ [*position, 1], [0, 0, 0, 1], atol=1e-12)
    seen = view @ [*target, 1]
    np.testing.assert_allclose(seen[:2], 0, atol=1e-12)
    assert seen[2] == pytest.approx(np.linalg.norm(target - position))  # in front, along +z
    above = view @ [*(target + 0.1 * up), 1]
    assert above[0] == pytest.approx(0, abs=1e-12)
    assert above[1] < 0  # y points down
    # From the front, FLAME's right-handed world has x to the right.
    assert (look_at(np.array([0.0, 0, 1]), np.zeros(3), np.array([0.0, 1, 0])) @ [0.1, 0, 0, 1])[0] > 0


def test_targets_are_hit_at_keyframes_and_between(tmp_path: Path) -> None:
    path = read(tmp_path, {"width": 60, "height": 80, "keyframes": LOOKS})
    assert path.length(FPS) == 21
    cameras = path.cameras(30, FPS)
    assert (cameras.width, cameras.height, len(cameras)) == (60, 80, 30)
    for frame, key in ((0, LOOKS[0]), (15, LOOKS[1]), (20, LOOKS[2]), (29, LOOKS[2])):  # the last one is held
        up = key.get("up", [0, 1, 0])
        expected = look_at(*(np.array(value, np.float64) for value in (key["position"], key["target"], up)))
        np.testing.assert_allclose(cameras.world_to_camera[frame], expected, atol=1e-6)
        focal = 40 / math.tan(math.radians(key["fov_degrees"]) / 2)  # vertical
        np.testing.assert_allclose(
            cameras.intrinsics[frame], np.array([[focal, 0, 30], [0, focal, 40], [0, 0, 1]]), rtol=1e-6
        )
    # Focal lengths grow by equal factors.
    torch.testing.assert_close(
        cameras.intrinsics[1:15, 0, 0] / cameras.intrinsics[:14, 0, 0],
        (cameras.intrinsics[15, 0, 0] / cameras.intrinsics[0, 0, 0]).pow(1 / 15).expand(14),
    )
    # No frame is off its neighbours' line by much, and the head near the origin stays in the middle.
    centers = cameras.centers[:21]
    assert float((centers[2:] - 2 * centers[1:-1] + centers[:-2]).norm(dim=1).max()) < 0.1
    origin = cameras.world_to_camera[:, :3, 3]
    assert float((origin[:, :2] / origin[:, 2:]).abs().max()) < 0.15


def test_two_keyframes_are_a_straight_line(tmp_path: Path) -> None:
    cameras = read(tmp_path, {"width": 6, "height": 8, "keyframes": LOOKS[:2]}).cameras(16, FPS)
    line = torch.lerp(torch.tensor([0.0, 0, 2]), torch.tensor([1.5, 0.5, 1]), torch.linspace(0, 1, 16)[:, None])
    torch.testing.assert_close(cameras.centers, line, atol=1e-5, rtol=0)


def test_rotations_take_the_short_way(tmp_path: Path) -> None:
    # Beyond 180 degrees a quaternion's sign flips; the path must not turn back because of it.
    angles = np.radians([0, 100, 170, 190, 280])
    K: list[list[float]] = [[50, 0, 31], [0, 55, 29], [0, 0, 1]]
    keys = [{"time": i, "world_to_camera": turn_y(a).tolist(), "intrinsics": K} for i, a in enumerate(angles)]
    cameras = read(tmp_path, {"width": 64, "height": 64, "keyframes": keys}).cameras(41, FPS)
    forward = cameras.world_to_camera[:, 2, :3].double().numpy()
    turned = np.unwrap(np.arctan2(forward[:, 0], forward[:, 2]))
    np.testing.assert_allclose(turned[::10], angles, atol=1e-6)
    assert (np.diff(turned) > 0).all()
    np.testing.assert_allclose(cameras.intrinsics, np.tile(K, (41, 1, 1)), rtol=1e-6)
    np.testing.assert_allclose(cameras.world_to_camera[:, :3, 3], 0, atol=1e-12)


def test_both_kinds_of_keyframes_mix(tmp_path: Path) -> None:
    view = look_at(np.array([0.5, 0, 1.5]), np.zeros(3), np.array([0.0, 1, 0]))
    keys = [LOOKS[0], {"time": 2, "world_to_camera": view.tolist(), "fov_degrees": 20}]
    cameras = read(tmp_path, {"keyframes": keys}, width=50).cameras(11, FPS)
    assert (cameras.width, cameras.height) == (50, 50)
    np.testing.assert_allclose(cameras.world_to_camera[10], view, atol=1e-6)


def test_one_keyframe_stands_still(tmp_path: Path) -> None:
    path = read(tmp_path, {"width": 6, "height": 8, "keyframes": LOOKS[1:2]})
    assert path.length(FPS) is None
    views = path.cameras(3, FPS).world_to_camera
    assert torch.equal(views, views[:1].expand(3, 4, 4))


def nerf(**changes: Any) -> dict[str, Any]:
    """Three cameras that move to the right, in front of a head that looks along +z, as NeRF writes them."""
    poses = [[[1, 0, 0, x], [0, 1, 0, 0.1], [0, 0, 1, 2], [0, 0, 0, 1]] for x in (0.0, 0.1, 0.2)]
    return {"camera_angle_x": 0.5, "frames": [{"transform_matrix": pose} for pose in poses], **changes}


def test_transforms_are_a_camera_per_frame(tmp_path: Path) -> None:
    path = read(tmp_path, nerf(), width=64, height=48)
    assert path.length(FPS) == 3
    cameras = path.cameras(5, FPS)
    np.testing.assert_allclose(
        cameras.centers, [[0, 0.1, 2], [0.1, 0.1, 2], [0.2, 0.1, 2], [0.2, 0.1, 2], [0.2, 0.1, 2]], atol=1e-6
    )
    np.testing.assert_allclose(cameras.world_to_camera[0, :3, :3], np.diag([1, -1, -1]), atol=1e-9)
    focal = 32 / math.tan(0.25)
    np.testing.assert_allclose(cameras.intrinsics[0], np.array([[focal, 0, 32], [0, focal, 24], [0, 0, 1]]), rtol=1e-6)
    told = read(tmp_path, nerf(w=32, h=24, fl_x=40, fl_y=42, cx=15, cy=13, camera_angle_x=None)).cameras(3, FPS)
    assert (told.width, told.height) == (32, 24)
    np.testing.assert_allclose(told.intrinsics[2], [[40, 0, 15], [0, 42, 13], [0, 0, 1]])


def keys(change: Callable[[list[dict[str, Any]]], Any], **top: Any) -> dict[str, Any]:
    listed = json.loads(json.dumps(LOOKS))
    change(listed)
    return {"width": 60, "height": 80, "keyframes": listed, **top}


def view_of(listed: list[dict[str, Any]], value: Any) -> None:
    listed[1] = {"time": 2.5, "world_to_camera": value, "fov_degrees": 20}


MALFORMED: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "not valid JSON"),
    "no object": ("[]", "expected a JSON object"),
    "neither": ({"width": 3}, "neither keyframes nor frames"),
    "both": (nerf(keyframes=LOOKS), "keyframes and frames"),
    "empty": ({"keyframes": []}, "at least one"),
    "no list": ({"frames": {}}, "must be a list"),
    "entry": ({"keyframes": [7]}, r"keyframes\[0\] is a int"),
    "no time": (keys(lambda k: k[1].pop("time")), r"keyframes\[1\]: time is missing"),
    "time as text": (keys(lambda k: k[1].update(time="2")), r"keyframes\[1\]: time is '2'"),
    "infinite time": (keys(lambda k: k[1].update(time=1e999)), r"keyframes\[1\]: time is inf"),
    "long time": (keys(lambda k: k[1].update(time=10**400)), r"keyframes\[1\]: time is 1000"),
    "order": (keys(lambda k: k.reverse()), r"keyframes\[1\]: time 2.5 is not after"),
    "twice": (keys(lambda k: k[2].update(time=2.5)), r"keyframes\[2\]: time 2.5 is not after"),
    "no camera": (keys(lambda k: [k[1].pop(n) for n in ("position", "target", "up")]), r"keyframes\[1\] has no camera"),
    "both cameras": (keys(lambda k: k[1].update(world_to_camera=1)), r"keyframes\[1\] has both world_to_camera and"),
    "no target": (keys(lambda k: k[1].pop("target")), r"keyframes\[1\]: target is missing; give 3 numbers"),
    "two numbers": (keys(lambda k: k[1].update(position=[1, 2])), r"keyframes\[1\]: position is \[1, 2\]"),
    "NaN": (keys(lambda k: k[1].update(position=[1, 2, math.nan])), r"keyframes\[1\]: position is \[1, 2, nan\]"),
    "smallest integer": (keys(lambda k: k[1].update(position=[-(2**63), 0, 0])), r"keyframes\[1\]: position is \[-922"),
    "unknown key": (keys(lambda k: k[1].update(fov=20)), r"keyframes\[1\] has a key 'fov'; a keyframe's are time, pos"),
    "misspelled": (keys(lambda k: k[2].update(Up=[0, 1, 0])), r"keyframes\[2\] has a key 'Up'"),
    "long times": (
        keys(lambda k: [k[0].update(time=1234567.5), k[1].update(time=1000000)]),
        r"keyframes\[1\]: time 1000000 is not after that of the keyframe before it, 1234567\.5;",
    ),
    "truths": (keys(lambda k: k[1].update(position=[True, True, True])), r"keyframes\[1\]: position"),
    "at the target": (keys(lambda k: k[1].update(target=[1.5, 0.5, 1])), r"keyframes\[1\]: the position is the target"),
    "along up": (keys(lambda k: k[0].update(up=[0, 0, 3])), r"keyframes\[0\]: the direction of view is that of up"),
    "no up": (keys(lambda k: k[1].update(up=[0, 0, 0])), r"keyframes\[1\]: up has no length"),
    "ragged": (keys(lambda k: view_of(k, [[1, 2], [3]])), r"keyframes\[1\]: world_to_camera is \[\[1, 2\], \[3\]\]"),
    "scaled": (keys(lambda k: view_of(k, np.diag([2, 2, 2, 1]).tolist())), r"keyframes\[1\]: .*is no rotation"),
    "mirrored": (keys(lambda k: view_of(k, np.diag([1, -1, 1, 1]).tolist())), r"keyframes\[1\]: .*mirrors"),
    "no focal length": (keys(lambda k: k[1].pop("fov_degrees")), r"keyframes\[1\]: give either intrinsics or fov"),
    "180 degrees": (keys(lambda k: k[1].update(fov_degrees=180)), r"keyframes\[1\]: fov_degrees is 180"),
    "skew": (
        keys(lambda k: [k[1].pop("fov_degrees"), k[1].update(intrinsics=[[9, 1, 3], [0, 9, 3], [0, 0, 1]])]),
        r"keyframes\[1\]: intrinsics are",
    ),
    "no size": ({"keyframes": LOOKS}, "how large"),
    "half a size": ({"width": 40, "keyframes": LOOKS}, "height is None"),
    "no pixels": (keys(lambda k: None, width=0), "0x80 pixels"),
    "size as text": (keys(lambda k: None, width="60"), "width is '60'"),
    "transforms without a size": (nerf(), "how large"),
    "no matrix": (
        nerf(w=4, h=4, frames=[{"file_path": "a.png"}]),
        r"frames\[0\]: transform_matrix.*matrix\. Correct it",
    ),
    "no angle": (nerf(w=4, h=4, camera_angle_x=None), r"frames\[0\] has neither fl_x nor .*\. Correct it"),
    "text for a size": (nerf(w="4", h=4), r"frames\[0\]: w is '4', expected a finite number\. Correct it"),
    "half a pixel": (nerf(w=4.5, h=4), r"frames\[0\]: w is 4\.5, expected a number of pixels\. Correct it"),
    "far centre": (nerf(w=4, h=4, cx=900), r"frames\[0\]: the principal point .*different scales\. Correct it"),
    "negative focal length": (nerf(w=4, h=4, fl_x=-3, camera_angle_x=None), r"not positive\. Correct it"),
    "two sizes": (
        nerf(h=4, frames=[{**frame, "w": 4 + i} for i, frame in enumerate(nerf()["frames"])]),
        r"frames\[1\] has 5x4 pixels, the first has 4x4",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_paths_are_refused_by_name(case: str, tmp_path: Path) -> None:
    content, message = MALFORMED[case]
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "path.json") in str(caught.value)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json: no such file"):
        read_path(tmp_path / "nowhere.json", None, None)


def test_a_path_through_its_target_is_refused(tmp_path: Path) -> None:
    ends = [{"time": t, "position": [0, 0, z], "target": [0, 0, 0], "fov_degrees": 9} for t, z in ((0, 1), (1, -1))]
    path = read(tmp_path, {"width": 6, "height": 8, "keyframes": ends})
    with pytest.raises(UserError, match=r"path\.json: 0\.50 s into the path.*the position is the target"):
        path.cameras(11, FPS)

"""Camera paths in files: keyframes, which are interpolated, or a `transforms.json`, a camera for each frame.

    {"width": 800, "height": 800,
     "keyframes": [
       {"time": 0, "position": [0, 0, 2], "target": [0, 0, 0], "up": [0, 1, 0], "fov_degrees": 20},
       {"time": 2, "world_to_camera": [[…], …], "intrinsics": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]}
     ]}

Times are seconds; the clip begins at the first. Positions are metres in the world of the capture (FLAME's: y up, heads
look along +z); `world_to_camera` is 4x4 in OpenCV axes. `up` may be left out where it is y. `fov_degrees` is vertical;
`intrinsics` are pixels of an image of `width` x `height`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicHermiteSpline
from scipy.spatial.transform import Rotation, RotationSpline

from osgap.capture.nersemble import read_json, rigid_problem
from osgap.capture.tracking.vhap.cameras import read_camera
from osgap.rendering.camera_paths import LARGEST
from osgap.runtime.errors import UserError
from osgap.splat.cameras import Cameras

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_FAR = 1e9  # of any number: JSON's may be infinite, NaN or too long for a float
_KEYS = ("time", "position", "target", "up", "world_to_camera", "fov_degrees", "intrinsics")  # of a keyframe
_SMALLEST_SINE = 1e-4  # of the angle between the direction of view and `up`


@dataclass(frozen=True)
class Keyframes:
    """`K` keyframes of a camera path, and how to get from one to the next.

    Positions, targets and `up` go along Catmull-Rom splines: cubic Hermite splines with the tangent of the parabola
    through a keyframe and its neighbours, so that times need not be evenly spaced. Where all keyframes look at a
    target, the camera looks at the interpolated one; else rotations go along a spline with continuous angular velocity
    (`scipy.spatial.transform.RotationSpline`). Logarithms of focal lengths, and principal points, are interpolated
    linearly. Before the first and after the last keyframe the camera stands still.
    """

    path: Path
    times: np.ndarray
    """`[K]` seconds, ascending."""
    world_to_camera: np.ndarray
    """`[K, 4, 4]` OpenCV axes."""
    targets: np.ndarray | None
    """`[K, 3]`, where every keyframe has one."""
    ups: np.ndarray | None
    """`[K, 3]`, likewise."""
    pinholes: np.ndarray
    """`[K, 4]` fx, fy, cx, cy in pixels."""
    width: int
    height: int

    def length(self, fps: float) -> int | None:
        """Frames from the first to the last keyframe, both included; None where there is one keyframe only."""
        if len(self.times) == 1:
            return None
        return math.floor((self.times[-1] - self.times[0]) * fps + 1e-6) + 1

    def cameras(self, count: int, fps: float) -> Cameras:
        """One camera per frame, `[count]`.

        Raises:
            UserError: when the camera, between two keyframes, reaches its target or looks along `up`.
        """
        times = np.minimum(self.times[0] + np.arange(count) / fps, self.times[-1])
        pinholes = [np.interp(times, self.times, column) for column in self.pinholes.T]
        pinholes[:2] = [np.exp(np.interp(times, self.times, np.log(column))) for column in self.pinholes.T[:2]]
        intrinsics = np.tile(np.eye(3), (count, 1, 1))
        intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 0, 2], intrinsics[:, 1, 2] = pinholes
        rotations = self.world_to_camera[:, :3, :3]
        positions = _catmull_rom(self.times, -np.einsum("kji,kj->ki", rotations, self.world_to_camera[:, :3, 3]), times)
        if self.targets is not None and self.ups is not None:
            targets, ups = (_catmull_rom(self.times, values, times) for values in (self.targets, self.ups))
            views = []
            for time, position, target, up in zip(times, positions, targets, ups, strict=True):
                problem = _look_problem(position, target, up)
                if problem:
                    raise UserError(
                        f"{self.path}: {time:.2f} s into the path, between two keyframes, {problem}. Add a keyframe "
                        f"that leads around that, or give world_to_camera."
                    )
                views.append(look_at(position, target, up))
        else:
            turns = _turns(self.times, rotations, times)
            views = [_view(turn, position) for turn, position in zip(turns, positions, strict=True)]
        return Cameras(
            torch.from_numpy(np.stack(views)).float(), torch.from_numpy(intrinsics).float(), self.width, self.height
        )


@dataclass(frozen=True)
class CameraList:
    """A camera for each frame; the last one is held."""

    listed: Cameras

    def length(self, fps: float) -> int | None:
        """Frames, whatever their rate; None where there is one camera only."""
        return len(self.listed) if len(self.listed) > 1 else None

    def cameras(self, count: int, fps: float) -> Cameras:
        """One camera per frame, `[count]`."""
        return self.listed[torch.arange(count).clamp_max(len(self.listed) - 1)]


def look_at(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """World-to-camera matrix `[4, 4]` (OpenCV axes) of a camera at a position `[3]` that sees the target `[3]` in its
    middle, and `up` `[3]` upwards."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return _view(np.stack([right, np.cross(forward, right), forward]), position)


def _look_problem(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> str | None:
    lengths = np.linalg.norm(target - position), np.linalg.norm(up)
    if lengths[0] < 1e-6:
        return "the position is the target"
    if lengths[1] < 1e-6:
        return "up has no length"
    if np.linalg.norm(np.cross(target - position, up)) < _SMALLEST_SINE * lengths[0] * lengths[1]:
        return "the direction of view is that of up"
    return None


def _view(rotation: np.ndarray, position: np.ndarray) -> np.ndarray:
    view = np.eye(4)
    view[:3, :3], view[:3, 3] = rotation, -rotation @ position
    return view


def _catmull_rom(times: np.ndarray, values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values `[K, 3]` at `times` `[K]`, interpolated `at` `[F]`."""
    if len(times) == 1:
        return np.repeat(values, len(at), axis=0)
    return CubicHermiteSpline(times, values, np.gradient(values, times, axis=0))(at)


def _turns(times: np.ndarray, rotations: np.ndarray, at: np.ndarray) -> np.ndarray:
    if len(times) == 1:
        return np.repeat(rotations, len(at), axis=0)
    return RotationSpline(times, Rotation.from_matrix(rotations))(at).as_matrix()


# reading -----------------------------------------------------------------------------------------------------


def read_path(path: Path, width: int | None, height: int | None) -> Keyframes | CameraList:
    """Read a camera path.

    Args:
        width: of the clip, where the file does not tell; pixels.
        height: likewise.

    Raises:
        UserError: naming the file, the entry, what was found and what is expected.
    """
    content = read_json(path)
    kinds = [key for key in ("keyframes", "frames") if key in content]
    if len(kinds) != 1:
        raise UserError(
            f"{path}: has {' and '.join(kinds) or 'neither keyframes nor frames'}; a camera path is a list "
            f"`keyframes`, or a transforms.json with a list `frames`. Give one of them (see docs/rendering.md)."
        )
    listed = content[kinds[0]]
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{path}: {kinds[0]} must be a list with at least one entry; correct it.")
    for number, entry in enumerate(listed):
        if not isinstance(entry, dict):
            raise UserError(
                f"{path}: {kinds[0]}[{number}] is a {type(entry).__name__}, expected an object; correct it."
            )
    if kinds == ["frames"]:
        return _read_transforms(path, content, listed, width, height)
    return _read_keyframes(path, content, listed, width, height)


def _read_transforms(
    path: Path, content: Mapping[str, Any], listed: list[dict[str, Any]], width: int | None, height: int | None
) -> CameraList:
    """Cameras as NeRF and VHAP write them: camera to world in OpenGL axes."""

    def size() -> tuple[int, int]:
        return _told_size(path, {}, width, height)

    cameras = []
    for number, entry in enumerate(listed):
        found = read_camera(entry, content, f"{path}: frames[{number}]", size, "Correct it.")
        view = np.linalg.inv(found.pose @ _OPENGL_TO_OPENCV)
        cameras.append(
            Cameras(torch.from_numpy(view).float(), torch.from_numpy(found.matrix).float(), found.width, found.height)
        )
        if (found.width, found.height) != (cameras[0].width, cameras[0].height):
            raise UserError(
                f"{path}: frames[{number}] has {found.width}x{found.height} pixels, the first has "
                f"{cameras[0].width}x{cameras[0].height}; a clip has one size. Correct w and h."
            )
    _check_size(path, cameras[0].width, cameras[0].height)
    return CameraList(Cameras.stack(cameras))


def _read_keyframes(
    path: Path, content: Mapping[str, Any], listed: list[dict[str, Any]], width: int | None, height: int | None
) -> Keyframes:
    width, height = _told_size(path, content, width, height)
    times, views, looks, pinholes = [], [], [], []
    for number, entry in enumerate(listed):
        where = f"{path}: keyframes[{number}]"
        unknown = [key for key in entry if key not in _KEYS]
        if unknown:
            raise UserError(f"{where} has a key {unknown[0]!r}; a keyframe's are {', '.join(_KEYS)}. Correct it.")
        times.append(_number(entry, "time", where))
        if number and times[-1] <= times[-2]:
            raise UserError(
                f"{where}: time {times[-1]:.15g} is not after that of the keyframe before it, {times[-2]:.15g}; put "
                f"keyframes in the order of time."
            )
        view, look = _pose(entry, where)
        views.append(view)
        looks.append(look)
        pinholes.append(_pinhole(entry, where, width, height, sized="width" in content))
    targets, ups = zip(*(look for look in looks if look is not None), strict=True) if all(looks) else (None, None)
    return Keyframes(
        path=path,
        times=np.array(times),
        world_to_camera=np.stack(views),
        targets=None if targets is None else np.stack(targets),
        ups=None if ups is None else np.stack(ups),
        pinholes=np.array(pinholes),
        width=width,
        height=height,
    )


def _pose(entry: Mapping[str, Any], where: str) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """World-to-camera matrix `[4, 4]`; and target and up `[3]`, where the keyframe is given by them."""
    looks = [key for key in ("position", "target", "up") if key in entry]
    if ("world_to_camera" in entry) == bool(looks):
        raise UserError(
            f"{where} has {'both world_to_camera and ' + looks[0] if looks else 'no camera'}; give either "
            f"world_to_camera, or position and target (and up)."
        )
    if not looks:
        view = _array(entry, "world_to_camera", (4, 4), where)
        problem = rigid_problem(view)
        if problem:
            raise UserError(f"{where}: world_to_camera {problem}; give a rotation and a translation.")
        return view, None
    position, target = (_array(entry, key, (3,), where) for key in ("position", "target"))
    up = _array(entry, "up", (3,), where) if "up" in entry else np.array([0.0, 1.0, 0.0])
    problem = _look_problem(position, target, up)
    if problem:
        raise UserError(f"{where}: {problem}; change one of them.")
    up = up / np.linalg.norm(up)
    return look_at(position, target, up), (target, up)


def _pinhole(
    entry: Mapping[str, Any], where: str, width: int, height: int, sized: bool
) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy in pixels."""
    if ("intrinsics" in entry) == ("fov_degrees" in entry):
        raise UserError(f"{where}: give either intrinsics or fov_degrees.")
    if "fov_degrees" in entry:
        angle = _number(entry, "fov_degrees", where)
        if not 0 < angle < 180:
            raise UserError(f"{where}: fov_degrees is {angle:.15g}; it must be between 0 and 180, make it so.")
        focal = height / 2 / math.tan(math.radians(angle) / 2)
        return focal, focal, width / 2, height / 2
    if not sized:
        raise UserError(f"{where} has intrinsics; add the width and height of their image at the top of the file.")
    K = _array(entry, "intrinsics", (3, 3), where)
    if not (K[0, 0] > 0 and K[1, 1] > 0) or K[0, 1] or K[1, 0] or not np.array_equal(K[2], [0, 0, 1]):
        raise UserError(
            f"{where}: intrinsics are {K.tolist()}; give [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive focal "
            f"lengths (skew is not modelled)."
        )
    return float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])


def _told_size(path: Path, content: Mapping[str, Any], width: int | None, height: int | None) -> tuple[int, int]:
    """Width and height that the file tells, else those of the clip."""
    told = [content.get(key) for key in ("width", "height")]
    if told == [None, None]:
        told = [width or height, height or width]
    if told == [None, None]:
        raise UserError(f"{path}: does not say how large the image is; add it there, or give a width and a height.")
    sizes: list[int] = []
    for key, value in zip(("width", "height"), told, strict=True):
        if isinstance(value, bool) or not isinstance(value, int):
            raise UserError(f"{path}: {key} is {value!r}, expected a number of pixels; correct it.")
        sizes.append(value)
    _check_size(path, *sizes)
    return sizes[0], sizes[1]


def _check_size(path: Path, width: int, height: int) -> None:
    if not (1 <= width <= LARGEST and 1 <= height <= LARGEST):
        raise UserError(f"{path}: images of {width}x{height} pixels; give 1 to {LARGEST} either way.")


def _number(entry: Mapping[str, Any], key: str, where: str) -> float:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _FAR:
        found = f"is {value!r}" if key in entry else "is missing"
        raise UserError(f"{where}: {key} {found}; give a finite number.")
    return float(value)


def _array(entry: Mapping[str, Any], key: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    expected = "x".join(map(str, shape))
    if key not in entry:
        raise UserError(f"{where}: {key} is missing; give {expected} numbers.")
    try:
        array = np.array(entry[key])
    except ValueError:  # rows of different lengths
        array = np.empty(0)
    if array.shape == shape and array.dtype.kind in "if":
        array = array.astype(np.float64)  # first: of integers the smallest has no absolute value
        if (np.abs(array) < _FAR).all():
            return array
    raise UserError(f"{where}: {key} is {_shortened(entry[key])}; give {expected} finite numbers.")


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else text[:100] + "…"

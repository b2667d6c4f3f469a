"""The camera of one frame in a transforms file: pinhole intrinsics, and its pose with OpenGL axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from osgap.capture.nersemble import rigid_problem
from osgap.capture.tracking.recording import CENTER_RANGE
from osgap.runtime.errors import UserError
from osgap.runtime.notes import Notes

# Two frames of one camera may differ by rounding in the JSON, not by more.
_POSE_TOLERANCE = 1e-4
_PIXEL_TOLERANCE = 1e-3

_SCALE_TOLERANCE = 0.01  # of a focal length, between what two keys say of it


@dataclass(frozen=True, eq=False)
class ExportCamera:
    """The camera of one frame in a transforms file."""

    width: int
    height: int
    focal: tuple[float, float]
    center: tuple[float, float]
    pose: np.ndarray
    """`[4, 4]` camera to world, OpenGL axes."""

    @property
    def matrix(self) -> np.ndarray:
        """Intrinsics `[3, 3]` in pixels."""
        return np.array([[self.focal[0], 0, self.center[0]], [0, self.focal[1], self.center[1]], [0, 0, 1]])

    def difference(self, other: ExportCamera) -> str | None:
        """In what two frames of one camera disagree."""
        if (self.width, self.height) != (other.width, other.height):
            return f"image size {self.width}x{self.height} against {other.width}x{other.height}"
        pixels = np.abs(np.subtract((*self.focal, *self.center), (*other.focal, *other.center))).max()
        if pixels > _PIXEL_TOLERANCE:
            return f"intrinsics, by {pixels:.3g} pixels"
        pose = np.abs(self.pose - other.pose).max()
        if pose > _POSE_TOLERANCE:
            return f"transform_matrix, by {pose:.3g}"
        return None


def read_camera(
    entry: Mapping[str, Any],
    shared: Mapping[str, Any],
    where: str,
    image_size: Callable[[], tuple[int, int]],
    advice: str = "Correct it, or export the tracking again with VHAP's vhap/export_as_nerf_dataset.py.",
    notes: Notes | None = None,
) -> ExportCamera:
    """The camera of one frame.

    Args:
        entry: the frame.
        shared: the whole file; what the frame does not say is taken from it.
        where: file and number of the frame, for messages.
        image_size: width and height, asked for where neither says them.
        advice: what to do about a frame that is wrong, for messages.
        notes: takes note of what neither says. Default is not to.

    Raises:
        UserError: naming the frame and the key.
    """
    notes = Notes() if notes is None else notes
    told = [_size(entry, shared, key, where, advice) for key in ("w", "h")]
    width, height = (told[i] or image_size()[i] for i in range(2))
    if None in told:
        notes.add(f"the transforms have no w and h; {width}x{height} pixels is what the first image or mask has")
    focal, center = _pinhole(entry, shared, where, width, height, advice, notes)
    try:
        pose = np.array(entry.get("transform_matrix"), np.float64)
    except (TypeError, ValueError):
        pose = np.empty(0)
    if pose.shape != (4, 4):
        raise UserError(f"{where}: transform_matrix is no 4x4 matrix. {advice}")
    problem = rigid_problem(pose)
    if problem:
        raise UserError(f"{where}: transform_matrix {problem}. {advice}")
    return ExportCamera(width=width, height=height, focal=focal, center=center, pose=pose)


def _pinhole(
    entry: Mapping[str, Any],
    shared: Mapping[str, Any],
    where: str,
    width: int,
    height: int,
    advice: str,
    notes: Notes,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Focal lengths and principal point in pixels of an image of that size.

    What the frame says comes before what the file says of all frames. The angle always fits the image, while lengths
    are seen to be left over from another scale; they are then scaled to it.
    """
    own = any(entry.get(key) is not None for key in ("fl_x", "camera_angle_x"))
    source = entry if own else shared
    focal_x, angle, focal_y = (_number(source, {}, key, where, advice) for key in ("fl_x", "camera_angle_x", "fl_y"))
    if focal_x is None and (angle is None or not 0 < angle < math.pi):
        raise UserError(f"{where} has neither fl_x nor a camera_angle_x in (0, pi). {advice}")
    center_x, center_y = (_number(entry, shared, key, where, advice) for key in ("cx", "cy"))
    scale = 1.0
    if angle is not None and 0 < angle < math.pi:
        fitting = width / (2 * math.tan(angle / 2))
        if focal_x is not None and focal_x > 0 and abs(fitting / focal_x - 1) > _SCALE_TOLERANCE:
            scale = fitting / focal_x
            notes.add(
                f"fl_x and camera_angle_x disagree: intrinsics are scaled by {scale:.4g}, so that the angle fits "
                f"images of {width}x{height} pixels"
            )
        focal_x = fitting if focal_x is None else focal_x
    assert focal_x is not None
    focal = (scale * focal_x, scale * (focal_x if focal_y is None else focal_y))
    if min(focal) <= 0:
        raise UserError(f"{where}: focal lengths {focal} are not positive. {advice}")
    center = (
        width / 2 if center_x is None else scale * center_x,
        height / 2 if center_y is None else scale * center_y,
    )
    if center_x is None or center_y is None:
        notes.add("the transforms have no principal point (cx, cy); it is taken to be the image's middle")
    low, high = CENTER_RANGE
    if not (low * width <= center[0] <= high * width and low * height <= center[1] <= high * height):
        scaled = f" (scaled by {scale:.3g}, because fl_x and camera_angle_x disagree)" if scale != 1 else ""
        raise UserError(
            f"{where}: the principal point ({center[0]:.6g}, {center[1]:.6g}){scaled} is not near the middle of an "
            f"image of {width}x{height} pixels; intrinsics and images are of different scales. {advice}"
        )
    return focal, center


def _number(entry: Mapping[str, Any], shared: Mapping[str, Any], key: str, where: str, advice: str) -> float | None:
    """A finite number of the frame, else of the whole file; None where neither has it."""
    value = entry.get(key, shared.get(key))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: {key} is {value!r}, expected a finite number. {advice}")
    return float(value)


def _size(entry: Mapping[str, Any], shared: Mapping[str, Any], key: str, where: str, advice: str) -> int | None:
    value = _number(entry, shared, key, where, advice)
    if value is None:
        return None
    if value < 1 or value != int(value):
        raise UserError(f"{where}: {key} is {value!r}, expected a number of pixels. {advice}")
    return int(value)

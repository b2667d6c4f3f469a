"""IMavatar's `flame_params.json`: one video's intrinsics, shape, and of every frame camera, expression and pose.

intrinsics     [4] fx, fy, cx, cy as parts of the image's width and height (if cy is above 1: pixels of an image of
512x512); fx is negative, as its camera looks along -z
shape_params   [100]
frames         list of
file_path      ./image/12; an extension is left out
world_mat      [3][4] world to camera, OpenGL axes; FLAME's metres times 4
expression     [50]
pose           [15] axis-angle: head, neck, jaw, left eye, right eye
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osgap.capture.nersemble import read_json, rigid_problem
from osgap.runtime.errors import UserError

PARAMETERS = "flame_params.json"
AGAIN = f"Run IMavatar's preprocess/preprocess.sh again, which writes {PARAMETERS}, or correct the file."
"""What mends a file, for messages."""
SCALE = 4.0
"""Lengths of its world per metre of FLAME: heads are scaled to fit the unit sphere."""

ENDINGS = (".png", ".jpg", ".jpeg")
"""Of the files of images."""

_OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_PIXELS = 512
_POSE_WIDTH = 15


@dataclass(frozen=True)
class Frame:
    """One frame of the file."""

    where: str
    """File and number of the frame, for messages."""
    path: str
    """Of the image below the folder, without its extension."""
    world_to_camera: np.ndarray
    """`[4, 4]` OpenCV axes, metres of FLAME."""
    expr: np.ndarray
    """`[N]`."""
    pose: np.ndarray
    """`[15]`."""


@dataclass(frozen=True)
class Parameters:
    """What one file holds."""

    file: Path
    shape: np.ndarray
    """`[N]`."""
    intrinsics: np.ndarray
    """`[4]` fx, fy, cx, cy as parts of width, height, width and height; fx as in the file."""
    in_pixels: bool
    """Whether they were pixels of 512x512."""
    frames: list[Frame]

    def matrix(self, width: int, height: int) -> np.ndarray:
        """`[3, 3]` in pixels of an image of that size."""
        fx, fy, cx, cy = np.abs(self.intrinsics) * [width, height, width, height]
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def parameter_files(folder: Path) -> list[Path]:
    """The file of a video's folder, or of the folders of several videos, by name."""
    own = folder / PARAMETERS
    return [own] if own.is_file() else sorted(folder.glob(f"*/{PARAMETERS}"))


def read_parameters(path: Path) -> Parameters:
    """Read one file.

    Raises:
        UserError: naming the file, the frame and the key: what is missing, has another shape, or leads elsewhere.
    """
    content = read_json(path)
    listed = content.get("frames")
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{path}: has no list `frames` with a frame in it. {AGAIN}")
    intrinsics = _numbers(content, "intrinsics", str(path), 4)
    if not np.abs(intrinsics).all():
        raise UserError(
            f"{path}: intrinsics are {intrinsics.tolist()}; fx, fy, cx and cy other than 0 are expected. {AGAIN}"
        )
    in_pixels = bool(intrinsics[3] > 1)
    return Parameters(
        file=path,
        shape=_numbers(content, "shape_params", str(path), None),
        intrinsics=intrinsics / _PIXELS if in_pixels else intrinsics,
        in_pixels=in_pixels,
        frames=[_frame(entry, f"{path}: frame {number}") for number, entry in enumerate(listed)],
    )


def _frame(entry: Any, where: str) -> Frame:
    if not isinstance(entry, Mapping):
        raise UserError(f"{where} is a {type(entry).__name__}, expected an object. {AGAIN}")
    text = entry.get("file_path")
    if not isinstance(text, str) or not text or "\0" in text:
        raise UserError(f"{where}: file_path is {text!r}; the path of an image, as ./image/12, is expected. {AGAIN}")
    norm = posixpath.normpath(text.replace("\\", "/"))
    if posixpath.isabs(norm) or norm.startswith("..") or ":" in norm:
        raise UserError(f"{where}: file_path {text!r} leads out of the folder. Correct it.")
    stem, ending = posixpath.splitext(norm)
    flat = _numbers(entry, "world_mat", where, None)
    if len(flat) not in (12, 16):
        raise UserError(f"{where}: world_mat has {len(flat)} numbers, expected 3x4. {AGAIN}")
    world_to_camera = np.eye(4)
    world_to_camera[:3] = flat.reshape(-1, 4)[:3]
    world_to_camera[:3, 3] /= SCALE
    problem = rigid_problem(world_to_camera)
    if problem:
        raise UserError(f"{where}: world_mat {problem}. {AGAIN}")
    return Frame(
        where=where,
        path=stem if ending.lower() in ENDINGS else norm,
        world_to_camera=_OPENGL_TO_OPENCV @ world_to_camera,
        expr=_numbers(entry, "expression", where, None),
        pose=_numbers(entry, "pose", where, _POSE_WIDTH),
    )


def _numbers(entry: Mapping[str, Any], key: str, where: str, count: int | None) -> np.ndarray:
    """`[N]` float64, finite."""
    try:
        values = np.array(entry.get(key), np.float64).ravel()
    except (TypeError, ValueError):
        values = np.full(1, np.nan)
    if not len(values) or not np.isfinite(values).all() or (count is not None and len(values) != count):
        expected = "a list of numbers" if count is None else f"{count} numbers"
        raise UserError(f"{where}: {key} is {str(entry.get(key))[:80]}, expected {expected}. {AGAIN}")
    return values

"""metrical-tracker's `checkpoint/NNNNN.frame`: a dict that `torch.save` wrote, of arrays only.

    flame     shape [1, 300], exp [1, 100], jaw [1, 6], eyes [1, 12] (rotations of six numbers), eyelids [1, 2], …
    opencv    R [1, 3, 3], t [1, 3] world to camera, K [1, 3, 3] pixels
    img_size  [2] height, width

Such files are pickles; they are read without running what they name (`torch.load` with `weights_only`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osgap.capture.nersemble import rigid_problem
from osgap.runtime.errors import UserError

_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
AGAIN = "Track the video again with metrical-tracker, and take its folder `checkpoint` as it is."
"""What mends a checkpoint, for messages."""
_WIDTHS: Mapping[tuple[str, str], int | None] = {
    ("flame", "shape"): None,
    ("flame", "exp"): None,
    ("flame", "jaw"): 6,
    ("flame", "eyes"): 12,
    ("opencv", "R"): 9,
    ("opencv", "t"): 3,
    ("opencv", "K"): 9,
}


@dataclass(frozen=True)
class Checkpoint:
    """One frame of the tracking."""

    number: int
    """Of the frame, as its file is named."""
    name: str
    """The file's name without its ending."""
    shape: np.ndarray
    """`[N]`."""
    expr: np.ndarray
    """`[N]`."""
    jaw: np.ndarray
    """`[3]` axis-angle."""
    eyes: np.ndarray
    """`[6]` axis-angle, left and right."""
    eyelids: float
    """The largest of them."""
    world_to_camera: np.ndarray
    """`[4, 4]` OpenCV axes."""
    intrinsics: np.ndarray
    """`[3, 3]` pixels."""
    size: tuple[int, int]
    """Width and height [pixels]."""


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoint files of a folder, by number."""
    files = [path for path in (folder / "checkpoint").glob("*.frame") if path.stem.isdecimal()]
    return sorted(files, key=lambda path: (int(path.stem), path.name))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one file.

    Raises:
        UserError: when it cannot be read without running something, lacks an array, or has one of another size.
    """
    content = _load(path)
    arrays = {key: _array(content, key, width, path) for key, width in _WIDTHS.items()}
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = arrays["opencv", "R"].reshape(3, 3), arrays["opencv", "t"]
    problem = rigid_problem(pose)
    if problem:
        raise UserError(f"{path}: the camera (opencv R and t) {problem}. {AGAIN}")
    lids = _numbers(content["flame"].get("eyelids", 0), "flame.eyelids", path)
    return Checkpoint(
        number=int(path.stem),
        name=path.stem,
        shape=arrays["flame", "shape"],
        expr=arrays["flame", "exp"],
        jaw=_axis_angles(arrays["flame", "jaw"], "jaw", path),
        eyes=_axis_angles(arrays["flame", "eyes"], "eyes", path),
        eyelids=float(np.abs(lids).max(initial=0)),
        world_to_camera=pose,
        intrinsics=arrays["opencv", "K"].reshape(3, 3),
        size=_size(content, path),
    )


def _size(content: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """Width and height [pixels]."""
    if "img_size" not in content:
        raise UserError(f"{path}: lacks img_size, height and width in pixels. {AGAIN}")
    size = _numbers(content["img_size"], "img_size", path).ravel()
    if len(size) != 2 or (size < 1).any() or (size != np.round(size)).any():
        raise UserError(f"{path}: img_size is {size.tolist()}; expected are height and width in pixels. {AGAIN}")
    return int(size[1]), int(size[0])


def _load(path: Path) -> Mapping[str, Any]:
    import torch

    try:
        with _arrays_allowed():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or foreign pickle can raise nearly anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path}: not a checkpoint of arrays alone ({reason[:160]}), so that reading it could run a program. If "
            f"you trust it, open it where it was made (`d = torch.load(file, weights_only=False)`) and `torch.save` a "
            f"dict of its NumPy arrays `flame`, `opencv` and `img_size` again."
        ) from None
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path}: holds a {type(content).__name__}; metrical-tracker's dict is expected. Check the path."
        )
    return content


@contextlib.contextmanager
def _arrays_allowed() -> Iterator[None]:
    """NumPy's arrays of plain numbers may be read, by the names of either major version."""
    import torch

    one = np.zeros(1, np.float32)
    make: Any = one.__reduce__()[0]
    scalar: Any = np.float32(0).__reduce__()[0]
    names = [(function, f"{core}.multiarray.{function.__name__}") for core in ("numpy.core", "numpy._core")
             for function in (make, scalar)]  # fmt: skip
    types = [type(np.dtype(text)) for text in _NUMBERS]
    with torch.serialization.safe_globals([np.ndarray, np.dtype, *names, *types]):
        yield


def _array(content: Mapping[str, Any], key: tuple[str, str], width: int | None, path: Path) -> np.ndarray:
    """The numbers of one array, `[N]` float64."""
    group, name = key
    part = content.get(group)
    if not isinstance(part, Mapping) or name not in part:
        raise UserError(f"{path}: lacks {group}.{name}. {AGAIN}")
    array = _numbers(part[name], f"{group}.{name}", path)
    flat = array.ravel()
    if not len(flat) or (width is not None and len(flat) != width):
        expected = "coefficients of one frame" if width is None else f"{width} numbers"
        raise UserError(f"{path}: {group}.{name} has shape {array.shape}, expected {expected}. {AGAIN}")
    return flat


def _numbers(value: Any, name: str, path: Path) -> np.ndarray:
    """An array or a tensor, on its graph or off it, as finite float64."""
    import torch

    try:
        array = np.asarray(value.detach().double() if isinstance(value, torch.Tensor) else value, np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # texts, ragged lists, sparse tensors
        raise UserError(f"{path}: {name} is no array of numbers, as is expected. {AGAIN}") from None
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0].tolist()
        raise UserError(f"{path}: {name}{where or ''} is {array[tuple(where)]}; finite numbers are expected. {AGAIN}")
    return array


def _axis_angles(six: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Rotations of six numbers each, the first two rows of the matrix before they are made orthonormal (Zhou et al.,
    "On the continuity of rotation representations in neural networks", CVPR 2019), as axis-angle vectors `[3 n]`."""
    from scipy.spatial.transform import Rotation

    rows = six.reshape(-1, 2, 3)
    lengths = np.linalg.norm(np.cross(rows[:, 0], rows[:, 1]), axis=-1)
    if (lengths < 1e-6).any():
        raise UserError(
            f"{path}: flame.{name} is no rotation (its two rows of three numbers are parallel); expected are the first "
            f"two rows of a rotation matrix. {AGAIN}"
        )
    first = rows[:, 0] / np.linalg.norm(rows[:, 0], axis=-1, keepdims=True)
    second = rows[:, 1] - (first * rows[:, 1]).sum(-1, keepdims=True) * first
    second /= np.linalg.norm(second, axis=-1, keepdims=True)
    matrices = np.stack([first, second, np.cross(first, second)], axis=1)
    return Rotation.from_matrix(matrices).as_rotvec().ravel()

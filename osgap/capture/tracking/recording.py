"""A tracked capture as every tracking layout is read: cameras, timesteps, FLAME parameters, split, and where the
frames are.

`osgap.capture.tracking.layouts` has the readers that make recordings, `osgap.capture.importing.stage` writes them to a
store.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from osgap.capture.store import SPLITS
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    from osgap.head.editions import Edition
    from osgap.head.params import FlameParams

TRAIN_FRACTION = 0.7
"""Of one sequence's timesteps, where a layout has no split of its own (VHAP)."""
HELD_OUT_INDEX = 8
"""Number of NeRSemble's frontal camera, held out where no camera has the wished serial (VHAP, GaussianAvatars)."""
CENTER_RANGE = (0.1, 0.9)
"""Part of an image's width and height in which a principal point may lie; beyond it, scales are mixed up."""
UNION_GROUP = 10
"""Sequences of which one is held out, where a layout has no split of its own (VHAP)."""

# Beyond these, numbers are damage: coefficients are in standard deviations, angles in radians, lengths in metres
# (translations in millimetres are tolerated).
_LARGEST = {"translation": 1e4}
_LARGEST_OTHERWISE = 1e2


@dataclass(frozen=True)
class Timestep:
    """One moment of one sequence."""

    sequence: str
    """NeRSemble's name in full where the folder mentions one, else the folder's name."""
    index: int
    """Number of the timestep in its sequence: the frame of the videos."""


@dataclass(frozen=True)
class Pictures:
    """Frames that lie in files of their own, `[T][C]`."""

    images: list[list[Path]]
    masks: list[list[Path | None]]
    """None where there is no mask file, so that the image must have alpha."""
    background: bool = False
    """Whether images with a mask file show the room as well, so that the masks are to cut them out."""


@dataclass(frozen=True)
class Footage:
    """Frames of one camera in one sequence that lie in a video."""

    video: Path
    camera: int
    timesteps: list[int]
    """Timesteps of the recording, in the order of the video."""
    numbers: list[int]
    """The frame of the video that each of them is; ascending."""
    masks: Path | list[Path]
    """A video of the alpha channel with a frame for each frame of `video`, or a mask file per timestep."""
    correction: np.ndarray | None = None
    """`[3, K]` colour correction matrix (`osgap.capture.tracking.color_correction`). None: the colours are final."""


@dataclass(frozen=True)
class Recording:
    """A tracked capture whose tables are read and consistent; the frames are still in their files.

    Every one of `T` timesteps has a frame from every one of `C` cameras. Timesteps of training come first.
    """

    folder: Path
    tables: list[Path]
    """The files that were read for everything but FLAME parameters of single timesteps and frames."""
    serials: list[str]
    """`C` names: the serial, or the camera's number where the serial is not known."""
    world_to_camera: np.ndarray
    """`[C, 4, 4]` float64, OpenCV axes."""
    intrinsics: np.ndarray
    """`[C, 3, 3]` float64 pixels, with principal point; pixel centres at + 0.5."""
    width: int
    height: int
    timesteps: list[Timestep]
    params: FlameParams
    """Of all `T` timesteps."""
    splits: dict[str, np.ndarray]
    """`train`, `val`, `test`: `[M, 2]` int64 (timestep, camera), timestep-major."""
    frames: Pictures | list[Footage]
    notes: tuple[str, ...] = ()
    """What a reader assumed where the files do not say, or left out: a sentence each, for the log and the report."""
    edition: Edition | None = None
    """Of the head model that `params` are of; None where no head model was given."""


def tested(lengths: Sequence[int], subject: str) -> list[np.ndarray]:
    """VHAP's split in time: of one sequence the timesteps after the first ceil(0.7 T) are tested; of several, one whole
    sequence of each ten, drawn with the subject's name as the seed.

    Args:
        lengths: timesteps of each sequence, in their order.

    Returns:
        For each sequence `[length]` bool.
    """
    if len(lengths) == 1:
        return [np.arange(lengths[0]) >= math.ceil(TRAIN_FRACTION * lengths[0])]
    generator = random.Random(subject)
    drawn = set()
    for start in range(0, len(lengths), UNION_GROUP):
        drawn.add(start + generator.randint(0, min(UNION_GROUP, len(lengths) - start) - 1))
    return [np.full(length, number in drawn) for number, length in enumerate(lengths)]


def split_frames(flags: Sequence[bool], cameras: int, held_out: int) -> dict[str, np.ndarray]:
    """Frames `[M, 2]` (timestep, camera) of each split; `flags` of the `T` timesteps says which are tested. The only
    camera is never held out, so that `val` is empty then."""
    splits: dict[str, list[tuple[int, int]]] = {name: [] for name in SPLITS}
    for timestep, flag in enumerate(flags):
        for camera in range(cameras):
            held = camera == held_out and cameras > 1
            splits["test" if flag else "val" if held else "train"].append((timestep, camera))
    return {name: np.array(pairs, np.int64).reshape(-1, 2) for name, pairs in splits.items()}


def split_note(names: Sequence[str], flags: Sequence[np.ndarray]) -> str:
    """What `tested` has chosen, of sequences of these names."""
    if len(names) == 1:
        count, total = int(flags[0].sum()), len(flags[0])
        return f"no split is given: by VHAP's rule the last {count} of {total} timesteps are for testing"
    chosen = [name for name, flag in zip(names, flags, strict=True) if flag.all()]
    return f"no split is given: by VHAP's rule {', '.join(chosen)} of {len(names)} sequences is for testing"


def held_out_note(wished: str, serial: str) -> str:
    """Which camera is for validation, where the files do not say."""
    if serial == wished:
        return f"no split is given: camera {serial} (capture.held_out_camera) is for validation"
    return f"no split is given: camera {serial} is for validation, as there is no {wished} (capture.held_out_camera)"


def plausible(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Refuse FLAME parameters that no tracked head has.

    Args:
        arrays: by the names of `osgap.head.params`.
        path: their file.

    Raises:
        UserError: naming the file and the array.
    """
    for name, array in arrays.items():
        largest = float(np.abs(array).max(initial=0))
        if largest > _LARGEST.get(name, _LARGEST_OTHERWISE):
            raise UserError(
                f"{path}: {name} reaches {largest:.3g}, no tracked head is like that; the file is damaged or its units "
                f"are not metres and radians. Change the units, copy the file again, or leave its sequence out."
            )

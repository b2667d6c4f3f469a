"""The frames that are looked at: which of a recording's, decoded and reduced."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from osgap.capture.encoded import read_file, read_header
from osgap.capture.tracking.recording import Footage, Pictures, Recording
from osgap.runtime.errors import UserError
from osgap.runtime.prefetch import in_threads, processors

PIXELS = 12_000_000
"""Of all images that are decoded, about; more where that is less than `FEWEST` frames."""
FEWEST, MOST = 96, 480
"""Frames of a recording that are looked at, if it has so many; of small ones no more than `SMALL`, or a tenth."""
SMALL = 144
SUSPECTS = 32
"""Frames that are looked at besides, because their files are much smaller or larger than their neighbours'."""
_MOST_WORKERS = 8  # each has a picture of full size in its hands
_MOST_PIXELS = 1 << 27  # of an image; what is larger is none of a capture
HEIGHT = 240
"""Of the reduced images [pixels], at most."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One frame, reduced."""

    timestep: int
    camera: int
    image: np.ndarray | None
    """`[h, w, 3]` uint8 RGB. None: it does not decode."""
    mask: np.ndarray | None
    """`[h, w]` float32 in [0, 1]. None: there is none, or it does not decode."""


def reduced_size(recording: Recording) -> tuple[int, int]:
    """Width and height of reduced images."""
    scale = min(1.0, HEIGHT / max(recording.height, recording.width))
    return max(round(recording.width * scale), 1), max(round(recording.height * scale), 1)


def chosen_frames(recording: Recording) -> list[tuple[int, int]]:
    """(timestep, camera) of the frames to look at: of every sequence the first, the middle and the last moment with all
    cameras, more moments as far as the bounds allow, and frames whose files are conspicuous."""
    cameras = len(recording.serials)
    most = int(np.clip(len(recording.timesteps) * cameras // 10, SMALL, MOST))
    allowed = int(np.clip(PIXELS // (recording.width * recording.height), FEWEST, most))
    moments = max(allowed // cameras, 1)
    rows = _moments(recording, moments)
    if len(rows) * cameras > most:  # more sequences than there is time for: each with some of the cameras
        step = -(-len(rows) * cameras // most)
        chosen = {(t, c) for k, t in enumerate(rows) for c in range(cameras) if (c + k) % step == 0}
    else:
        chosen = {(t, c) for t in rows for c in range(cameras)}
    return sorted(chosen.union(_conspicuous(recording)))


def _moments(recording: Recording, count: int) -> list[int]:
    """Rows of timesteps, at least three of every sequence, about `count` in all, evenly over each sequence."""
    sequences: dict[str, list[int]] = {}
    for row, timestep in enumerate(recording.timesteps):
        sequences.setdefault(timestep.sequence, []).append(row)
    chosen: set[int] = set()
    for rows in sequences.values():
        rows.sort(key=lambda row: recording.timesteps[row].index)
        wanted = max(3, count * len(rows) // len(recording.timesteps))
        places = np.linspace(0, len(rows) - 1, min(wanted, len(rows)))
        chosen.update(rows[round(place)] for place in places)
    return sorted(chosen)


def _conspicuous(recording: Recording) -> list[tuple[int, int]]:
    """Frames whose mask or image file has an unusual size for its camera: an empty mask, a frame of one colour."""
    frames = recording.frames
    if not isinstance(frames, Pictures) or len(recording.timesteps) < 4:
        return []
    deviation = np.zeros((len(recording.timesteps), len(recording.serials)))
    for table in (frames.images, frames.masks):
        sizes = np.array([[_size(path) for path in row] for row in table], np.float64)
        ratio = np.log(np.maximum(sizes, 1)) - np.log(np.maximum(np.median(sizes, axis=0), 1))
        deviation = np.maximum(deviation, np.abs(ratio))
    order = np.argsort(-deviation, axis=None)[:SUSPECTS]
    threshold = max(0.4, 6 * float(np.median(deviation)))
    places = zip(*np.unravel_index(order, deviation.shape), strict=True)
    return [(int(t), int(c)) for t, c in places if deviation[t, c] > threshold]


def _size(path: Path | None) -> int:
    try:
        return path.stat().st_size if path is not None else 0
    except OSError:
        return 0


def read_samples(recording: Recording, chosen: list[tuple[int, int]]) -> list[Sample]:
    """Decode and reduce frames. What does not decode is None: the import itself says what is wrong with it."""
    size = reduced_size(recording)
    frames = recording.frames
    if isinstance(frames, Pictures):
        tasks = (partial(_of_files, t, c, frames.images[t][c], frames.masks[t][c], size) for t, c in chosen)
        workers = min(processors(), _MOST_WORKERS)
        return list(in_threads(tasks, depth=2 * workers, workers=workers))
    return sorted(_of_footage(frames, set(chosen), size), key=lambda sample: (sample.timestep, sample.camera))


def _of_files(timestep: int, camera: int, image: Path, mask: Path | None, size: tuple[int, int]) -> Sample:
    pixels = _decoded(image, cv2.IMREAD_UNCHANGED if mask is None else cv2.IMREAD_COLOR)
    alpha = None
    if mask is not None:
        alpha = _decoded(mask, cv2.IMREAD_GRAYSCALE)
    elif pixels is not None and pixels.ndim == 3 and pixels.shape[2] == 4:
        alpha = np.ascontiguousarray(pixels[..., 3])
    if pixels is not None:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels[..., 2::-1]
    return _sample(timestep, camera, pixels, alpha, size)


def _decoded(path: Path, flags: int) -> np.ndarray | None:
    """Pixels as OpenCV reads them; without a word where it would complain, because the import says what is wrong."""
    try:
        content = read_file(path)
        header = read_header(content, str(path))
        if header.width * header.height > _MOST_PIXELS:
            return None
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except (UserError, cv2.error):
        return None


def _of_footage(frames: list[Footage], chosen: set[tuple[int, int]], size: tuple[int, int]) -> Iterator[Sample]:
    from osgap.capture.video import decode, rgb

    for footage in frames:
        wanted = [k for k, t in enumerate(footage.timesteps) if (t, footage.camera) in chosen]
        numbers = [footage.numbers[k] for k in wanted]
        pictures = map(rgb, decode(footage.video, numbers, 1))  # one at a time: they are large
        masks: Iterator[np.ndarray | None]
        if isinstance(footage.masks, Path):
            masks = (rgb(picture)[..., 1] for picture in decode(footage.masks, numbers, 1))
        else:
            masks = (_decoded(path, cv2.IMREAD_GRAYSCALE) for path in [footage.masks[k] for k in wanted])
        for k, picture, mask in zip(wanted, pictures, masks, strict=True):
            yield _sample(footage.timesteps[k], footage.camera, picture, mask, size)


def _sample(
    timestep: int, camera: int, image: np.ndarray | None, mask: np.ndarray | None, size: tuple[int, int]
) -> Sample:
    if image is not None:
        image = np.ascontiguousarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA))
    if mask is not None:
        mask = cv2.resize(np.ascontiguousarray(mask), size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return Sample(timestep, camera, image, mask)


def filled_share(mask: np.ndarray) -> float:
    """Share of the smallest rectangle around a mask that it fills, in [0, 1]."""
    inside = mask >= 0.5
    rows, columns = inside.any(axis=1), inside.any(axis=0)
    if not rows.any():
        return 0.0
    height, width = (np.ptp(np.flatnonzero(line)) + 1 for line in (rows, columns))
    return float(inside.sum() / (height * width))

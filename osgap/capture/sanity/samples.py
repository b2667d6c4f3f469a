"""The frames that are looked at: which of a recording's, decoded and reduced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from osgap.capture.encoded import check_mask, checked_frame, read_file
from osgap.capture.tracking.masks import missing_mask
from osgap.capture.tracking.recording import Footage, Pictures, Recording
from osgap.runtime.prefetch import in_threads, processors

PIXELS = 12_000_000
"""Of all images that are decoded, about; more where that is less than `FEWEST` frames."""
FEWEST, MOST = 96, 480
"""Frames of a recording that are looked at, if it has so many; of small ones no more than `SMALL`, or a tenth."""
SMALL = 144
SUSPECTS = 32
"""Frames that are looked at besides, because their files are much smaller or larger than their neighbours'."""
_DECODED = 0.3
"""Share of the frames between keyframes of a video that may have to be decoded for the sample. Decoding is a seventh of
the import of videos of seven megapixels with 50 kB a frame (two thirds with 600 kB), so that this is a twentieth."""
_SHORT = 24
"""Frames of a video that may be decoded whatever their share."""
_MOST_WORKERS = 8  # each has a picture of full size in its hands
HEIGHT = 240
"""Of the reduced images [pixels], at most."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One frame, reduced."""

    timestep: int
    camera: int
    image: np.ndarray | None
    """`[h, w, 3]` uint8 RGB. None: only masks are looked at."""
    mask: np.ndarray
    """`[h, w]` float32 in [0, 1]."""


def reduced_size(recording: Recording) -> tuple[int, int]:
    """Width and height of reduced images."""
    scale = min(1.0, HEIGHT / max(recording.height, recording.width))
    return max(round(recording.width * scale), 1), max(round(recording.height * scale), 1)


def chosen_frames(recording: Recording) -> list[tuple[int, int]]:
    """(timestep, camera) of the frames to look at: of every sequence the first, the middle and the last moment (of
    `moments_at_hand`) with all cameras, more moments as far as the bounds allow, and frames whose files are
    conspicuous."""
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
    lengths = Counter(timestep.sequence for timestep in recording.timesteps)
    chosen: set[int] = set()
    for name, rows in moments_at_hand(recording).items():
        wanted = max(3, count * lengths[name] // len(recording.timesteps))
        places = np.linspace(0, len(rows) - 1, min(wanted, len(rows)))
        chosen.update(rows[round(place)] for place in places)
    return sorted(chosen)


def moments_at_hand(recording: Recording) -> dict[str, list[int]]:
    """Rows of each sequence's timesteps, in their order. Of videos only those soon after a keyframe, so that what is
    decoded for a few of them is bounded; the first camera's videos stand for all.

    Raises:
        UserError: when one of these videos is missing, or none.
    """
    sequences: dict[str, list[int]] = {}
    if isinstance(recording.frames, Pictures):
        for row, timestep in enumerate(recording.timesteps):
            sequences.setdefault(timestep.sequence, []).append(row)
    else:
        for footage in recording.frames:
            names = {recording.timesteps[row].sequence for row in footage.timesteps}
            if not names <= set(sequences):
                sequences |= dict.fromkeys(names, _soon_decoded(footage))
    for rows in sequences.values():
        rows.sort(key=lambda row: recording.timesteps[row].index)
    return sequences


def _soon_decoded(footage: Footage) -> list[int]:
    """Timesteps before which few frames have to be decoded."""
    from osgap.capture.video import keyframes

    numbers = np.array(footage.numbers)
    first, end = int(numbers[0]), int(numbers[-1]) + 1
    soon = np.ones(len(numbers), bool)
    videos = [footage.video, *([footage.masks] if isinstance(footage.masks, Path) else [])]
    for video in videos if end - first > _SHORT else []:
        starts = np.array([first, *(number for number in keyframes(video) if first < number < end)])
        lengths = np.diff(starts, append=end)
        group = np.searchsorted(starts, numbers, side="right") - 1
        soon &= numbers - starts[group] < np.maximum(_DECODED * lengths[group], 1)
    return [row for row, fine in zip(footage.timesteps, soon.tolist(), strict=True) if fine]


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


def read_samples(recording: Recording, chosen: list[tuple[int, int]], *, images: bool = True) -> list[Sample]:
    """Check, decode and reduce frames.

    Args:
        images: whether the images are read as well as the masks; frames of videos always are.

    Raises:
        UserError: naming the first file that is broken, missing or of another size or kind than it must have, as the
            import itself does (`osgap.capture.encoded`).
    """
    frames = recording.frames
    if isinstance(frames, Pictures):
        tasks = (
            partial(_of_files, t, c, frames.images[t][c] if images else None, frames.masks[t][c], recording)
            for t, c in chosen
        )
        workers = min(processors(), _MOST_WORKERS)
        return list(in_threads(tasks, depth=2 * workers, workers=workers))
    return sorted(_of_footage(frames, set(chosen), recording), key=lambda sample: (sample.timestep, sample.camera))


def _of_files(timestep: int, camera: int, image: Path | None, mask: Path | None, recording: Recording) -> Sample:
    pixels = alpha = None
    if image is not None:
        pixels, alpha = checked_frame(read_file(image), str(image), recording.width, recording.height)
        if mask is None and alpha is None:
            raise missing_mask(image)
    if mask is not None:
        alpha = _mask(mask, recording)
    assert alpha is not None
    return _sample(timestep, camera, pixels, alpha, recording)


def _mask(path: Path, recording: Recording) -> np.ndarray:
    return check_mask(read_file(path), str(path), recording.width, recording.height)


def _of_footage(frames: list[Footage], chosen: set[tuple[int, int]], recording: Recording) -> Iterator[Sample]:
    from osgap.capture.video import decode_few, rgb

    threads = min(processors(), _MOST_WORKERS)
    for footage in frames:
        wanted = [k for k, t in enumerate(footage.timesteps) if (t, footage.camera) in chosen]
        numbers = [footage.numbers[k] for k in wanted]
        pictures = map(rgb, decode_few(footage.video, numbers, threads))  # one at a time: they are large
        masks: Iterator[np.ndarray]
        if isinstance(footage.masks, Path):
            masks = (rgb(picture)[..., 1] for picture in decode_few(footage.masks, numbers, threads))
        else:
            masks = (_mask(path, recording) for path in [footage.masks[k] for k in wanted])
        for k, picture, mask in zip(wanted, pictures, masks, strict=True):
            yield _sample(footage.timesteps[k], footage.camera, picture, mask, recording)


def _sample(timestep: int, camera: int, image: np.ndarray | None, mask: np.ndarray, recording: Recording) -> Sample:
    size = reduced_size(recording)
    if image is not None:
        image = np.ascontiguousarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA))
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

"""Single frames of a recording, decoded: for whoever looks at some of them before all are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import cv2
import numpy as np

from osgap.capture.encoded import decode_frame, decode_mask, read_file
from osgap.capture.tracking.recording import Footage, Pictures, Recording
from osgap.capture.video import decode, rgb
from osgap.runtime.prefetch import in_threads, processors

Sample = tuple[tuple[int, int], np.ndarray, np.ndarray]
"""(timestep, camera), image `[H, W, 3]` uint8 RGB, mask `[H, W]` uint8."""

_MOST_WORKERS = 4  # each has a frame in its hands


def samples(recording: Recording, wanted: Iterable[tuple[int, int]]) -> Iterator[Sample]:
    """Chosen frames as they lie in their files, in any order; of videos without the correction of colours.

    Args:
        wanted: (timestep, camera) of each; those that stand there twice come once.

    Raises:
        UserError: while iterating, naming the file that is broken or missing.
    """
    pairs = sorted(set(wanted))
    if isinstance(recording.frames, Pictures):
        workers = min(processors(), _MOST_WORKERS)
        tasks = (partial(_of_files, recording.frames, pair) for pair in pairs)
        yield from in_threads(tasks, depth=workers, workers=workers)
    else:
        for footage in recording.frames:
            yield from _of_footage(footage, {t for t, camera in pairs if camera == footage.camera})


def _of_files(pictures: Pictures, pair: tuple[int, int]) -> Sample:
    timestep, camera = pair
    image, mask = pictures.images[timestep][camera], pictures.masks[timestep][camera]
    content = read_file(image)
    alpha = decode_mask(read_file(mask) if mask else content, str(mask or image))
    return pair, decode_frame(content, str(image)), alpha


def _of_footage(footage: Footage, wanted: set[int]) -> Iterator[Sample]:
    rows = [row for row, timestep in enumerate(footage.timesteps) if timestep in wanted]
    if not rows:
        return
    numbers = [footage.numbers[row] for row in rows]
    pictures = decode(footage.video, numbers, processors())
    if isinstance(footage.masks, list):
        masks = (decode_mask(read_file(footage.masks[row]), str(footage.masks[row])) for row in rows)
    else:
        grey = decode(footage.masks, numbers, processors())
        masks = (cv2.cvtColor(rgb(frame), cv2.COLOR_RGB2GRAY) for frame in grey)
    for row, picture, alpha in zip(rows, pictures, masks, strict=True):
        yield (footage.timesteps[row], footage.camera), rgb(picture), alpha

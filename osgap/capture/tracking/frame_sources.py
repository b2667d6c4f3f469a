"""The frames of a recording, encoded as a store keeps them: files as they are, or pictures made from files or videos.

Threads decode, scale and encode a few frames ahead of the one that is written; each video is decoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import cv2
import numpy as np

from osgap.capture.encoded import check_frame, check_mask, decode_frame, decode_mask, encode_png, on_white, read_file
from osgap.capture.tracking.masks import missing_mask
from osgap.capture.tracking.recording import Footage, Pictures, Recording
from osgap.capture.video import decode, rgb
from osgap.runtime.errors import UserError
from osgap.runtime.prefetch import in_threads, processors
from osgap.runtime.progress import track

if TYPE_CHECKING:
    import av

Encoded = tuple[bytes, bytes]
"""Image and mask; an empty mask is the image's alpha channel."""

_AHEAD = 2  # frames per thread that may wait to be written; bounds the memory
_MOST_WORKERS = 8  # likewise: each has pictures of full size in its hands


@dataclass(frozen=True)
class EncodedFrames:
    """All frames of a recording, in the order in which they are written."""

    order: list[tuple[int, int]]
    """(timestep, camera) of each."""
    size: int | None
    """Bytes of all together; None where that shows at the end."""
    contents: Iterator[Encoded]


def scaled_size(recording: Recording, width: int | None) -> tuple[int, int]:
    """Width and height of the stored frames; `width` None is the recording's own."""
    if width is None:
        return recording.width, recording.height
    return width, max(round(recording.height * width / recording.width), 1)


def scaled_intrinsics(recording: Recording, width: int, height: int) -> np.ndarray:
    """`[C, 3, 3]` for frames of that size. Pixel centres are at + 0.5, so the principal point scales like a length."""
    return np.array([[width / recording.width], [height / recording.height], [1]]) * recording.intrinsics


def encoded_frames(recording: Recording, width: int, height: int, description: str) -> EncodedFrames:
    """The frames of a recording in the given size; files that have it stay as they are, byte for byte.

    Args:
        description: of the progress.

    Raises:
        UserError: while iterating, naming the file: an image, mask or video that is broken, missing or of another size
            than the recording says.
    """
    frames, person = recording.frames, Event()
    if isinstance(frames, Pictures):
        order = list(np.ndindex(len(recording.timesteps), len(recording.serials)))
        verbatim = (width, height) == (recording.width, recording.height) and not frames.background
        pairs = [(frames.images[t][c], frames.masks[t][c]) for t, c in order]
        size = sum(_file_size(path) for pair in pairs for path in pair if path) if verbatim else None
        tasks: Iterator[Callable[[], Encoded]] = (
            partial(_of_files, image, mask, recording, None if verbatim else (width, height), person)
            for image, mask in pairs
        )
    else:
        order = [(t, footage.camera) for footage in frames for t in footage.timesteps]
        size = None
        tasks = (task for footage in frames for task in _of_footage(footage, recording, (width, height), person))
    encoded = in_threads(tasks, depth=_AHEAD * _workers(), workers=_workers())
    contents = track(encoded, f"{description} import", total=len(order))
    return EncodedFrames(order, size, _with_somebody(contents, recording, person))


def _with_somebody(contents: Iterable[Encoded], recording: Recording, person: Event) -> Iterator[Encoded]:
    yield from contents
    if not person.is_set():
        raise UserError(
            f"{recording.folder}: all masks are black, so that nobody is in the images. Masks are white where the "
            f"person is: make them with a matting program (docs/data.md)."
        )


def _workers() -> int:
    return min(processors(), _MOST_WORKERS)


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return len(read_file(path))  # says what is wrong


# from files --------------------------------------------------------------------------------------------------


def _of_files(
    image: Path, mask: Path | None, recording: Recording, size: tuple[int, int] | None, person: Event
) -> Encoded:
    """A frame that is an image file and a mask file, or an image with alpha; `size` None: as they are.

    Where images show the room, the mask cuts the person out.
    """
    content = read_file(image)
    header = check_frame(content, str(image), recording.width, recording.height)
    if mask is None and header.color != "rgba":
        raise missing_mask(image)
    if mask:
        mask_content, alpha = _checked_mask(mask, recording)
    else:
        mask_content, alpha = b"", decode_mask(content, str(image))
    _seen(alpha, person)
    if size is None:
        return content, mask_content
    pixels = decode_frame(content, str(image))
    if mask and isinstance(recording.frames, Pictures) and recording.frames.background:
        pixels = on_white(pixels, alpha)
    return encode_png(_resized(pixels, size)), encode_png(_resized(alpha, size))


def _checked_mask(mask: Path, recording: Recording) -> tuple[bytes, np.ndarray]:
    content = read_file(mask)
    return content, check_mask(content, str(mask), recording.width, recording.height)


def _seen(alpha: np.ndarray, person: Event) -> None:
    """Take note of a mask that shows somebody."""
    if not person.is_set() and alpha.any():
        person.set()


# from videos -------------------------------------------------------------------------------------------------


def _of_footage(
    footage: Footage, recording: Recording, size: tuple[int, int], person: Event
) -> Iterator[Callable[[], Encoded]]:
    """What is to be done for each frame of the footage, with the decoded frames at hand."""
    threads = _workers()
    pictures = decode(footage.video, footage.numbers, threads)
    if isinstance(footage.masks, Path):
        for picture, alpha in zip(pictures, decode(footage.masks, footage.numbers, threads), strict=True):
            yield partial(_of_frames, picture, alpha, footage, size, person)
    else:
        for picture, mask in zip(pictures, footage.masks, strict=True):
            yield partial(_of_frame_and_file, picture, mask, footage, recording, size, person)


def _of_frames(
    picture: av.VideoFrame, alpha: av.VideoFrame, footage: Footage, size: tuple[int, int], person: Event
) -> Encoded:
    """A frame from a video of colours and one of alpha, which is grey."""
    mask = _resized(cv2.cvtColor(rgb(alpha), cv2.COLOR_RGB2GRAY), size)
    _seen(mask, person)
    return encode_png(on_white(_picture(picture, footage, size), mask)), encode_png(mask)


def _of_frame_and_file(
    picture: av.VideoFrame, mask: Path, footage: Footage, recording: Recording, size: tuple[int, int], person: Event
) -> Encoded:
    """A frame from a video of colours and a mask file."""
    content, alpha = _checked_mask(mask, recording)
    _seen(alpha, person)
    if size != (recording.width, recording.height):
        alpha = _resized(alpha, size)
        content = encode_png(alpha)
    return encode_png(on_white(_picture(picture, footage, size), alpha)), content


def _picture(frame: av.VideoFrame, footage: Footage, size: tuple[int, int]) -> np.ndarray:
    """`[H, W, 3]` uint8 in its final size and colours."""
    pixels = _resized(rgb(frame), size)
    if footage.correction is None:
        return pixels
    from osgap.capture.tracking.color_correction import correct_color

    return correct_color(pixels, footage.correction)


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels `[H, W, ...]` in another size (width, height): averaged where they become fewer, else interpolated."""
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    smaller = size[0] <= width and size[1] <= height
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)

"""Videos, decoded once from their beginning."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    import av

_MOST_THREADS = 16  # each holds a frame


@dataclass(frozen=True)
class VideoInfo:
    """What a video's header says."""

    frames: int
    width: int
    height: int


def read_info(path: Path) -> VideoInfo:
    """Size and number of frames of a video, without decoding it (counted, where the header does not say).

    Raises:
        UserError: when it is missing, no video, or of a codec that cannot be decoded.
    """
    with _opened(path) as (container, stream):
        frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
        if frames == 0:
            raise _broken(path, "the video has no frames")
        if not stream.width or not stream.height:
            raise _broken(path, "the video has no size")
        return VideoInfo(frames, stream.width, stream.height)


def decode(path: Path, numbers: Sequence[int], threads: int = 1) -> Iterator[av.VideoFrame]:
    """The given frames of a video. It is decoded from its beginning to the last of them, and a frame is given when it
    is decoded, so that memory does not depend on the number of frames.

    Args:
        numbers: of the frames, from 0; ascending.
        threads: that decode.

    Raises:
        UserError: naming the file: it is missing, no video, of a codec that cannot be decoded, ends too early, is
            damaged, its frames change their size, or its header has players turn them.
    """
    wanted = iter(numbers)
    target = next(wanted, None)
    size = None
    count = 0
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = min(threads, _MOST_THREADS)
        for frame in _frames(container, stream, path):
            if target is None:
                break
            if frame.rotation:
                raise UserError(
                    f"{path}: its header has players turn it by {frame.rotation} degrees, which some programs do and "
                    f"others do not. Let `ffmpeg -i IN OUT` turn the pixels if it was tracked as players show it, or "
                    f"`ffmpeg -display_rotation 0 -i IN -c copy OUT` remove the note if not."
                )
            size = size or (frame.width, frame.height)
            if (frame.width, frame.height) != size:
                raise _broken(
                    path, f"frame {count} has {frame.width}x{frame.height} pixels, the first has {size[0]}x{size[1]}"
                )
            if count == target:
                if frame.is_corrupt:
                    raise _broken(path, f"frame {count} is damaged")
                yield frame
                target = next(wanted, None)
            count += 1
    if target is not None:
        raise _broken(path, f"the video ends after {count} frames, but frame {target} is tracked")


def rgb(frame: av.VideoFrame) -> np.ndarray:
    """`[H, W, 3]` uint8 pixels of a frame of any depth and range."""
    if frame.format.components[0].bits <= 8:
        return frame.to_ndarray(format="rgb24")
    from av.video.reformatter import Interpolation

    # FFmpeg's fast conversion of deeper formats makes white 253.
    exact = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    return frame.to_ndarray(format="rgb24", interpolation=exact)


def _frames(container: Any, stream: Any, path: Path) -> Iterator[av.VideoFrame]:
    for number, packet in enumerate(container.demux(stream)):
        if packet.is_corrupt:
            raise _broken(path, f"truncated: frame {number} is incomplete")
        yield from packet.decode()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its picture stream; FFmpeg's errors become ours, also those of the `with` block."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise _broken(path, "not a video (it has no picture stream)")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise _broken(path, "its codec is none that can be decoded here (NeRSemble's videos are H.264)")
            yield container, stream
    except FileNotFoundError:
        raise UserError(f"{path}: no such video. Fetch it again, or leave out its sequence or camera.") from None
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _broken(path, f"not a video that can be decoded ({reason})") from None


def _broken(path: Path, problem: str) -> UserError:
    return UserError(
        f"{path}: {problem}. Fetch or export the video again; if it stays so, the file is damaged where it comes from."
    )

"""Videos, decoded once from their beginning, or a few frames of them from the keyframes before these."""

from __future__ import annotations

import bisect
import contextlib
import functools
from collections.abc import Container, Iterator, Sequence
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
    with _opened(path, threads) as (container, stream):
        for frame in _frames(container, stream, path):
            if target is None:
                break
            _refuse_turned(frame, path)
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


def decode_few(path: Path, numbers: Sequence[int], threads: int = 1) -> Iterator[av.VideoFrame]:
    """The given frames of a video, as `decode` gives them, for those who need few: each is decoded from the keyframe
    before it, and frames on the way that no other needs are not decoded.

    Which frame has which number is taken from the packets' times, for which the file is read, but not decoded. Where
    these do not say (a raw stream), or the container does not lead to the keyframe, it is decoded from its beginning.

    Args:
        numbers: of the frames, from 0; ascending.
        threads: that decode.

    Raises:
        UserError: as `decode`, as far as these frames show it.
    """
    with _opened(path, threads) as (container, stream):
        index = _Index.of(container, stream)
        reached = _few(container, stream, path, numbers, index) if index else iter(())
        given = 0
        for frame in reached:
            yield frame
            given += 1
    if given < len(numbers):
        yield from decode(path, numbers[given:], threads)


def keyframes(path: Path) -> tuple[int, ...]:
    """Numbers of the frames from which decoding can begin, ascending; the first only, where the packets' times do not
    say which frame is which. The file is read for it, once while it stays as it is, and not decoded.

    Raises:
        UserError: when it is missing, no video, or of a codec that cannot be decoded.
    """
    state = path.stat() if path.is_file() else None
    return _keyframes(path, state.st_mtime_ns if state else 0, state.st_size if state else 0)


@functools.lru_cache(maxsize=256)
def _keyframes(path: Path, _time: int, _size: int) -> tuple[int, ...]:
    with _opened(path) as (container, stream):
        index = _Index.of(container, stream)
        return tuple(number for number, _ in index.keys) if index else (0,)


@dataclass(frozen=True)
class _Index:
    """The frames of a video by their presentation times."""

    numbers: dict[int | None, int]
    keys: list[tuple[int, int]]
    """Number and decoding time of the keyframes, ascending."""

    @classmethod
    def of(cls, container: Any, stream: Any) -> _Index | None:
        """None where the packets' times do not say which frame is which."""
        import av

        packets = []
        with contextlib.suppress(av.FFmpegError):  # an end that is broken may be one that nobody wants
            for packet in container.demux(stream):
                if packet.size:
                    packets.append((packet.pts, packet.dts, packet.is_keyframe))
                if packet.size and (packet.pts is None or packet.dts is None or packet.is_discard):
                    return None
        numbers = {pts: number for number, pts in enumerate(sorted(pts for pts, *_ in packets))}
        keys = sorted((numbers[pts], dts) for pts, dts, key in packets if key)
        return cls(numbers, keys) if len(numbers) == len(packets) and keys and keys[0][0] == 0 else None

    def key_before(self, number: int) -> tuple[int, int]:
        """The last keyframe that is not after a frame: its number and its decoding time."""
        return self.keys[bisect.bisect_right(self.keys, number, key=lambda key: key[0]) - 1]


def _few(container: Any, stream: Any, path: Path, numbers: Sequence[int], index: _Index) -> Iterator[av.VideoFrame]:
    """The first of the frames, or all: up to one that is not met where it should be."""
    wanted = set(numbers)
    times = {time for time, number in index.numbers.items() if number in wanted}
    frames: Iterator[av.VideoFrame] = iter(())
    position = -1
    for target in numbers:
        start, time = index.key_before(target)
        if start > position:
            container.seek(time, stream=stream)
            frames = _frames(container, stream, path, times)
        for frame in frames:
            position = index.numbers.get(frame.pts, -1)
            if position >= target:
                break
        if position != target or frame.is_corrupt:
            return
        _refuse_turned(frame, path)
        yield frame


def rgb(frame: av.VideoFrame) -> np.ndarray:
    """`[H, W, 3]` uint8 pixels of a frame of any depth and range."""
    if frame.format.components[0].bits <= 8:
        return frame.to_ndarray(format="rgb24")
    from av.video.reformatter import Interpolation

    # FFmpeg's fast conversion of deeper formats makes white 253.
    exact = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    return frame.to_ndarray(format="rgb24", interpolation=exact)


def _frames(
    container: Any, stream: Any, path: Path, times: Container[int | None] | None = None
) -> Iterator[av.VideoFrame]:
    """Decoded frames from where the container is.

    Args:
        times: of those that are wanted; others are left out where no frame refers to them. None: all are wanted.
    """
    for number, packet in enumerate(container.demux(stream)):
        if packet.is_corrupt:
            raise _broken(path, f"truncated: frame {number} is incomplete")
        if times is not None:
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in times else "NONREF"
        yield from packet.decode()


def _refuse_turned(frame: av.VideoFrame, path: Path) -> None:
    if frame.rotation:
        raise UserError(
            f"{path}: its header has players turn it by {frame.rotation} degrees, which some programs do and "
            f"others do not. Let `ffmpeg -i IN OUT` turn the pixels if it was tracked as players show it, or "
            f"`ffmpeg -display_rotation 0 -i IN -c copy OUT` remove the note if not."
        )


@contextlib.contextmanager
def _opened(path: Path, threads: int = 1) -> Iterator[tuple[Any, Any]]:
    """The container and its picture stream, decoded by so many threads; FFmpeg's errors become ours, also those of the
    `with` block."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise _broken(path, "not a video (it has no picture stream)")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise _broken(path, "its codec is none that can be decoded here (NeRSemble's videos are H.264)")
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = min(threads, _MOST_THREADS)
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

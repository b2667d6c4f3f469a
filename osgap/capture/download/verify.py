"""Whether a file has arrived undamaged: videos are decoded, small files are read as their readers read them."""

from __future__ import annotations

import dataclasses
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from osgap.capture.config import VIDEO_SEQUENCES
from osgap.capture.nersemble import CATALOGUE
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    import av

_NAL_LENGTH_AT = {"h264": 4, "hevc": 21}  # byte of the decoder configuration record, ISO/IEC 14496-15, 5.3.3, 8.3.3
_NAL_FORBIDDEN = re.compile(rb"\0\0[\0-\2]")  # inside a NAL unit, ITU-T H.264 and H.265, 7.4.1 and 7.4.2

_DECODER_THREADS = max(2, min(os.cpu_count() or 1, 8))  # with one thread, neither kind of threading is in use


Check = Callable[[Path, str], dict[str, Any]]
"""Reads a file, given what messages call it; returns what the manifest says of it, or raises `UserError`."""


@dataclass(frozen=True)
class VideoInfo:
    """What a complete video holds."""

    frames: int
    width: int
    height: int


class _BrokenError(Exception):
    """Says what is wrong with a video."""


def inspect_video(path: Path, name: str) -> VideoInfo:
    """Decode a video from its first frame to its last.

    FFmpeg's HEVC decoder takes most damaged slices for good. So, besides what a decoder reports, the NAL units of
    H.264 and HEVC must have their lengths, header bits and escapes in order, which a hole or a wrong splice does not;
    and HEVC is decoded twice, frame by frame and row by row. Where its rows can be decoded in parallel (ITU-T H.265,
    entropy coding synchronisation: x265's default), the first finds the beginning of a row at the end of the one
    before, the second in the slice's header, so that damage makes the two differ.

    Args:
        name: what the message calls the file.

    Raises:
        UserError: when it is no video, ends before its end, or is damaged in between.
    """
    import av

    try:
        info, checksums = _decode_by_frames(path)
        if checksums and checksums != _decode_by_rows(path):
            raise _BrokenError("damaged: the rows of a frame do not begin where its header says")
        return info
    except _BrokenError as error:
        problem = str(error)
    except (av.FFmpegError, OSError) as error:
        problem = f"not a video that can be decoded ({error.strerror})"
    raise UserError(
        f"{name}: {problem}. What arrived is not kept; run again, and if it stays so, the file is damaged where it "
        f"comes from"
    )


def _decode_by_frames(path: Path) -> tuple[VideoInfo, list[tuple[int, ...]]]:
    """What the video holds, and of HEVC a checksum of each frame."""
    import av

    with av.open(str(path)) as container:
        stream = _picture_stream(container)
        # The H.264 decoder marks the frames that it had to conceal only when it decodes frame by frame.
        stream.thread_type, stream.thread_count = "FRAME", _DECODER_THREADS
        codec = stream.codec_context.name
        nal_length = _nal_length(codec, stream.codec_context.extradata)
        packets = frames = width = height = 0
        checksums = []
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise _BrokenError(f"truncated: frame {packets} is incomplete")
            if packet.size:
                packets += 1
                if nal_length and not _nal_units_are_sound(bytes(packet), nal_length, codec):
                    raise _BrokenError(f"damaged: the data of frame {packets - 1} is no sequence of NAL units")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise _BrokenError(f"damaged: frame {frames} does not decode")
                frames, width, height = frames + 1, frame.width, frame.height
                if codec == "hevc":
                    checksums.append(_checksum(frame))
        if packets == 0:
            raise _BrokenError("the video has no frames")
        if stream.frames and stream.frames != packets:
            raise _BrokenError(f"truncated: its header promises {stream.frames} frames, {packets} are there")
        if frames != packets:
            raise _BrokenError(f"damaged: {packets} frames are there, {frames} decode")
    return VideoInfo(frames, width, height), checksums


def _picture_stream(container: av.container.InputContainer) -> av.VideoStream:
    if "mp4" not in container.format.name.split(","):
        raise _BrokenError(f"not a video in MP4 (but {container.format.name})")
    if not container.streams.video:
        raise _BrokenError("not a video (it has no picture stream)")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise _BrokenError("not a video that can be decoded (its codec is none that FFmpeg knows)")
    return stream


def _decode_by_rows(path: Path) -> list[tuple[int, ...]]:
    """A checksum of each frame, whose rows are decoded in parallel."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "SLICE", _DECODER_THREADS
        return [_checksum(frame) for frame in container.decode(stream)]


def _checksum(frame: av.VideoFrame) -> tuple[int, ...]:
    """Of the pixels, without the padding of the rows, which is arbitrary."""
    sample = 2 if frame.format.components[0].bits > 8 else 1
    planes = (np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size) for plane in frame.planes)
    return tuple(
        zlib.crc32(rows[: plane.height, : plane.width * sample].tobytes())
        for rows, plane in zip(planes, frame.planes, strict=True)
    )


def _nal_length(codec: str, extradata: bytes | None) -> int | None:
    """Bytes of the length before each NAL unit; None where the stream is not made of such units."""
    at = _NAL_LENGTH_AT.get(codec)
    if at is None or not extradata or len(extradata) <= at or extradata[0] != 1:
        return None
    return (extradata[at] & 3) + 1


def _nal_units_are_sound(data: bytes, length_bytes: int, codec: str) -> bool:
    position = 0
    while position < len(data):
        start = position + length_bytes
        position = start + int.from_bytes(data[position:start], "big")
        unit = data[start:position].rstrip(b"\0")
        # The first bit is forbidden; a NAL unit of HEVC has a header of two bytes whose last three bits are not 0.
        if position > len(data) or not unit or unit[0] & 0x80 or _NAL_FORBIDDEN.search(unit):
            return False
        if codec == "hevc" and (len(unit) < 2 or not unit[1] & 7):
            return False
    return True


def check_with(read: Callable[[Path], object]) -> Check:
    """A check of a small file by its reader."""

    def check(path: Path, name: str) -> dict[str, Any]:
        try:
            read(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), name)) from None
        return {}

    return check


def check_video(path: Path, name: str) -> dict[str, Any]:
    """What `inspect_video` finds."""
    return dataclasses.asdict(inspect_video(path, name))


def check_catalogue(path: Path) -> None:
    """Raise `UserError` unless a file is the table of sequences."""
    head = path.read_bytes().split(b"\n", 1)[0].decode("utf-8", "replace")
    if not set(VIDEO_SEQUENCES) <= {cell.strip().strip('"') for cell in head.split(",")}:
        raise UserError(
            f"{CATALOGUE} is not NeRSemble's table of sequences (its first line does not name them); check that the "
            f"data URL is the one from NeRSemble's mail"
        )

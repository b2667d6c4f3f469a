"""Writing frames: H.264 in MP4, or a folder of PNGs. All take frames as they come, in bounded memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import closing
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from osgap.runtime.artifacts import atomic_folder, atomic_path, encode_png, read_provenance, write_json
from osgap.runtime.errors import UserError
from osgap.runtime.prefetch import in_threads, processors

RECORD = "render.json"
"""What a folder of frames says about itself."""

_FRAME = re.compile(r"\d{5,}\.png")
_BT709 = 1  # in H.264's tables of primaries, transfer and matrix alike


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    crf: int,
    provenance: Mapping[str, Any],
    threads: int = 1,
    preset: Literal["medium", "veryfast"] = "medium",
) -> None:
    """Encode frames as H.264 (yuv420p, BT.709) in MP4; provenance goes into its comment.

    Args:
        frames: `[H, W, 3]` uint8 RGB, H and W even.
        crf: constant rate factor of x264, 0 (lossless but for the colour space) to 51.
        threads: of x264; 0 means as many as it likes. The same frames give the same bytes for the same number.
        preset: of x264. `veryfast` is three times as fast and a little less sharp at the same `crf`.
    """
    import av
    from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

    with (
        atomic_path(path) as temporary,
        # Muxers write their version, unless they are told to be bit-exact.
        av.open(str(temporary), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as file,
    ):
        file.metadata["comment"] = json.dumps(provenance, sort_keys=True)
        rate = Fraction(fps).limit_denominator(1001)
        # Macroblock trees read memory that nobody wrote: with them the bytes differ from run to run.
        options = {"crf": str(crf), "preset": preset, "x264-params": "mbtree=0"}
        stream = file.add_stream("libx264", rate=rate, options=options)
        stream.pix_fmt = "yuv420p"
        stream.thread_count = threads
        # Without these players guess the matrix from the size, and some guess wrong.
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = ColorRange.MPEG
        convert = VideoReformatter().reformat
        for index, frame in enumerate(frames):
            if index == 0:
                stream.height, stream.width = frame.shape[:2]
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture = convert(
                picture, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            for packet in stream.encode(picture):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)


def write_frames(
    folder: Path, frames: Iterable[np.ndarray], about: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Write `00000.png` and so on, and `render.json`; all of it or nothing. Replaces what `check_folder` lets through.

    Args:
        frames: `[H, W, 3]` or `[H, W, 4]` uint8, see `osgap.runtime.artifacts.encode_png`.
        about: content of `render.json`, beside the number of frames and the provenance.

    Raises:
        UserError: see `check_folder`, also when something came into the folder while the frames were made.
    """
    workers = processors()
    with atomic_folder(folder) as temporary:
        tasks = (partial(_write_frame, temporary / f"{index:05d}.png", frame) for index, frame in enumerate(frames))
        with closing(in_threads(tasks, depth=2 * workers, workers=workers, name="write-png")) as written:
            count = sum(1 for _ in written)
        write_json(temporary / RECORD, {**about, "frames": count}, provenance)
        check_folder(folder)  # again: rendering takes long, and what came there meanwhile is not ours to remove


def _write_frame(path: Path, frame: np.ndarray) -> int:
    return path.write_bytes(encode_png(frame))


def check_folder(folder: Path) -> None:
    """Refuse a folder that frames may not be written to: only an empty one, or one of our own frames, is replaced.

    Raises:
        UserError: when it is a file, cannot be read, or holds anything else.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; frames go to a folder. Give another name.")
    try:
        names = sorted(path.name for path in folder.iterdir())
    except PermissionError:
        raise UserError(f"{folder}: cannot be read; check its permissions, or give another name.") from None
    if not names:
        return
    other = [name for name in names if name != RECORD and not _FRAME.fullmatch(name)]
    if other or not _is_ours(folder / RECORD):
        raise UserError(
            f"{folder}: exists, and is no folder of frames that was written here (it has "
            f"{other[0] if other else 'no ' + RECORD}). Give another name, or remove it."
        )


def _is_ours(record: Path) -> bool:
    try:
        provenance = read_provenance(record)
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(provenance, dict) and provenance.get("stage") == "render"

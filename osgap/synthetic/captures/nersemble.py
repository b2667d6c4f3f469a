"""Synthetic people as NeRSemble v2 serves real ones: tables, calibrations and a video per camera below one root.

Names and places come from `nersemble_data.constants.ASSETS`. Every camera sees colours a little differently; its
colour correction matrix (Cheung et al. 2004, "A comparative study of the characterisation of colour cameras", the
method of `nersemble_data.util.color_correction`) is the inverse of what was done to its video.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from nersemble_data.constants import ASSETS, SEQUENCE_NAMES

from osgap.runtime.artifacts import write_text
from osgap.runtime.errors import UserError
from osgap.synthetic.captures.cameras import CameraArray
from osgap.synthetic.people.srgb import linear_to_srgb, srgb_to_linear

FRAMES_PER_SECOND = 24

_GAIN = (0.84, 0.97)  # of a channel; below 1, so that white is not clipped
_CROSSTALK = (0.0, 0.05)  # part of a channel that is the mean of all
_QUALITY = "10"  # x264's constant rate factor: visually lossless
_LEVELS = 4096 * 4  # of linear light, fine enough for the darkest codes


def publish(root: Path, subject: str, sequences: Sequence[str]) -> None:
    """Enter a person into the tree's two tables, `metadata_sequences.csv` and `metadata_participants.csv`.

    People join one by one, in any order and at the same time; the tables are sorted, so they end up the same.

    Args:
        root: of the NeRSemble tree.
        subject: the person's name, in digits.
        sequences: that the person performed; each gets an `x`.

    Raises:
        UserError: a subject that is no number, or a sequence that NeRSemble does not have.
    """
    for sequence in sequences:
        if sequence not in SEQUENCE_NAMES:
            raise UserError(f"{sequence!r} is no NeRSemble sequence; known are {', '.join(SEQUENCE_NAMES)}")
    number = participant_number(subject)
    marks = ["x" if name in sequences else "" for name in SEQUENCE_NAMES]
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".tables.lock"):
        for asset, head, row in (
            ("metadata_sequences", SEQUENCE_NAMES, marks),
            ("metadata_participants", ["wears_glasses"], [""]),
        ):
            path = root / ASSETS["global"][asset]
            rows = {**_read_table(path), number: row}
            _write_table(path, [["ID", *head], *([key, *rows[key]] for key in sorted(rows))])


def _read_table(path: Path) -> dict[int, list[str]]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {int(row[0]): row[1:] for row in list(csv.reader(file))[1:]}


def _write_table(path: Path, rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def participant_number(subject: str) -> int:
    """NeRSemble's number of a synthetic person, which is the subject's name.

    Raises:
        UserError: when the name is no number.
    """
    if not subject.isascii() or not subject.isdecimal():
        raise UserError(
            f"subject {subject!r} cannot be a synthetic person: NeRSemble numbers its people; use digits, such as '101'"
        )
    return int(subject)


def color_corrections(serials: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """A mild, invertible colour correction `[3, 3]` (linear light) for every camera."""
    random = np.random.default_rng(seed)
    corrections = {}
    for serial in serials:
        gains = random.uniform(*_GAIN, 3)
        crosstalk = random.uniform(*_CROSSTALK, (3, 1))
        cast = gains[:, None] * ((1 - crosstalk) * np.eye(3) + crosstalk / 3)
        corrections[serial] = np.linalg.inv(cast)
    return corrections


def write_calibration(
    root: Path, participant: int, cameras: CameraArray, corrections: Mapping[str, np.ndarray]
) -> None:
    """Write a person's `camera_params.json` and `color_calibration.json`."""
    poses = {serial: pose.tolist() for serial, pose in zip(cameras.serials, cameras.world_to_camera, strict=True)}
    matrices = {serial: matrix.tolist() for serial, matrix in corrections.items()}
    for asset, content in (
        ("calibration", {"world_2_cam": poses, "intrinsics": cameras.intrinsics.tolist()}),
        ("color_calibration", matrices),
    ):
        path = root / ASSETS["per_person"][asset].format(p_id=participant)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")


def video_path(root: Path, participant: int, sequence: str, serial: str) -> Path:
    """Where a camera's video of a sequence lies."""
    return root / ASSETS["per_cam"]["images"].format(p_id=participant, seq_name=sequence, serial=serial)


def uncorrect(image: np.ndarray, correction: np.ndarray) -> np.ndarray:
    """What a camera saw: the picture `[H, W, 3]` uint8 sRGB from which its correction gives back `image`."""
    decoding, encoding = _transfer_tables()
    linear = decoding[image] @ np.linalg.inv(correction).T.astype(np.float32)
    return encoding[(np.clip(linear, 0, 1) * _LEVELS + 0.5).astype(np.int32)]


@functools.cache
def _transfer_tables() -> tuple[np.ndarray, np.ndarray]:
    """From sRGB codes to linear light, and back from its levels."""
    decoding = srgb_to_linear(np.arange(256) / 255.0).astype(np.float32)
    encoding = (linear_to_srgb(np.arange(_LEVELS + 1) / _LEVELS) * 255 + 0.5).astype(np.uint8)
    return decoding, encoding


def check_video_size(width: int, height: int) -> None:
    """Raise a UserError for odd image sizes, which 4:2:0 video does not have."""
    if width % 2 or height % 2:
        raise UserError(
            f"synthetic.width and synthetic.height are {width} and {height}; the cameras' videos need even numbers"
        )


def write_video(path: Path, frames: Iterable[np.ndarray], width: int, height: int) -> None:
    """Encode `[H, W, 3]` uint8 RGB frames of even size as H.264 in MP4; equal frames give equal bytes."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        # One thread: the split of a frame among threads changes the bitstream. No B-frames: exact seeking everywhere.
        options = {"crf": _QUALITY, "preset": "veryfast", "bf": "0", "threads": "1"}
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))

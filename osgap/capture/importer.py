"""Stage `import`: a FLAME tracking export, checked frame by frame, as one capture store.

Nothing is written unless everything is sound: cameras, paths and splits agree (`osgap.capture.vhap`), every image
and mask is whole and of its camera's size, every FLAME parameter is a sensible number, and where the raw videos are
part of the run the export fits them.
"""

from __future__ import annotations

import glob
import logging
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.capture.encoded import check_frame, check_mask
from osgap.capture.nersemble import (
    calibration_path,
    participant_of,
    read_calibration,
    read_json,
    sequence_in,
    video_path,
)
from osgap.capture.store import Capture, write_store
from osgap.capture.vhap import Export, read_export, read_flame, transforms_files
from osgap.errors import UserError
from osgap.progress import track
from osgap.provenance import Provenance

_AHEAD = 4  # frames per thread that may wait to be written; bounds the memory

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportInputs:
    """What an import reads."""

    tracking: Path
    """Folder of the tracking export."""
    raw: Path | None = None
    """Root of the NeRSemble tree, if raw videos are part of the run."""
    manifests: tuple[Path, ...] = ()
    """The downloads of the subject's sequences (`osgap.capture.download`); needed with `raw`."""
    template: Path | None = None
    """Template OBJ of the head model, which says how many vertices a static offset must have. None: FLAME's number
    where the export has no static offset, else no check."""


@dataclass(frozen=True)
class ImportOutputs:
    """What an import writes."""

    capture: Path
    """The capture store (`.h5`)."""


def run(
    config: CaptureConfig,
    inputs: ImportInputs,
    outputs: ImportOutputs,
    *,
    subject: str,
    seed: int,
    entry: SubjectEntry,
) -> None:
    """Import one subject's tracking export.

    Raises:
        UserError: naming the file that is broken, missing or in disagreement with others. No output is left then.
    """
    export = read_export(inputs.tracking, subject, config.held_out_camera)
    if inputs.raw is not None:
        _check_against_raw(export, inputs.raw, inputs.manifests, participant_of(subject, entry))
    params = read_flame(export.timesteps, _vertex_count(inputs.template))
    provenance = Provenance.collect(
        "import",
        subject=subject,
        config={"held_out_camera": config.held_out_camera},
        inputs=[*export.transforms, *inputs.manifests, *([inputs.template] if inputs.template else [])],
        seed=seed,
    )
    capture = Capture(
        subject=subject,
        serials=export.serials,
        world_to_camera=export.world_to_camera,
        intrinsics=export.intrinsics,
        width=export.width,
        height=export.height,
        timesteps=[(timestep.sequence, timestep.index) for timestep in export.timesteps],
        params=params,
        splits=export.splits,
    )
    size = sum(_file_size(path) for rows in (export.images, export.masks) for row in rows for path in row if path)
    write_store(outputs.capture, capture, _frames(export, subject), size, provenance)
    counts = ", ".join(f"{len(frames)} {name}" for name, frames in export.splits.items())
    _log.info("%s: %d timesteps, %d cameras (%s)", subject, len(export.timesteps), len(export.serials), counts)


def find_tracking(config: CaptureConfig, subject: str, entry: SubjectEntry) -> Path:
    """The folder of a subject's tracking export.

    Raises:
        UserError: when the config names none, or not exactly one folder fits.
    """
    template = entry.tracking or config.tracking
    if template is None:
        raise UserError(
            f"subject {subject}: no tracking export is named; set capture.tracking (such as "
            f"'data/tracking/UNION10_{{subject}}_*') or subjects.entries.{subject}.tracking"
        )
    participant = participant_of(subject, entry) if "{participant" in template else 0
    pattern = template.format(subject=subject, participant=participant)
    if Path(pattern).is_dir():
        return Path(pattern)
    matches = map(Path, glob.glob(pattern))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    found = sorted(path for path in matches if path.is_dir())
    key = f"subjects.entries.{subject}.tracking" if entry.tracking else "capture.tracking"
    if not found:
        raise UserError(f"subject {subject}: no folder fits {pattern} ({key}); check the path, or export the tracking")
    if len(found) > 1:
        raise UserError(
            f"subject {subject}: {len(found)} folders fit {pattern} ({key}): {', '.join(p.name for p in found[:5])}"
            f"{', …' if len(found) > 5 else ''}; make the pattern fit one, or set subjects.entries.{subject}.tracking"
        )
    return found[0]


def check_tracking(config: CaptureConfig, subject: str, entry: SubjectEntry) -> Path:
    """What can be said of a subject's tracking export without reading it; returns its folder.

    Raises:
        UserError: when it is not named, not there, or no export.
    """
    folder = find_tracking(config, subject, entry)
    try:
        transforms_files(folder)
    except UserError as error:
        raise UserError(f"subject {subject}: {error}") from None
    return folder


# the frames --------------------------------------------------------------------------------------------------


def _frames(export: Export, subject: str) -> Iterator[tuple[bytes, bytes]]:
    """Checked bytes of every image and mask, timestep-major; threads decode a few frames ahead."""
    pairs = [
        pair
        for images, masks in zip(export.images, export.masks, strict=True)
        for pair in zip(images, masks, strict=True)
    ]
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[tuple[bytes, bytes]]] = deque()
        try:
            for image, mask in track(pairs, f"{subject} import"):
                waiting.append(pool.submit(_read_frame, image, mask, export.width, export.height))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _read_frame(image: Path, mask: Path | None, width: int, height: int) -> tuple[bytes, bytes]:
    content = _read_file(image)
    header = check_frame(content, str(image), width, height)
    if mask is None:
        if header.color != "rgba":
            raise UserError(f"{image}: has neither a mask in fg_masks nor an alpha channel. Export the tracking anew.")
        return content, b""
    mask_content = _read_file(mask)
    check_mask(mask_content, str(mask), width, height)
    return content, mask_content


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such file, but the transforms name it. Export the tracking anew.")
    return UserError(f"{path}: cannot be read ({error.strerror}); check its permissions")


def _vertex_count(template: Path | None) -> int | None:
    """Vertices of the head model: those of its template, and FLAME's teeth."""
    from osgap.head.params import TEETH_VERTICES
    from osgap.head.teeth import FLAME_VERTICES

    if template is None:
        return None
    try:
        with template.open("rb") as file:
            count = sum(line.startswith(b"v ") for line in file)
    except OSError as error:
        raise UserError(f"{template}: cannot be read ({error.strerror}); check flame.assets.template") from None
    return count + TEETH_VERTICES if count == FLAME_VERTICES else count


# the raw videos ----------------------------------------------------------------------------------------------


def _check_against_raw(export: Export, raw: Path, manifests: tuple[Path, ...], participant: int) -> None:
    """Cameras are those of the calibration; each tracked sequence has its videos, long enough for its timesteps."""
    calibration_file = raw / calibration_path(participant)
    calibration = read_calibration(calibration_file)
    tracked, calibrated = set(export.serials), set(calibration.serials)
    if tracked != calibrated:
        raise UserError(
            f"{export.transforms[0]} has {len(tracked)} cameras, {calibration_file} has {len(calibrated)}"
            f"{_only('only tracked', tracked - calibrated)}{_only('only calibrated', calibrated - tracked)}. "
            f"The export is of another recording or incomplete: export it anew with all cameras."
        )

    downloads = {}
    for path in manifests:
        content = read_json(path)
        if content.get("participant") != participant or not isinstance(content.get("files"), dict):
            raise UserError(f"{path}: not the manifest of a download of participant {participant}; download again")
        downloads[content.get("sequence")] = (path, content)

    longest: dict[str, int] = {}
    for timestep in export.timesteps:
        longest[timestep.sequence] = max(longest.get(timestep.sequence, 0), timestep.index + 1)
    for name, timesteps in longest.items():
        sequence = sequence_in(name)
        if sequence not in downloads:
            raise UserError(
                f"{export.folder}: tracks the sequence {name}, but the downloads are of "
                f"{', '.join(sorted(map(str, downloads))) or 'none'}; add it to capture.sequences, or use an export "
                f"without it (the sequence is taken from the name of the export's folder)"
            )
        manifest, content = downloads[sequence]
        for serial in content.get("serials", []):
            relative = video_path(participant, sequence or name, serial)
            listed, video = content["files"].get(relative), raw / relative
            if not isinstance(listed, dict) or not video.is_file() or video.stat().st_size != listed.get("size"):
                raise UserError(f"{video}: missing, or not as {manifest} lists it; delete the manifest and run again")
            if listed.get("frames", 0) < timesteps:
                raise UserError(
                    f"{export.folder}: {name} is tracked up to timestep {timesteps - 1}, but {video} has "
                    f"{listed.get('frames', 0)} frames; the export is of another recording"
                )


def _only(label: str, serials: set[str]) -> str:
    return f"; {label}: {', '.join(sorted(serials))}" if serials else ""

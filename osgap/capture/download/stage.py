"""Stage `download`: the sequences of one NeRSemble participant, verified, in NeRSemble's own tree.

Files get their final names when they are whole and every frame of a video decodes. Beside each lies a record of what
was verified (`.NAME.json`), so that a rerun compares a digest in place of decoding. The manifest, with the size and
SHA-256 of each file, comes last. The data URL is a secret that no message, log or file may show.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osgap.capture.config import CaptureConfig
from osgap.capture.download.locks import exclusive
from osgap.capture.download.partial import Stamp, read_note, writing
from osgap.capture.download.sources import Source, source_of
from osgap.capture.download.stop import Stop, StoppedError
from osgap.capture.download.transfer import PATIENT, TransferSettings
from osgap.capture.download.verify import Check, check_catalogue, check_video, check_with
from osgap.capture.nersemble import (
    CATALOGUE,
    calibration_path,
    color_calibration_path,
    read_calibration,
    read_color_calibration,
    sequences_of,
    video_path,
)
from osgap.runtime.artifacts import write_json
from osgap.runtime.errors import UserError
from osgap.runtime.progress import track
from osgap.runtime.provenance import Provenance, file_digest

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DownloadInputs:
    """No files: what is read lies behind the data URL."""


@dataclass(frozen=True)
class DownloadOutputs:
    """Where a download goes."""

    root: Path
    """Root of the local NeRSemble tree, shared by all participants."""
    manifest: Path
    """JSON with the path below `root`, size and SHA-256 of every file of these sequences; written last."""


def run(
    config: CaptureConfig,
    inputs: DownloadInputs,
    outputs: DownloadOutputs,
    *,
    subject: str,
    seed: int,
    sequences: Sequence[str],
    participant: int,
    settings: TransferSettings = PATIENT,
) -> None:
    """Fetch the calibration and the videos (one per sequence and serial of the config) of one participant.

    Files that are already there and whole are kept, and what an earlier run has left of a file is continued. Several
    jobs may fetch the same file at once: one does, the others wait for it. The first error ends the whole job.

    Args:
        settings: how patient the transfers are.

    Raises:
        UserError: no usable URL, a sequence that the participant has not recorded, a file that is missing or does not
            arrive whole. The message never shows the URL.
    """
    stop = Stop()
    source = source_of(config, settings, stop)
    with tempfile.TemporaryDirectory() as folder:
        catalogue = Path(folder) / Path(CATALOGUE).name
        source.fetch(CATALOGUE, catalogue, check_catalogue)
        available = sequences_of(io.BytesIO(catalogue.read_bytes()), participant)
    if absent := [sequence for sequence in sequences if sequence not in available]:
        raise UserError(
            f"participant {participant} has no sequence {', '.join(absent)}; the catalogue lists "
            f"{', '.join(available) or 'none'}. Change subjects.entries.{subject}.sequences (or capture.sequences)."
        )

    calibration, colors = calibration_path(participant), color_calibration_path(participant)
    files = {
        path: _obtain(source, path, outputs.root, check, stop)
        for path, check in ((calibration, check_with(read_calibration)), (colors, check_with(read_color_calibration)))
    }
    missing = sorted(set(config.serials) - set(read_calibration(outputs.root / calibration).serials))
    if missing:
        raise UserError(f"{calibration} lacks camera {', '.join(missing)}; remove it from capture.serials")
    videos = [video_path(participant, sequence, serial) for sequence in sequences for serial in config.serials]
    files |= _obtain_all(source, videos, outputs.root, config.connections, stop, f"videos of {subject}")

    used = {"participant": participant, "sequences": [*sequences], "serials": config.serials}
    provenance = Provenance.collect("download", __name__, subject=subject, config=used, inputs=[], seed=seed)
    with writing(outputs.manifest):
        write_json(outputs.manifest, {**used, "files": files}, provenance.as_dict())
    size = sum(int(str(entry["size"])) for entry in files.values())
    _log.info("%s: %d sequences, %d files, %.1f MB", subject, len(sequences), len(files), size / 1e6)


def check_url(config: CaptureConfig) -> None:
    """Whether downloads can start: a URL is set, of a known kind, and a `file://` one names a NeRSemble tree.

    Raises:
        UserError: saying where to set it, without showing it.
    """
    if config.download:
        source_of(config, PATIENT, Stop())


def check_reachable(config: CaptureConfig, timeout_s: float = 5.0) -> None:
    """Whether the data URL answers for the catalogue, which every download begins with.

    Args:
        timeout_s: longest wait for a connection, and for the answer.

    Raises:
        UserError: when it does not, or is not set; the message says what to do and does not show the URL.
    """
    if config.download:
        source_of(config, TransferSettings(timeout_s=timeout_s), Stop()).probe(CATALOGUE)


def _obtain_all(
    source: Source, paths: list[str], root: Path, connections: int, stop: Stop, label: str
) -> dict[str, dict[str, Any]]:
    """`_obtain` for several videos at once; the first that fails ends the others."""

    def obtain(path: str) -> dict[str, Any]:
        try:
            return _obtain(source, path, root, check_video, stop)
        except BaseException:
            stop.set()  # here and now: this thread would begin the next video before the main one hears of it
            raise

    with concurrent.futures.ThreadPoolExecutor(connections) as pool:
        jobs = {pool.submit(obtain, path): path for path in paths}
        try:
            done = track(concurrent.futures.as_completed(jobs), label, total=len(jobs))
            found = {jobs[job]: job.result() for job in done}
        except StoppedError:  # of one that was ended, and came to its end before the one that failed
            pool.shutdown(cancel_futures=True)
            raise next(_failures(jobs), StoppedError()) from None
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return {path: found[path] for path in paths}


def _failures(jobs: Iterable[concurrent.futures.Future[Any]]) -> Iterator[BaseException]:
    for job in jobs:
        error = None if job.cancelled() else job.exception()
        if error is not None and not isinstance(error, StoppedError):
            yield error


def _obtain(source: Source, path: str, root: Path, check: Check, stop: Stop) -> dict[str, Any]:
    """What the manifest says of a file, which is there and verified when this returns."""
    target = root / path
    record = target.with_name(f".{target.name}.json")
    with exclusive(target, stop):
        entry = _kept(source, path, target, read_note(record), check)
        if entry is None:
            found, stamp = source.fetch(path, target, lambda partial: check(partial, path))
            entry = {"size": target.stat().st_size, "sha256": file_digest(target), **found}
        else:
            stamp = Stamp.of(read_note(record).get("stamp"))
        content = {"entry": entry, "stamp": dataclasses.asdict(stamp)}
        if read_note(record) != content:
            with writing(record):
                write_json(record, content)
    return entry


def _kept(source: Source, path: str, target: Path, record: dict[str, Any], check: Check) -> dict[str, Any] | None:
    """What the manifest says of a file that is already there; None if it must be fetched."""
    if not target.is_file() or not source.is_copy(path, target, Stamp.of(record.get("stamp"))):
        return None
    verified = record.get("entry")
    try:
        entry = {"size": target.stat().st_size, "sha256": file_digest(target)}
    except OSError as error:
        raise UserError(f"{target} cannot be read ({error.strerror}); check its permissions, or delete it") from None
    if isinstance(verified, dict) and entry.items() <= verified.items():
        return verified
    try:
        if verified is None:  # put there by something else
            return {**entry, **check(target, path)}
    except UserError:
        pass
    _log.info("%s is damaged; fetching it again", path)
    return None

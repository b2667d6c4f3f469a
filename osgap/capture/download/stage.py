"""Stage `download`: one sequence of one NeRSemble participant, verified, in NeRSemble's own tree.

Files get their final names when they are whole and every frame of a video decodes. Beside each lies a record of what
was verified (`.NAME.json`), so that a rerun compares a digest in place of decoding. The manifest, with the size and
SHA-256 of each file, comes last. The data URL is a secret that no message, log or file may show.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import filecmp
import io
import logging
import os
import re
import shutil
import tempfile
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from nersemble_data.constants import NERSEMBLE_ACCESS_FORM_URL

from osgap.capture.config import URL_VARIABLE, VIDEO_SEQUENCES, CaptureConfig
from osgap.capture.download.transfer import (
    DATA_URL,
    PATIENT,
    UNUSABLE,
    Client,
    Partial,
    Stamp,
    Stop,
    StoppedError,
    TransferSettings,
    exclusive,
    read_note,
    writing,
)
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

if TYPE_CHECKING:
    import av

_NAL_LENGTH_AT = {"h264": 4, "hevc": 21}  # byte of the decoder configuration record, ISO/IEC 14496-15, 5.3.3, 8.3.3
_NAL_FORBIDDEN = re.compile(rb"\0\0[\0-\2]")  # inside a NAL unit, ITU-T H.264 and H.265, 7.4.1 and 7.4.2

_DECODER_THREADS = max(2, min(os.cpu_count() or 1, 8))  # with one thread, neither kind of threading is in use

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
    """JSON with the path below `root`, size and SHA-256 of every file of this sequence; written last."""


@dataclass(frozen=True)
class VideoInfo:
    """What a complete video holds."""

    frames: int
    width: int
    height: int


def run(
    config: CaptureConfig,
    inputs: DownloadInputs,
    outputs: DownloadOutputs,
    *,
    subject: str,
    seed: int,
    sequence: str,
    participant: int,
    settings: TransferSettings = PATIENT,
) -> None:
    """Fetch the calibration and the videos (one per serial of the config) of one sequence.

    Files that are already there and whole are kept, and what an earlier run has left of a file is continued. Several
    jobs may fetch the same file at once: one does, the others wait for it. The first error ends the whole job.

    Args:
        settings: how patient the transfers are.

    Raises:
        UserError: no usable URL, a sequence that the participant has not recorded, a file that is missing or does not
            arrive whole. The message never shows the URL.
    """
    stop = Stop()
    source = _source(config, settings, stop)
    with tempfile.TemporaryDirectory() as folder:
        catalogue = Path(folder) / Path(CATALOGUE).name
        source.fetch(CATALOGUE, catalogue, _check_catalogue)
        available = sequences_of(io.BytesIO(catalogue.read_bytes()), participant)
    if sequence not in available:
        raise UserError(
            f"participant {participant} has no sequence {sequence}; the catalogue lists "
            f"{', '.join(available) or 'none'}. Change subjects.entries.{subject}.sequences (or capture.sequences)."
        )

    calibration, colors = calibration_path(participant), color_calibration_path(participant)
    files = {
        path: _obtain(source, path, outputs.root, check, stop)
        for path, check in ((calibration, _check_with(read_calibration)), (colors, _check_with(read_color_calibration)))
    }
    missing = sorted(set(config.serials) - set(read_calibration(outputs.root / calibration).serials))
    if missing:
        raise UserError(f"{calibration} lacks camera {', '.join(missing)}; remove it from capture.serials")
    videos = [video_path(participant, sequence, serial) for serial in config.serials]
    files |= _obtain_all(source, videos, outputs.root, config.connections, stop, f"{subject} {sequence}")

    used = {"participant": participant, "sequence": sequence, "serials": config.serials}
    provenance = Provenance.collect("download", __name__, subject=subject, config=used, inputs=[], seed=seed)
    with writing(outputs.manifest):
        write_json(outputs.manifest, {**used, "files": files}, provenance.as_dict())
    size = sum(int(str(entry["size"])) for entry in files.values())
    _log.info("%s %s: %d files, %.1f MB", subject, sequence, len(files), size / 1e6)


def check_url(config: CaptureConfig) -> None:
    """Whether downloads can start: a URL is set, of a known kind, and a `file://` one names a NeRSemble tree.

    Raises:
        UserError: saying where to set it, without showing it.
    """
    if config.download:
        _source(config, PATIENT, Stop())


def check_reachable(config: CaptureConfig, timeout_s: float = 5.0) -> None:
    """Whether the data URL answers for the catalogue, which every download begins with.

    Args:
        timeout_s: longest wait for a connection, and for the answer.

    Raises:
        UserError: when it does not, or is not set; the message says what to do and does not show the URL.
    """
    if config.download:
        _source(config, TransferSettings(timeout_s=timeout_s), Stop()).probe(CATALOGUE)


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

    def broken(problem: str) -> UserError:
        return UserError(
            f"{name}: {problem}. What arrived is not kept; run again, and if it stays so, the file is damaged where it "
            f"comes from"
        )

    try:
        with av.open(str(path)) as container:
            if "mp4" not in container.format.name.split(","):
                raise broken(f"not a video in MP4 (but {container.format.name})")
            if not container.streams.video:
                raise broken("not a video (it has no picture stream)")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise broken("not a video that can be decoded (its codec is none that FFmpeg knows)")
            # The H.264 decoder marks the frames that it had to conceal only when it decodes frame by frame.
            stream.thread_type, stream.thread_count = "FRAME", _DECODER_THREADS
            codec = stream.codec_context.name
            nal_length = _nal_length(codec, stream.codec_context.extradata)
            packets = frames = width = height = 0
            checksums = []
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise broken(f"truncated: frame {packets} is incomplete")
                if packet.size:
                    packets += 1
                    if nal_length and not _nal_units_are_sound(bytes(packet), nal_length, codec):
                        raise broken(f"damaged: the data of frame {packets - 1} is no sequence of NAL units")
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise broken(f"damaged: frame {frames} does not decode")
                    frames, width, height = frames + 1, frame.width, frame.height
                    if codec == "hevc":
                        checksums.append(_checksum(frame))
            if packets == 0:
                raise broken("the video has no frames")
            if stream.frames and stream.frames != packets:
                raise broken(f"truncated: its header promises {stream.frames} frames, {packets} are there")
            if frames != packets:
                raise broken(f"damaged: {packets} frames are there, {frames} decode")
        if codec == "hevc":
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                stream.thread_type, stream.thread_count = "SLICE", _DECODER_THREADS
                if checksums != [_checksum(frame) for frame in container.decode(stream)]:
                    raise broken("damaged: the rows of a frame do not begin where its header says")
        return VideoInfo(frames, width, height)
    except (av.FFmpegError, OSError) as error:
        raise broken(f"not a video that can be decoded ({error.strerror})") from None


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


# files -------------------------------------------------------------------------------------------------------


_Check = Callable[[Path, str], dict[str, Any]]
"""Reads a file, given what messages call it; returns what the manifest says of it, or raises `UserError`."""


def _check_with(read: Callable[[Path], object]) -> _Check:
    """A check of a small file by its reader."""

    def check(path: Path, name: str) -> dict[str, Any]:
        try:
            read(path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), name)) from None
        return {}

    return check


def _check_video(path: Path, name: str) -> dict[str, Any]:
    return dataclasses.asdict(inspect_video(path, name))


def _check_catalogue(path: Path) -> None:
    head = path.read_bytes().split(b"\n", 1)[0].decode("utf-8", "replace")
    if not set(VIDEO_SEQUENCES) <= {cell.strip().strip('"') for cell in head.split(",")}:
        raise UserError(
            f"{CATALOGUE} is not NeRSemble's table of sequences (its first line does not name them); check that the "
            f"data URL is the one from NeRSemble's mail"
        )


def _obtain_all(
    source: _Source, paths: list[str], root: Path, connections: int, stop: Stop, label: str
) -> dict[str, dict[str, Any]]:
    """`_obtain` for several videos at once; the first that fails ends the others."""

    def obtain(path: str) -> dict[str, Any]:
        try:
            return _obtain(source, path, root, _check_video, stop)
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


def _obtain(source: _Source, path: str, root: Path, check: _Check, stop: Stop) -> dict[str, Any]:
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


def _kept(source: _Source, path: str, target: Path, record: dict[str, Any], check: _Check) -> dict[str, Any] | None:
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


# sources -----------------------------------------------------------------------------------------------------


class _Source(Protocol):
    """Where a NeRSemble tree is read from. All paths are relative to its root."""

    def fetch(self, path: str, target: Path, check: Callable[[Path], Any]) -> tuple[Any, Stamp]:
        """Bring a file to `target`, if `check` finds it good; returns what that returned and the source's state."""

    def is_copy(self, path: str, target: Path, stamp: Stamp) -> bool:
        """Whether `target`, fetched when the source's state was `stamp`, is that file as far as one can know."""

    def probe(self, path: str) -> None:
        """Raise `UserError` if the source does not answer for a file."""


def _source(config: CaptureConfig, settings: TransferSettings, stop: Stop) -> _Source:
    """The source behind the URL of the config or the environment."""
    url = data_url(config) or _stored_url()
    if not url:
        raise UserError(
            f"no NeRSemble data URL is set. Request access with NeRSemble's form ({NERSEMBLE_ACCESS_FORM_URL}), then "
            f"set the environment variable {URL_VARIABLE} (or capture.url) to the URL in the answer; or set "
            f"`capture: {{download: false}}` to work from tracking exports alone."
        )
    folder = local_folder(url)
    if folder is None:
        return _Server(Client(url, settings, stop))
    if not folder.is_dir():
        raise UserError(
            f"{DATA_URL} names a local folder that does not exist (it is not shown: it may be a secret); check it for "
            f"typing errors, and begin a URL with https://"
        )
    if not (folder / CATALOGUE).is_file():
        raise UserError(
            f"{DATA_URL} names a local folder without {CATALOGUE}; it should be the root of NeRSemble's tree"
        )
    return _Folder(folder)


def data_url(config: CaptureConfig) -> str:
    """The data URL of the config or the environment, or nothing."""
    return config.url or os.environ.get(URL_VARIABLE, "").strip()


def local_folder(url: str) -> Path | None:
    """The folder that a data URL names, as a path or as `file://`, absolute; None where it names a server.

    Raises:
        UserError: when it is neither.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise UserError(UNUSABLE) from None
    if not parts.scheme:
        return Path(url).absolute()
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise UserError(f"{DATA_URL} is a file URL without an absolute path; write three slashes: file:///folder")
        return Path(urllib.parse.unquote(parts.path))
    if parts.scheme in ("http", "https") and host:
        return None
    raise UserError(UNUSABLE)


def _stored_url() -> str:
    """The URL that nersemble-data's own command line stored in the user's home, or nothing."""
    file = Path.home() / ".config" / "nersemble_data" / ".env"
    if not file.is_file():
        return ""
    found = re.search(rf'^\s*(?:export\s+)?{URL_VARIABLE}\s*=\s*["\']?([^"\'\n]*)', file.read_text(), re.MULTILINE)
    return found.group(1).strip() if found else ""


class _Folder:
    """A copy of the tree on this machine, from a `file://` URL."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def fetch(self, path: str, target: Path, check: Callable[[Path], Any]) -> tuple[Any, Stamp]:
        partial = Partial(target)
        partial.discard()
        try:
            with _without_folder(path):
                shutil.copyfile(self._root / path, partial.path)
            found = check(partial.path)
        except UserError:
            partial.discard()
            raise
        partial.publish()
        return found, Stamp()

    def is_copy(self, path: str, target: Path, stamp: Stamp) -> bool:
        with _without_folder(path):
            return filecmp.cmp(self._root / path, target, shallow=False)

    def probe(self, path: str) -> None:
        with _without_folder(path), (self._root / path).open("rb") as file:
            file.read(1)


@contextlib.contextmanager
def _without_folder(path: str) -> Iterator[None]:
    """Turn an OSError into a message without the folder's path, which is the secret URL."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"the source has no {path}, which its catalogue promises; check that the copy is complete"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be copied ({error.strerror}); check permissions and disk space") from None


class _Server:
    """NeRSemble's server, from an `http(s)://` URL."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def fetch(self, path: str, target: Path, check: Callable[[Path], Any]) -> tuple[Any, Stamp]:
        return self._client.fetch(path, target, check)

    def is_copy(self, path: str, target: Path, stamp: Stamp) -> bool:
        now = self._client.head(path)
        return now.total in (None, target.stat().st_size) and not now.differs(stamp)

    def probe(self, path: str) -> None:
        self._client.probe(path)

"""Stage `download`: one sequence of one NeRSemble participant, verified, in NeRSemble's own tree.

Files get their final names when they are whole and a video plays to its end; the manifest, with the size and
SHA-256 of each, comes last. The data URL is a secret that no message, log or file may show, which is why errors of
the network are rewritten here and never chained.
"""

from __future__ import annotations

import collections
import contextlib
import filecmp
import http
import http.client
import io
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from nersemble_data.constants import NERSEMBLE_ACCESS_FORM_URL

from osgap.artifacts import atomic_path, write_json
from osgap.capture.config import CaptureConfig
from osgap.capture.nersemble import (
    CATALOGUE,
    calibration_path,
    color_calibration_path,
    read_calibration,
    read_color_calibration,
    sequences_of,
    video_path,
)
from osgap.errors import UserError
from osgap.progress import track
from osgap.provenance import Provenance, file_digest

URL_VARIABLE = "NERSEMBLE_DATA_URL"

_TIMEOUT_S = 60.0
_WAITS_S = (1.0, 4.0, 15.0)  # before the second, third and fourth attempt
_BLOCK = 1 << 20
_WHERE = f"the data URL (capture.url in the config, or the environment variable {URL_VARIABLE})"
_UNUSABLE = f"{_WHERE} is none that can be used (it is not shown: it is a secret); expected https://… or file:///…"

_log = logging.getLogger(__name__)
T = TypeVar("T")


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
) -> None:
    """Fetch the calibration and the videos (one per serial of the config) of one sequence.

    Files that are already there and whole are kept. Several jobs may fetch the same participant's calibration at once.

    Raises:
        UserError: no usable URL, a sequence that the participant has not recorded, a file that is missing or does not
            arrive whole. The message never shows the URL.
    """
    source = _source(config)
    available = sequences_of(io.BytesIO(source.read(CATALOGUE)), participant)
    if sequence not in available:
        raise UserError(
            f"participant {participant} has no sequence {sequence}; the catalogue lists "
            f"{', '.join(available) or 'none'}. Change subjects.entries.{subject}.sequences (or capture.sequences)."
        )

    calibration, colors = calibration_path(participant), color_calibration_path(participant)
    _fetch_small(source, calibration, outputs.root, read_calibration)
    _fetch_small(source, colors, outputs.root, read_color_calibration)
    missing = sorted(set(config.serials) - set(read_calibration(outputs.root / calibration).serials))
    if missing:
        raise UserError(f"{calibration} lacks camera {', '.join(missing)}; remove it from capture.serials")

    files: dict[str, dict[str, object]] = {path: {} for path in (calibration, colors)}
    for serial in track(config.serials, f"{subject} {sequence}"):
        path = video_path(participant, sequence, serial)
        info = _fetch_video(source, path, outputs.root)
        files[path] = {"frames": info.frames, "width": info.width, "height": info.height}
    for path, entry in files.items():
        local = outputs.root / path
        entry |= {"size": local.stat().st_size, "sha256": file_digest(local)}

    settings = {"participant": participant, "sequence": sequence, "serials": config.serials}
    provenance = Provenance.collect("download", subject=subject, config=settings, inputs=[], seed=seed)
    content = {"participant": participant, "sequence": sequence, "serials": config.serials, "files": files}
    write_json(outputs.manifest, content, provenance.as_dict())
    size = sum(int(str(entry["size"])) for entry in files.values())
    _log.info("%s %s: %d files, %.1f MB", subject, sequence, len(files), size / 1e6)


def check_url(config: CaptureConfig) -> None:
    """Whether downloads can start: a URL is set, of a known kind, and a `file://` one names a NeRSemble tree.

    Raises:
        UserError: saying where to set it, without showing it.
    """
    if config.download:
        _source(config)


def inspect_video(path: Path, name: str) -> VideoInfo:
    """Read a video to its end and decode its first and last frame.

    Args:
        name: what the message calls the file.

    Raises:
        UserError: when it is no video, or ends before its end.
    """
    import av

    def broken(problem: str) -> UserError:
        return UserError(
            f"{name}: {problem}. What arrived is not kept; run again, and if it stays so, the file is damaged where it "
            f"comes from"
        )

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise broken("not a video (it has no picture stream)")
            stream = container.streams.video[0]
            frames, last_key = 0, None
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise broken(f"truncated: frame {frames} is incomplete")
                if packet.size:
                    frames += 1
                    if packet.is_keyframe:
                        last_key = packet.pts
            if frames == 0:
                raise broken("the video has no frames")
            if stream.frames and stream.frames != frames:
                raise broken(f"truncated: its header promises {stream.frames} frames, {frames} are there")
            container.seek(0, stream=stream)
            first = next(container.decode(stream), None)
            container.seek(last_key or 0, stream=stream)
            last = collections.deque(container.decode(stream), maxlen=1)
            if first is None or not last:
                raise broken(f"its {'first' if first is None else 'last'} frame does not decode")
            return VideoInfo(frames, first.width, first.height)
    except (av.FFmpegError, OSError) as error:
        raise broken(f"not a video that can be decoded ({error.strerror})") from None


# files -------------------------------------------------------------------------------------------------------


def _fetch_small(source: _Source, path: str, root: Path, check: Callable[[Path], object]) -> None:
    """Fetch a small file if it is missing or differs; `check` reads it and raises if it is wrong."""
    target = root / path
    content = source.read(path)
    if target.is_file() and target.read_bytes() == content:
        return
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
        try:
            check(temporary)
        except UserError as error:
            raise UserError(str(error).replace(str(temporary), path)) from None


def _fetch_video(source: _Source, path: str, root: Path) -> VideoInfo:
    target = root / path
    if target.is_file() and source.is_copy(path, target):
        try:
            return inspect_video(target, path)
        except UserError:
            _log.info("%s is damaged; fetching it again", path)
    with atomic_path(target) as temporary:
        source.save(path, temporary)
        return inspect_video(temporary, path)


# sources -----------------------------------------------------------------------------------------------------


class _Source(Protocol):
    """Where a NeRSemble tree is read from. All paths are relative to its root."""

    def read(self, path: str) -> bytes:
        """The content of a small file."""

    def save(self, path: str, target: Path) -> None:
        """Copy a file to `target`."""

    def is_copy(self, path: str, target: Path) -> bool:
        """Whether `target` is that file, as far as the source lets one know."""


def _source(config: CaptureConfig) -> _Source:
    """The source behind the URL of the config or the environment."""
    url = config.url or os.environ.get(URL_VARIABLE, "").strip() or _stored_url()
    if not url:
        raise UserError(
            f"no NeRSemble data URL is set. Request access with NeRSemble's form ({NERSEMBLE_ACCESS_FORM_URL}), then "
            f"set the environment variable {URL_VARIABLE} (or capture.url) to the URL in the answer; or set "
            f"`capture: {{download: false}}` to work from tracking exports alone."
        )
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise UserError(_UNUSABLE) from None
    if parts.scheme == "file":
        return _Folder(_folder_of(parts))
    if parts.scheme in ("http", "https") and host:
        return _Server(url.rstrip("/"))
    raise UserError(_UNUSABLE)


def _stored_url() -> str:
    """The URL that nersemble-data's own command line stored in the user's home, or nothing."""
    file = Path.home() / ".config" / "nersemble_data" / ".env"
    if not file.is_file():
        return ""
    found = re.search(rf'^\s*(?:export\s+)?{URL_VARIABLE}\s*=\s*["\']?([^"\'\n]*)', file.read_text(), re.MULTILINE)
    return found.group(1).strip() if found else ""


def _folder_of(parts: urllib.parse.SplitResult) -> Path:
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise UserError(f"{_WHERE} is a file URL without an absolute path; write three slashes: file:///folder")
    root = Path(urllib.parse.unquote(parts.path))
    if not root.is_dir():
        raise UserError(f"{_WHERE} names a local folder that does not exist; check it for typing errors")
    if not (root / CATALOGUE).is_file():
        raise UserError(f"{_WHERE} names a local folder without {CATALOGUE}; it should be the root of NeRSemble's tree")
    return root


class _Folder:
    """A copy of the tree on this machine, from a `file://` URL."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, path: str) -> bytes:
        with _without_folder(path):
            return (self._root / path).read_bytes()

    def save(self, path: str, target: Path) -> None:
        with _without_folder(path):
            shutil.copyfile(self._root / path, target)

    def is_copy(self, path: str, target: Path) -> bool:
        with _without_folder(path):
            return filecmp.cmp(self._root / path, target, shallow=False)


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


class _TransientError(Exception):
    """A failure that another attempt may not meet; the message does not show the URL."""


class _Server:
    """NeRSemble's server, from an `http(s)://` URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    def read(self, path: str) -> bytes:
        def attempt() -> bytes:
            buffer = io.BytesIO()
            self._transfer(path, buffer)
            return buffer.getvalue()

        return self._retrying(path, attempt)

    def save(self, path: str, target: Path) -> None:
        def attempt() -> None:
            with target.open("wb") as file:
                self._transfer(path, file)

        self._retrying(path, attempt)

    def is_copy(self, path: str, target: Path) -> bool:
        def attempt() -> int | None:
            with self._open(path, "HEAD") as response:
                return _length(response)

        return self._retrying(path, attempt) == target.stat().st_size

    def _transfer(self, path: str, file: io.BufferedIOBase | io.BytesIO) -> None:
        with self._open(path, "GET") as response:
            expected, received = _length(response), 0
            while True:
                try:
                    block = response.read(_BLOCK)
                except (OSError, http.client.HTTPException) as error:
                    raise _TransientError(f"the connection broke after {received} bytes ({_kind(error)})") from None
                if not block:
                    break
                try:
                    file.write(block)
                except OSError as error:
                    raise UserError(f"{path} cannot be written ({error.strerror}); check the disk space") from None
                received += len(block)
        if expected is not None and received != expected:
            raise _TransientError(f"{received} of {expected} bytes arrived")

    def _open(self, path: str, method: str) -> http.client.HTTPResponse:
        try:
            request = urllib.request.Request(f"{self._url}/{path}", method=method, headers={"User-Agent": "osgap"})
            return urllib.request.urlopen(request, timeout=_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            error.close()
            code = error.code
        except urllib.error.URLError as error:
            reason = error.reason
            raise _TransientError(
                f"no connection ({_kind(reason) if isinstance(reason, OSError) else 'refused'})"
            ) from None
        except (http.client.InvalidURL, ValueError):  # their messages hold the URL
            raise UserError(_UNUSABLE) from None
        except (OSError, http.client.HTTPException) as error:
            raise _TransientError(f"no answer ({_kind(error)})") from None
        answer = f"{code} {_phrase(code)}".strip()
        if code in (408, 425, 429) or code >= 500:
            raise _TransientError(f"the server answered {answer}")
        if code in (401, 403):
            raise UserError(f"the server refuses {path} ({answer}); check {_WHERE}, it may have changed")
        raise UserError(f"the server has no {path} ({answer}); check {_WHERE}, or leave this sequence or camera out")

    @staticmethod
    def _retrying(path: str, attempt: Callable[[], T]) -> T:
        for wait in (*_WAITS_S, None):
            try:
                return attempt()
            except _TransientError as problem:
                reason = str(problem)
            if wait is None:
                break
            _log.info("%s: %s; trying again in %.0f s", path, reason, wait)
            time.sleep(wait)
        raise UserError(
            f"{path} could not be fetched in {len(_WAITS_S) + 1} attempts: {reason}. Check the network and run again; "
            f"complete files are kept."
        )


def _length(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _kind(error: BaseException) -> str:
    """An error's kind and errno text: its own message may hold the host."""
    number = getattr(error, "errno", None)
    return f"{type(error).__name__}: {os.strerror(number)}" if number and number > 0 else type(error).__name__


def _phrase(code: int) -> str:
    try:
        return http.HTTPStatus(code).phrase
    except ValueError:
        return ""

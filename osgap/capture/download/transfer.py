"""One file over HTTP, into a final path that it gets when it is whole.

What has arrived lies beside the final path, in `.NAME.part`, with what the server said of the file (`.NAME.part.json`).
Both outlive attempts and killed runs, so that each byte is asked for once (RFC 9110, sections 13.1.5 and 14: `Range`,
`If-Range`, `Content-Range`). What a server says of the length is a claim, not a proof: a file is accepted when the
caller's check finds nothing wrong with its content, and doubted when it does.

The URL is a secret: messages and logs name files by their path below the root of the tree, errors of the network are
rewritten here and never chained.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import email.utils
import http
import http.client
import json
import logging
import os
import random
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from osgap.capture.config import URL_VARIABLE
from osgap.runtime.artifacts import atomic_path, write_json
from osgap.runtime.errors import UserError

DATA_URL = f"the data URL (capture.url in the config, or the environment variable {URL_VARIABLE})"
UNUSABLE = f"{DATA_URL} is none that can be used (it is not shown: it is a secret); expected https://… or file:///…"

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429})  # of the 4xx; all 5xx pass, too
_BOGUS_RANGES = 2  # answers with other bytes than asked for, after which the file is asked for as a whole

_LOCK_POLL_S = 0.1

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class TransferSettings:
    """How patient a transfer is."""

    timeout_s: float = 30.0
    """Longest wait for a connection, and for the next byte."""
    attempts: int = 6
    """In a row without a new byte; then the transfer is given up."""
    wait_s: float = 1.0
    """Before the second attempt; doubles with each further one. Up to half of a wait is left out at random, so that
    jobs that failed together do not come back together."""
    longest_wait_s: float = 30.0
    longest_retry_after_s: float = 120.0
    """What a server's `Retry-After` is cut to."""
    slow_s: float = 60.0
    """A connection that brings less than `slow_bytes` in this time is dropped, and counts as without a new byte."""
    slow_bytes: int = 60 * 1024
    restarts: int = 3
    """How often a file is begun anew because it changed on the server or its content is damaged."""
    block: int = 1 << 18
    """Bytes per read."""


PATIENT = TransferSettings()


@dataclass(frozen=True)
class Stamp:
    """What a server says of the state of a file; None where it says nothing."""

    total: int | None = None
    """Size in bytes."""
    confirmed: bool = False
    """Whether `total` is that of a `Content-Range`, not merely the length of one answer."""
    etag: str | None = None
    modified: str | None = None

    def differs(self, other: Stamp) -> bool:
        """Whether the two cannot be of one state of the file."""
        if self.etag and other.etag:
            return self.etag != other.etag
        if self.modified and other.modified:
            return self.modified != other.modified
        return self.confirmed and other.confirmed and self.total != other.total

    @property
    def validator(self) -> str | None:
        """What may stand in `If-Range`: a strong ETag, or else the date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    @staticmethod
    def of(content: Any) -> Stamp:
        """From JSON; what is not as written is dropped."""
        kinds = {"total": int, "confirmed": bool, "etag": str, "modified": str}
        content = content if isinstance(content, dict) else {}
        return Stamp(**{key: content[key] for key, kind in kinds.items() if isinstance(content.get(key), kind)})


class StoppedError(Exception):
    """The transfer was ended from outside; what has arrived is kept."""


class Stop:
    """Ends all transfers of a job at once, also those that wait for a byte, a turn or a lock."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()

    def set(self) -> None:
        """Set the stop; what waits wakes up."""
        self._event.set()
        with self._lock:
            for watched in self._sockets:
                self._shut(watched)

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise `StoppedError` if the stop is set."""
        if self._event.is_set():
            raise StoppedError

    def sleep(self, seconds: float) -> None:
        """Wait, and raise `StoppedError` as soon as the stop is set."""
        if self._event.wait(seconds):
            raise StoppedError

    def watch(self, connected: socket.socket) -> None:
        """Shut this socket down when the stop is set, which ends a read from it."""
        with self._lock:
            self._sockets.add(connected)
        if self._event.is_set():
            self._shut(connected)

    @staticmethod
    def _shut(connected: socket.socket) -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)  # not TLS's own, which waits for the other side


@contextlib.contextmanager
def exclusive(target: Path, stop: Stop) -> Iterator[None]:
    """Hold the lock on a file that several jobs may fetch; the system releases it when a job dies.

    Raises:
        StoppedError: when the stop is set before it is this job's turn.
        UserError: when no lock file can be made.
    """
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        waiting = False
        while not _acquired(lock):
            if not waiting:
                _log.info("%s: another job fetches it; waiting", target)
            waiting = True
            stop.sleep(_LOCK_POLL_S)
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the local disk into a message."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); check the disk space and permissions") from None


def read_note(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no readable one."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


class Partial:
    """The bytes of one file that have arrived so far, on disk, and the state of the file that they belong to."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        self._note = target.with_name(f".{target.name}.part.json")
        self.size = self.path.stat().st_size if self.path.is_file() else 0
        self.stamp = Stamp.of(read_note(self._note))
        self.ended = False
        """Whether an answer of unknown length has come to its end."""
        self.beginnings = 0
        """How often all was forgotten."""
        self.changes = 0
        """How often because the file had changed on the server."""
        if not self._note.is_file() or (self.stamp.total is not None and self.size > self.stamp.total):
            self.discard()

    @property
    def whole(self) -> bool:
        """Whether all has arrived, as far as the server says."""
        return self.ended if self.stamp.total is None else self.size == self.stamp.total

    def discard(self) -> None:
        """Forget everything."""
        with writing(self.target):
            self.path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)
        self.size, self.stamp, self.ended = 0, Stamp(), False
        self.beginnings += 1

    def change(self) -> None:
        """Forget everything, because the file on the server is another one by now."""
        self.discard()
        self.changes += 1

    def describe(self, stamp: Stamp) -> None:
        """Note the state of the file, before any byte of it is written."""
        if stamp != self.stamp or not self._note.is_file():
            with writing(self.target):
                write_json(self._note, dataclasses.asdict(stamp))
        self.stamp, self.ended = stamp, False

    def append(self, block: bytes) -> None:
        """Write what has come."""
        with writing(self.target), self.path.open("ab", buffering=0) as file:
            rest = memoryview(block)
            while rest:
                written = file.write(rest)
                self.size += written
                rest = rest[written:]

    def publish(self) -> None:
        """Give the file its final name."""
        with writing(self.target):
            self.path.touch()
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())  # before the rename: a run that is killed in between loses nothing
            with atomic_path(self.target) as temporary:
                self.path.replace(temporary)
            self._note.unlink(missing_ok=True)


class _TransientError(Exception):
    """A failure that another attempt may not meet; the message does not show the URL."""

    def __init__(self, reason: str, retry_after_s: float | None = None, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.hopeless = hopeless
        """Whether new bytes are no reason to hope for more."""


class _BogusRangeError(_TransientError):
    """The answer holds other bytes than those asked for."""


def _without_credentials(url: str) -> tuple[str, dict[str, str]]:
    """A URL without `user:password@`, and the header that says the same (RFC 7617)."""
    parts = urllib.parse.urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    token = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
    return urllib.parse.urlunsplit(parts._replace(netloc=host)), {"Authorization": f"Basic {token}"}


class Client:
    """Fetches files below one `http(s)://` URL; may be used by several threads."""

    def __init__(self, url: str, settings: TransferSettings, stop: Stop) -> None:
        self._url, self._secrets = _without_credentials(url.rstrip("/"))
        self._settings = settings
        self._stop = stop
        self._opener = _opener(stop)

    def fetch(self, name: str, target: Path, check: Callable[[Path], T]) -> tuple[T, Stamp]:
        """Fetch a file, continuing what an earlier attempt or run has left. The caller holds `exclusive(target)`.

        Args:
            name: path below the URL; also what messages call the file.
            check: reads the file at a temporary path and raises `UserError` if its content is damaged.

        Returns:
            What `check` returned, and the state of the file on the server.

        Raises:
            UserError: when the server refuses the file, stays unreachable or keeps sending damaged content; what has
                arrived whole is kept for the next run unless it is damaged.
            StoppedError: when the stop was set.
        """
        partial, settings = Partial(target), self._settings
        best, failures, damages, bogus = partial.size, 0, 0, 0
        doubt: UserError | None = None  # what `check` said of the bytes that are there now
        while True:
            self._stop.check()
            if partial.whole:
                if doubt is None:
                    try:
                        found = check(partial.path)
                    except UserError as error:
                        doubt = error
                    else:
                        partial.publish()
                        return found, partial.stamp
                if partial.stamp.confirmed or damages >= settings.restarts:
                    partial.discard()
                    damages, best = damages + 1, 0
                    if damages > settings.restarts:
                        raise doubt from None
                    _log.info("%s: damaged content arrived; fetching it again", name)
                    doubt = None
                else:  # the length was only claimed: more may follow
                    partial.describe(dataclasses.replace(partial.stamp, total=None))

            size, beginnings, changes = partial.size, partial.beginnings, partial.changes
            problem: _TransientError | None = None
            try:
                self._attempt(name, partial, ranges=bogus < _BOGUS_RANGES)
            except _TransientError as error:
                problem = error
            if partial.changes > changes:
                best = 0
                if partial.changes > settings.restarts:
                    raise UserError(f"{name} changes on the server while it is fetched; run again when it has settled")
            if doubt is not None and partial.beginnings > beginnings:
                damages += 1  # ranges are ignored: it was all sent again in place of more
            if partial.size != size or partial.beginnings > beginnings:
                doubt = None
            progress = partial.size > best and not (problem and problem.hopeless)
            best = max(best, partial.size)
            failures = 0 if progress or problem is None else failures + 1
            if problem is not None:
                bogus += isinstance(problem, _BogusRangeError)
                if failures >= settings.attempts:
                    raise UserError(_given_up(name, failures, problem)) from None
                self._wait(name, problem, failures)

    def head(self, name: str) -> Stamp:
        """The state of a file on the server; empty where the server does not tell.

        Raises:
            UserError: when the server stays unreachable.
            StoppedError: when the stop was set.
        """
        for failures in range(1, self._settings.attempts + 1):
            try:
                with self._ask(name, "HEAD", {}) as response:
                    if response.status == 501 or (400 <= response.status < 500 and response.status not in _PASSING):
                        return Stamp()  # servers that answer GET may refuse HEAD
                    self._expect(name, response, 200)
                    return dataclasses.replace(_stamp(response), total=_length(response))
            except _TransientError as problem:
                if failures == self._settings.attempts:
                    raise UserError(_given_up(name, failures, problem)) from None
                self._wait(name, problem, failures)
        raise AssertionError("the last attempt returns or raises")

    def probe(self, name: str) -> None:
        """Ask for one byte of a file, once.

        Raises:
            UserError: when it is not to be had.
        """
        try:
            with self._ask(name, "GET", {"Range": "bytes=0-0"}) as response:
                self._expect(name, response, 200, 206, 416)
        except _TransientError as problem:
            raise UserError(f"{DATA_URL} does not answer for {name}: {problem}; check the network") from None

    # one attempt -------------------------------------------------------------------------------------------

    def _attempt(self, name: str, partial: Partial, ranges: bool) -> None:
        """Ask for what is missing and append it. Ends without an error when the answer was received to its end."""
        headers = {"Range": f"bytes={partial.size}-"} if ranges else {}
        if ranges and partial.size and partial.stamp.validator:
            headers["If-Range"] = partial.stamp.validator
        with self._ask(name, "GET", headers) as response:
            if response.status == 416:
                self._beyond_the_end(response, partial)
                return
            self._expect(name, response, 200, 206)
            if response.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
                raise _TransientError("the server sends it compressed, which was not asked for")
            stamp, length = _stamp(response), _length(response)
            if response.status == 206:
                span = _content_range(response)
                if span is None or span.start != partial.size or not ranges:
                    raise _BogusRangeError("the server sends other bytes than those asked for")
                end: int | None = span.end
                confirmed = span.total is not None and length in (None, span.end - span.start)
                stamp = dataclasses.replace(stamp, total=span.total, confirmed=confirmed)
                if partial.size and stamp.differs(partial.stamp):
                    partial.change()
                    raise _TransientError("it has changed on the server")
                if span.total is None:
                    stamp = dataclasses.replace(stamp, total=partial.stamp.total, confirmed=partial.stamp.confirmed)
            else:
                end, stamp = length, dataclasses.replace(stamp, total=length)
                if partial.size:
                    partial.change() if stamp.differs(partial.stamp) else partial.discard()
            partial.describe(stamp)
            self._receive(response, partial)
        if end is not None and partial.size < end:
            raise _TransientError(f"{partial.size} of {end} bytes arrived")
        partial.ended = True

    @staticmethod
    def _beyond_the_end(response: http.client.HTTPResponse, partial: Partial) -> None:
        """The server has no bytes after those that are there."""
        found = re.fullmatch(r"bytes \*/(\d{1,18})", response.headers.get("Content-Range", "").strip())
        if partial.size == 0 and not (found and int(found[1]) == 0):
            raise _BogusRangeError("the server refuses the range from the first byte on")
        if found and int(found[1]) != partial.size:
            partial.change()
            raise _TransientError("it has changed on the server")
        partial.append(b"")  # an empty file is a file
        partial.describe(dataclasses.replace(partial.stamp, total=partial.size, confirmed=True))

    def _receive(self, response: http.client.HTTPResponse, partial: Partial) -> None:
        settings, total = self._settings, partial.stamp.total
        since, recent = time.monotonic(), 0
        while total is None or partial.size < total:
            self._stop.check()
            try:
                # One read of the socket at a time: what came before a failure is not lost.
                block = response.read1(min(settings.block, settings.block if total is None else total - partial.size))
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._stop.check()
                raise _TransientError(f"the connection broke after {partial.size} bytes ({_kind(error)})") from None
            if not block:
                self._stop.check()
                return
            partial.append(block)
            recent += len(block)
            now = time.monotonic()
            if now - since > settings.slow_s:
                if recent < settings.slow_bytes:
                    raise _TransientError(f"only {recent} bytes came in {now - since:.0f} s", hopeless=True)
                since, recent = now, 0

    # the server --------------------------------------------------------------------------------------------

    def _ask(self, name: str, method: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Send a request; whatever the server answers is returned, redirections are followed."""
        self._stop.check()
        headers = {"User-Agent": "osgap", "Accept-Encoding": "identity", **headers}
        try:
            request = urllib.request.Request(f"{self._url}/{name}", method=method, headers=headers)
            for key, value in self._secrets.items():
                request.add_unredirected_header(key, value)
            return self._opener.open(request, timeout=self._settings.timeout_s)
        except urllib.error.HTTPError as error:  # of redirections only: other answers are returned
            error.close()
            raise UserError(f"the server redirects {name} in a circle or to nowhere; check {DATA_URL}") from None
        except urllib.error.URLError as error:
            self._stop.check()
            reason = _kind(error.reason) if isinstance(error.reason, OSError) else "refused"
            raise _TransientError(f"no connection ({reason})") from None
        except (http.client.InvalidURL, ValueError):  # their messages hold the URL
            raise UserError(UNUSABLE) from None
        except (OSError, http.client.HTTPException) as error:
            self._stop.check()
            raise _TransientError(f"no answer ({_kind(error)})") from None

    @staticmethod
    def _expect(name: str, response: http.client.HTTPResponse, *expected: int) -> None:
        code = response.status
        if code in expected:
            return
        answer = f"{code} {_phrase(code)}".strip()
        if code in _PASSING or code >= 500 or code < 300:
            raise _TransientError(f"the server answered {answer}", _retry_after(response))
        if code in (401, 403):
            raise UserError(f"the server refuses {name} ({answer}); check {DATA_URL}, it may have changed")
        raise UserError(f"the server has no {name} ({answer}); check {DATA_URL}, or leave this sequence or camera out")

    def _wait(self, name: str, problem: _TransientError, failures: int) -> None:
        settings = self._settings
        wait = min(settings.wait_s * 2 ** max(0, failures - 1), settings.longest_wait_s) * random.uniform(0.5, 1)
        if problem.retry_after_s is not None:
            wait = max(wait, min(problem.retry_after_s, settings.longest_retry_after_s))
        _log.info("%s: %s; trying again in %.1f s", name, problem, wait)
        self._stop.sleep(wait)


def _given_up(name: str, attempts: int, problem: _TransientError) -> str:
    return (
        f"{name} could not be fetched in {attempts} attempts: {problem}. Check the network and run again; what has "
        f"arrived is kept."
    )


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    """One past the last byte."""
    total: int | None


def _content_range(response: http.client.HTTPResponse) -> _Span | None:
    found = re.fullmatch(
        r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", response.headers.get("Content-Range", "").strip()
    )
    if not found:
        return None
    start, last, total = int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])
    return None if last < start or (total is not None and last >= total) else _Span(start, last + 1, total)


def _stamp(response: http.client.HTTPResponse) -> Stamp:
    return Stamp(etag=response.headers.get("ETag"), modified=response.headers.get("Last-Modified"))


def _length(response: http.client.HTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "").strip()
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _retry_after(response: http.client.HTTPResponse) -> float | None:
    """Seconds that the server asks to wait; it gives a number of them or a date (RFC 9110, section 10.2.3)."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+", text):
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def _kind(error: BaseException) -> str:
    """An error's kind and errno text: its own message may hold the host."""
    number = None if isinstance(error, ssl.SSLError) else getattr(error, "errno", None)  # TLS counts its own way
    return f"{type(error).__name__}: {os.strerror(number)}" if number and number > 0 else type(error).__name__


def _phrase(code: int) -> str:
    try:
        return http.HTTPStatus(code).phrase
    except ValueError:
        return ""


# urllib, with connections that can be stopped -----------------------------------------------------------------


class _Connection(http.client.HTTPConnection):
    def __init__(self, *args: Any, stop: Stop, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._stop = stop

    def connect(self) -> None:
        super().connect()
        self._stop.watch(self.sock)


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, *args: Any, stop: Stop, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._stop = stop

    def connect(self) -> None:
        super().connect()
        self._stop.watch(self.sock)


class _Connections(urllib.request.AbstractHTTPHandler):
    """Opens connections that the stop can shut."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop = stop
        self._tls = ssl.create_default_context()

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, request, stop=self._stop)  # type: ignore[arg-type]

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, request, stop=self._stop, context=self._tls)  # type: ignore[arg-type]

    http_request = urllib.request.AbstractHTTPHandler.do_request_
    https_request = urllib.request.AbstractHTTPHandler.do_request_


class _Answers(urllib.request.HTTPErrorProcessor):
    """Every answer but a redirection is returned as it is."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        return super().http_response(request, response) if response.status in _REDIRECTS else response

    https_response = http_response


class _Redirections(urllib.request.HTTPRedirectHandler):
    """A redirected HEAD stays one (Python below 3.13 makes it a GET)."""

    def redirect_request(self, req: urllib.request.Request, *args: Any) -> urllib.request.Request | None:
        redirected = super().redirect_request(req, *args)
        if redirected is not None:
            redirected.method = req.get_method()
        return redirected


def _opener(stop: Stop) -> urllib.request.OpenerDirector:
    """HTTP and HTTPS, through the environment's proxies, and nothing else (no redirection to `file:` or `ftp:`)."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _Connections(stop),
        _Answers(),
        _Redirections(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    return opener

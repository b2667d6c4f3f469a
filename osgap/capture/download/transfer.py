"""One file over HTTP, into a final path that it gets when it is whole.

What a killed run or a broken connection has left is continued (RFC 9110, sections 13.1.5 and 14: `Range`, `If-Range`,
`Content-Range`). What a server says of the length is a claim, not a proof: a file is accepted when the caller's check
finds nothing wrong with its content, and doubted when it does.

Messages and logs name files by their path below the root of the tree: the URL is a secret.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import HTTPError, MaxRetryError

from osgap.capture.download.answers import content_range, expect, length_of, refuses_head, size_beyond, stamp_of
from osgap.capture.download.network import DATA_URL, BogusRangeError, Network, TransientError, word_of
from osgap.capture.download.partial import Partial, Stamp
from osgap.capture.download.stop import Stop
from osgap.runtime.errors import UserError

_BOGUS_RANGES = 2  # answers with other bytes than asked for, after which the file is asked for as a whole

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


class Patience:
    """Failures in a row, and the waits after them, which a stop ends.

    urllib3's `Retry` counts and says how long; it cannot go on within a body, nor tell attempts that brought bytes from
    those that did not, so the callers have the loop.
    """

    def __init__(self, name: str, settings: TransferSettings, stop: Stop) -> None:
        self._name, self._settings, self._stop = name, settings, stop
        self.renew()

    def renew(self) -> None:
        """Forget the failures so far."""
        settings = self._settings
        self._retry = Retry(
            total=settings.attempts - 1, backoff_factor=settings.wait_s, backoff_max=settings.longest_wait_s
        )

    def spend(self, problem: TransientError) -> None:
        """Count one more failure.

        Raises:
            UserError: it was the last attempt.
        """
        try:
            self._retry = self._retry.increment(error=problem)
        except MaxRetryError:
            raise UserError(
                f"{self._name} could not be fetched in {self._settings.attempts} attempts: {problem}. Check the "
                f"network and run again; what has arrived is kept."
            ) from None

    def wait(self, problem: TransientError) -> None:
        """Wait before the next attempt."""
        settings = self._settings
        wait = max(self._retry.get_backoff_time(), settings.wait_s) * random.uniform(0.5, 1)  # `Retry` begins with 0
        wait = max(wait, min(problem.retry_after_s, settings.longest_retry_after_s))
        _log.info("%s: %s; trying again in %.1f s", self._name, problem, wait)
        self._stop.sleep(wait)


class Client:
    """Fetches files below one `http(s)://` URL; may be used by several threads."""

    def __init__(self, url: str, settings: TransferSettings, stop: Stop) -> None:
        self._network = Network(url, settings.timeout_s, stop)
        self._settings = settings
        self._stop = stop

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
        return _Transfer(name, target, self._network, self._settings, self._stop).run(check)

    def head(self, name: str) -> Stamp:
        """The state of a file on the server; empty where the server does not tell.

        Raises:
            UserError: when the server stays unreachable.
            StoppedError: when the stop was set.
        """
        patience = Patience(name, self._settings, self._stop)
        while True:
            try:
                with self._network.request("HEAD", name) as response:
                    if refuses_head(response):
                        return Stamp()
                    expect(name, response, 200)
                    return dataclasses.replace(stamp_of(response), total=length_of(response))
            except TransientError as problem:
                patience.spend(problem)
                patience.wait(problem)

    def probe(self, name: str) -> None:
        """Ask for one byte of a file, once.

        Raises:
            UserError: when it is not to be had.
        """
        try:
            with self._network.request("GET", name, {"Range": "bytes=0-0"}) as response:
                expect(name, response, 200, 206, 416)
        except TransientError as problem:
            raise UserError(f"{DATA_URL} does not answer for {name}: {problem}; check the network") from None


class _Transfer:
    """One file on its way."""

    def __init__(self, name: str, target: Path, network: Network, settings: TransferSettings, stop: Stop) -> None:
        self._name, self._network, self._settings, self._stop = name, network, settings, stop
        self._partial = Partial(target)
        self._patience = Patience(name, settings, stop)
        self._best = self._partial.size
        """Most bytes that were there since the file was last begun for a reason of its own."""
        self._doubt: UserError | None = None
        """What the check said of the bytes that are there now."""
        self._damages = 0
        self._bogus_ranges = 0

    def run(self, check: Callable[[Path], T]) -> tuple[T, Stamp]:
        """See `Client.fetch`."""
        partial = self._partial
        while True:
            self._stop.check()
            if partial.whole:
                if self._doubt is None:
                    try:
                        found = check(partial.path)
                    except UserError as error:
                        self._doubt = error
                    else:
                        partial.publish()
                        return found, partial.stamp
                self._distrust(self._doubt)
            self._go_on()

    def _distrust(self, doubt: UserError) -> None:
        """Of damaged content more may follow, or all is fetched again; where that was tried, `doubt` is raised."""
        partial, settings = self._partial, self._settings
        if not partial.stamp.confirmed and self._damages < settings.restarts:  # the length was only claimed
            partial.describe(dataclasses.replace(partial.stamp, total=None))
            return
        partial.discard()
        self._damages, self._best, self._doubt = self._damages + 1, 0, None
        if self._damages > settings.restarts:
            raise doubt from None
        _log.info("%s: damaged content arrived; fetching it again", self._name)

    def _go_on(self) -> None:
        """One attempt, and after a failure the wait."""
        partial, settings = self._partial, self._settings
        size, beginnings, changes = partial.size, partial.beginnings, partial.changes
        problem: TransientError | None = None
        try:
            self._attempt(ranges=self._bogus_ranges < _BOGUS_RANGES)
        except TransientError as error:
            problem = error
        if partial.changes > changes:
            self._best = 0
            if partial.changes > settings.restarts:
                raise UserError(
                    f"{self._name} changes on the server while it is fetched; run again when it has settled"
                )
        if self._doubt is not None and partial.beginnings > beginnings:
            self._damages += 1  # ranges are ignored: it was all sent again in place of more
        if partial.size != size or partial.beginnings > beginnings:
            self._doubt = None
        progress = partial.size > self._best and not (problem and problem.hopeless)
        self._best = max(self._best, partial.size)
        if progress or problem is None:
            self._patience.renew()
        if problem is not None:
            self._bogus_ranges += isinstance(problem, BogusRangeError)
            if not progress:
                self._patience.spend(problem)
            self._patience.wait(problem)

    def _attempt(self, ranges: bool) -> None:
        """Ask for what is missing and append it. Ends without an error when the answer was received to its end."""
        partial = self._partial
        headers = {"Range": f"bytes={partial.size}-"} if ranges else {}
        if ranges and partial.size and partial.stamp.validator:
            headers["If-Range"] = partial.stamp.validator
        with self._network.request("GET", self._name, headers) as response:
            if response.status == 416:
                self._end_here(size_beyond(response))
                return
            expect(self._name, response, 200, 206)
            if response.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
                raise TransientError("the server sends it compressed, which was not asked for")
            end = self._continued(response, ranges) if response.status == 206 else self._begun(response)
            self._receive(response)
        if end is not None and partial.size < end:
            raise TransientError(f"{partial.size} of {end} bytes arrived")
        partial.ended = True

    def _continued(self, response: BaseHTTPResponse, ranges: bool) -> int:
        """Prepare for the range that was asked for; returns its end."""
        partial, span, length = self._partial, content_range(response), length_of(response)
        if span is None or span.start != partial.size or not ranges:
            raise BogusRangeError("the server sends other bytes than those asked for")
        confirmed = span.total is not None and length in (None, span.end - span.start)
        stamp = dataclasses.replace(stamp_of(response), total=span.total, confirmed=confirmed)
        if partial.size and stamp.differs(partial.stamp):
            partial.change()
            raise TransientError("it has changed on the server")
        if span.total is None:
            stamp = dataclasses.replace(stamp, total=partial.stamp.total, confirmed=partial.stamp.confirmed)
        partial.describe(stamp)
        return span.end

    def _begun(self, response: BaseHTTPResponse) -> int | None:
        """Prepare for the whole file; returns its end, as far as the answer says."""
        partial, length = self._partial, length_of(response)
        stamp = dataclasses.replace(stamp_of(response), total=length)
        if partial.size:
            partial.change() if stamp.differs(partial.stamp) else partial.discard()
        partial.describe(stamp)
        return length

    def _end_here(self, total: int | None) -> None:
        """The server has no bytes after those that are there."""
        partial = self._partial
        if partial.size == 0 and total != 0:
            raise BogusRangeError("the server refuses the range from the first byte on")
        if total is not None and total != partial.size:
            partial.change()
            raise TransientError("it has changed on the server")
        partial.append(b"")  # an empty file is a file
        partial.describe(dataclasses.replace(partial.stamp, total=partial.size, confirmed=True))

    def _receive(self, response: BaseHTTPResponse) -> None:
        """Append the body as it comes."""
        partial, settings, total = self._partial, self._settings, self._partial.stamp.total
        since, recent = time.monotonic(), 0
        while total is None or partial.size < total:
            self._stop.check()
            try:
                # One read of the socket at a time: what came before a failure is not lost.
                block = response.read1(min(settings.block, settings.block if total is None else total - partial.size))
            except (HTTPError, ValueError) as error:
                self._stop.check()
                raise TransientError(f"the connection broke after {partial.size} bytes ({word_of(error)})") from None
            if not block:
                self._stop.check()
                return
            partial.append(block)
            recent += len(block)
            now = time.monotonic()
            if now - since > settings.slow_s:
                if recent < settings.slow_bytes:
                    raise TransientError(f"only {recent} bytes came in {now - since:.0f} s", hopeless=True)
                since, recent = now, 0

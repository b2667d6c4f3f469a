"""What ends all transfers of a job at once."""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref


class StoppedError(Exception):
    """The transfer was ended from outside; what has arrived is kept."""


class Stop:
    """Ends all transfers of a job at once, also those that wait for a byte, a turn or a lock."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()

    def set(self) -> None:
        """End everything."""
        self._event.set()
        with self._lock:
            for watched in self._sockets:
                self._shut(watched)

    def check(self) -> None:
        """Raise `StoppedError` if the stop is set."""
        if self._event.is_set():
            raise StoppedError

    def sleep(self, seconds: float) -> None:
        """Wait, but for a stop, which raises `StoppedError`."""
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

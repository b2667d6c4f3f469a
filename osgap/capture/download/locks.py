"""One job at a time for a file that several may fetch."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from osgap.capture.download.partial import writing
from osgap.capture.download.stop import Stop

_LOCK_POLL_S = 0.1

_log = logging.getLogger(__name__)


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

"""Ending a long stage when a scheduler says so: state is saved, and the exit status means "start me again"."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AGAIN = 75
"""Exit status of a stage that was told to stop, and goes on where it was when it is started again (`EX_TEMPFAIL` of
BSD's sysexits.h)."""

_log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""A scheduler's end, and its warning some time before (`sbatch --signal=USR1@120`)."""


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether one of the signals has come.

    Outside the main thread signals cannot be caught; there it is always False.
    """
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return
    before = {number: signal.signal(number, lambda *_: received.set()) for number in SIGNALS}
    try:
        yield received.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(step: int, total: int) -> SystemExit:
    """Say at which step a stage stops, whose state is saved; to be raised."""
    _log.info("stopped at step %s of %s; the same command goes on from there", f"{step:,}", f"{total:,}")
    return SystemExit(AGAIN)

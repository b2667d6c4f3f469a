"""Progress: a bar on a terminal, and now and then a line in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

_LINE_SECONDS = 60.0  # between two lines of a log

_log = logging.getLogger(__name__)


def track(items: Iterable[T], description: str, total: int | None = None, done: int = 0) -> Iterator[T]:
    """Iterate over `items` and show how far it is and how long the rest will take.

    On a terminal that is a bar; elsewhere, such as in a job's log, a line every minute.

    Args:
        total: how many steps there are in all, with those done in an earlier run. Default is `len(items)`.
        done: how many steps an earlier run did.
    """
    if total is None and hasattr(items, "__len__"):
        total = done + len(items)  # type: ignore[arg-type]
    if not sys.stderr.isatty():
        yield from _logged(items, description, total, done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total, completed=done)
        for item in items:
            yield item
            progress.advance(task)


def _logged(items: Iterable[T], description: str, total: int | None, done: int) -> Iterator[T]:
    """Steps of before are no measure of how fast this run is."""
    start = last = time.monotonic()
    before = done
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last < _LINE_SECONDS:
            continue
        last = now
        if total is None:
            _log.info("%s: %s", description, f"{done:,}")
        else:
            left = timedelta(seconds=round((now - start) / (done - before) * max(0, total - done)))
            _log.info("%s: %s of %s, %s left", description, f"{done:,}", f"{total:,}", left)

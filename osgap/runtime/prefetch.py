"""Making things ahead of their use, in threads: a bounded number of them, handed out in order, errors in their turn.

Two forms, because work comes in two: tasks that do not depend on each other may run side by side (`in_threads`), an
iterator must be asked by one thread at a time (`ahead`).
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def processors() -> int:
    """How many threads this process may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(
    tasks: Iterable[Callable[[], T]], *, depth: int, workers: int | None = None, name: str = "ahead"
) -> Generator[T, None, None]:
    """Results of tasks, in the order of the tasks, which threads work on ahead.

    The tasks themselves are drawn by the thread that asks for results. A task's error is raised in its turn, after the
    results before it. When the generator ends or is closed, tasks that have not begun are dropped, and no thread is
    left.

    Args:
        depth: how many results may be made, or in the making, while one is in use.
        workers: threads. Default is as many as may run at once.
        name: of the threads.
    """
    with ThreadPoolExecutor(processors() if workers is None else workers, thread_name_prefix=name) as pool:
        yield from _in_order(pool, tasks, depth)


def ahead(items: Iterable[T], depth: int = 2, name: str = "ahead") -> Generator[T, None, None]:
    """Iterate in a thread of its own, so that the next items are made while the consumer is busy with one.

    An error of the producer is raised here, in its turn. When the consumer stops, for whatever reason, the producer is
    closed after the item that it is at, in its thread (which is where it has entered contexts), and that thread has
    ended when the generator is closed; use `closing`, because the traceback of an error keeps generators open.

    Args:
        items: whatever makes them is run in the thread.
        depth: how many items may be made and wait while one is in use.
        name: of the thread.
    """
    iterator, end = iter(items), object()
    steps = itertools.repeat(partial(next, iterator, end))
    with ThreadPoolExecutor(1, thread_name_prefix=name) as thread, closing(_in_order(thread, steps, depth)) as made:
        try:
            # Nothing here refers to an item that was handed out: its memory may be the next one's.
            yield from itertools.takewhile(lambda item: item is not end, made)
        finally:
            thread.submit(getattr(iterator, "close", lambda: None))


def _in_order(pool: Executor, tasks: Iterable[Callable[[], T]], depth: int) -> Generator[T, None, None]:
    waiting: deque[Future[T]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()

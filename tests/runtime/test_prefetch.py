"""Producers in threads: in order, no more than asked for ahead, errors in their turn, and no thread left behind."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from osgap.runtime.prefetch import ahead, in_threads


def threads() -> int:
    return sum(thread.name.startswith("ahead") for thread in threading.enumerate())


def until(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true within seconds."""
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    return condition()


def count_to(last: int, log: list[str] | None = None, fail_at: int | None = None) -> Iterator[int]:
    try:
        for number in range(last):
            if number == fail_at:
                raise RuntimeError("the renderer failed")
            yield number
    finally:
        if log is not None:
            log.append(f"closed in {threading.current_thread().name}")


def test_items_arrive_in_order_and_are_made_ahead() -> None:
    assert list(ahead(range(100))) == list(range(100))
    made: list[int] = []

    def slow() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    consumed = ahead(slow(), depth=3)
    assert next(consumed) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]  # one in use, three that wait: no more, however slow the consumer is
    consumed.close()
    assert threads() == 0


def test_an_error_of_the_producer_is_raised_in_its_turn() -> None:
    seen: list[int] = []
    log: list[str] = []
    with pytest.raises(RuntimeError, match="the renderer failed"):
        for number in ahead(count_to(9, log, fail_at=3)):
            seen.append(number)
    assert seen == [0, 1, 2]
    assert log == ["closed in ahead_0"]
    assert threads() == 0


def test_a_consumer_that_stops_ends_the_producer() -> None:
    log: list[str] = []
    with pytest.raises(KeyError):
        for number in ahead(count_to(10**9, log), depth=2):
            if number == 5:
                raise KeyError(number)
    deadline = time.monotonic() + 5  # the generator is closed when nobody refers to it any more
    while threads() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threads() == 0
    assert log == ["closed in ahead_0"]


def test_an_error_while_closing_does_not_hang() -> None:
    def stubborn() -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            raise RuntimeError("will not close")

    consumed = ahead(stubborn(), depth=1)
    assert next(consumed) == 1
    consumed.close()
    assert threads() == 0


class Item:
    """Something that can be watched going."""


def test_an_item_that_the_consumer_lets_go_of_is_gone() -> None:
    for make in (lambda: ahead(Item() for _ in range(4)), lambda: in_threads([Item] * 4, depth=1)):
        for item in make():
            alone = weakref.ref(item)
            del item
            assert until(lambda watched=alone: watched() is None)  # type: ignore[misc]


def test_results_of_tasks_come_in_the_order_of_the_tasks() -> None:
    def task(number: int) -> Callable[[], int]:
        def run() -> int:
            time.sleep(0.002 * (number % 3 == 0))
            return number

        return run

    assert list(in_threads(map(task, range(40)), depth=5, workers=4)) == list(range(40))
    assert list(in_threads([], depth=5)) == []


def test_no_more_tasks_are_drawn_than_asked_for() -> None:
    drawn: list[int] = []

    def tasks() -> Iterator[Callable[[], int]]:
        for number in range(20):
            drawn.append(number)
            yield lambda number=number: number  # type: ignore[misc]

    results = in_threads(tasks(), depth=3, workers=2)
    assert next(results) == 0
    time.sleep(0.02)
    assert drawn == [0, 1, 2, 3]
    results.close()
    assert threads() == 0


def test_an_error_of_a_task_is_raised_in_its_turn() -> None:
    def bad() -> int:
        raise RuntimeError("cannot be decoded")

    results = in_threads([lambda: 0, lambda: 1, bad, lambda: 3], depth=3, workers=3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(RuntimeError, match="cannot be decoded"):
        next(results)
    assert threads() == 0


def test_tasks_that_have_not_begun_are_dropped_with_their_consumer() -> None:
    begun, go = [], threading.Event()

    def task(number: int) -> Callable[[], int]:
        def run() -> int:
            begun.append(number)
            assert number == 0 or go.wait(5)
            return number

        return run

    results = in_threads(map(task, range(9)), depth=5, workers=1)
    assert next(results) == 0
    assert until(lambda: begun == [0, 1])
    threading.Timer(0.05, go.set).start()
    results.close()  # waits for the task that is at it
    assert begun == [0, 1]
    assert threads() == 0

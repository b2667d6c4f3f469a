"""What a job's log says about how far it is."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from osgap.runtime import progress


class Clock:
    """Ten seconds pass between two looks."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=Clock()))
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False)
    caplog.set_level(logging.INFO, "osgap.runtime.progress")


def test_a_line_a_minute(clock: None, caplog: pytest.LogCaptureFixture) -> None:
    assert list(progress.track(range(20), "training", total=10_020, done=10_000)) == list(range(20))
    assert caplog.messages == [
        "training: 10,006 of 10,020, 0:02:20 left",
        "training: 10,012 of 10,020, 0:01:20 left",
        "training: 10,018 of 10,020, 0:00:20 left",
    ]


def test_what_has_no_end_is_counted(clock: None, caplog: pytest.LogCaptureFixture) -> None:
    assert sum(progress.track(iter(range(7)), "reading")) == 21
    assert caplog.messages == ["reading: 6"]


def test_short_work_says_nothing(clock: None, caplog: pytest.LogCaptureFixture) -> None:
    list(progress.track(range(5), "reading"))
    assert caplog.messages == []

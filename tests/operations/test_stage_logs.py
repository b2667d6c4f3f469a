"""How far a stage is and what it died of stand in its log, among other lines."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from osgap.operations.stage_logs import last_error, read_stage_log
from osgap.runtime import progress


def test_no_log_says_nothing(tmp_path: Path) -> None:
    assert read_stage_log(tmp_path / "absent.log") is None


def test_progress_is_what_track_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line as the program writes it today, not as this test remembers it."""
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(progress.sys, "stderr", SimpleNamespace(isatty=lambda: False))
    file = tmp_path / "fit.log"
    handler = logging.FileHandler(file)
    logger = logging.getLogger(progress.__name__)
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.addHandler(handler)
    try:
        for step, _ in enumerate(progress.track(range(6000), "fitting")):
            if step == 1200:
                break
    finally:
        logger.removeHandler(handler)
        handler.close()
    found = read_stage_log(file)
    assert found is not None
    assert found.progress == "fitting: 1,200 of 6,000"
    assert found.left_s == pytest.approx(480_000)


def test_the_last_progress_counts_and_time_goes_by(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text(
        "osgap fit: Slurm job 12 on gpu01\na: 1 of 2, 0:01:00 left\nb: 1,000 of 6,000, 1 day, 0:10:00 left\n"
    )
    found = read_stage_log(file)
    assert found is not None
    assert (found.progress, found.left_s, found.slurm_job) == ("b: 1,000 of 6,000", 87_000, "12")
    assert found.fresh
    before = time.time() - 1000
    os.utime(file, (before, before))
    found = read_stage_log(file)
    assert found is not None
    assert found.rest_s == pytest.approx(86_000, abs=5)
    assert not found.fresh


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", ""),
        ("fitting: 1 of 2, 0:00:01 left\n", ""),
        ("osgap fit: Slurm job 12 on gpu01\n", ""),
        ("a line\nosgap: 1.h5: no such file; import it first\n", "1.h5: no such file; import it first"),
        ("osgap: x.yaml:\n  fit: found -3\n  seed: found x\n", "x.yaml: fit: found -3 seed: found x"),
        (
            'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nValueError: not this\n\n',
            "ValueError: not this",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory.\n", "torch.OutOfMemoryError: CUDA out of memory."),
        ("ValueError: an earlier one\nosgap went on after that\n", ""),
        ("KeyboardInterrupt\n", "KeyboardInterrupt"),
    ],
)  # fmt: skip
def test_errors(text: str, error: str) -> None:
    assert last_error(text) == error

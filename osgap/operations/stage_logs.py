"""What a stage's own log says: how far it is, and what went wrong."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from osgap.runtime.slurm_endings import tail

FRESH_S = 180.0
"""A stage that works writes a line at least every minute (`osgap.runtime.progress`)."""

_PROGRESS = re.compile(r"^(.+): ([\d,]+) of ([\d,]+), (?:(\d+) days?, )?(\d+):(\d\d):(\d\d) left$", re.MULTILINE)
_SLURM_JOB = re.compile(r"^osgap [\w-]+: Slurm job (\d+) on (\S+)$", re.MULTILINE)
_ERROR = re.compile(r"^(osgap: .+|[A-Za-z_][\w.]*(Error|Exception|Interrupt)(: .*)?)$")
_CONTINUED = re.compile(r"^\s+\S")
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class StageLog:
    """A log that is there."""

    path: Path
    changed: float
    """[seconds since 1970]"""
    progress: str = ""
    """The last line of progress, without the time that is left."""
    left_s: float | None = None
    """How long it then had still to go [seconds]."""
    error: str = ""
    """The message that it ends with, if it ends with one."""
    slurm_job: str | None = None
    """In which it ran."""

    @property
    def fresh(self) -> bool:
        """Whether it was written to just now."""
        return time.time() - self.changed < FRESH_S

    @property
    def rest_s(self) -> float | None:
        """How long its stage still has to go now [seconds]."""
        return None if self.left_s is None else max(0.0, self.left_s - (time.time() - self.changed))


def read_stage_log(path: Path) -> StageLog | None:
    """A stage's log; None where there is none."""
    try:
        changed = path.stat().st_mtime
    except OSError:
        return None
    text = tail(path, _TAIL_BYTES)
    progress, left = "", None
    for match in _PROGRESS.finditer(text):
        what, done, total, days, *clock = match.groups()
        hours, minutes, seconds = map(int, clock)
        progress = f"{what}: {done} of {total}"
        left = timedelta(days=int(days or 0), hours=hours, minutes=minutes, seconds=seconds).total_seconds()
    jobs = _SLURM_JOB.findall(text)
    return StageLog(path, changed, progress, left, last_error(text), jobs[-1][0] if jobs else None)


def last_error(text: str) -> str:
    """The message at the end of a log: a sentence of osgap's own, or the last line of a traceback; else empty.

    What follows a message is part of it as long as it is indented.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    last = len(lines) - 1
    while last > 0 and _CONTINUED.match(lines[last]):
        last -= 1
    if last < 0 or not (match := _ERROR.match(lines[last])):
        return ""
    message = match[0].removeprefix("osgap: ")
    return " ".join([message, *(line.strip() for line in lines[last + 1 :])])

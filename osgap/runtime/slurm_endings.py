"""How a Slurm job ended, and why: from the accounting, from the controller's memory, from the job's own log.

Each of the three may be silent. `sacct` needs slurmdbd; the controller forgets a job after `MinJobAge`; a job that was
killed for its memory on a cluster without control groups is "FAILED" to both, and only its log says why.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from osgap.runtime.slurm import ask, seconds

Kind = Literal["completed", "memory", "time", "preempted", "node", "cancelled", "failed", "running", "unknown"]

_STATES: dict[str, Kind] = {
    "COMPLETED": "completed",
    "OUT_OF_MEMORY": "memory",
    "TIMEOUT": "time",
    "DEADLINE": "time",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "node",
    "BOOT_FAIL": "node",
    "CANCELLED": "cancelled",
    "FAILED": "failed",
    "PENDING": "running",
    "REQUEUED": "running",
    "RUNNING": "running",
    "COMPLETING": "running",
    "SUSPENDED": "running",
}

# In the order in which they count: a job that was killed for its memory may be cancelled on top of that.
_IN_LOGS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("memory", re.compile(r"oom[-_]kill|exceeded (job |step |virtual )?memory limit|: Out Of Memory$", re.I | re.M)),
    ("time", re.compile(r"CANCELLED AT \S+ DUE TO (TIME LIMIT|DEADLINE)")),
    ("preempted", re.compile(r"CANCELLED AT \S+ DUE TO PREEMPTION")),
    ("node", re.compile(r"DUE TO NODE FAILURE|Node failure on")),
    ("cancelled", re.compile(r"\*\*\* (JOB|STEP|StepId)\S* .*CANCELLED AT", re.I)),
)
_REQUESTED = {"memory_mb": re.compile(r"\bmem_mb=(\d+)"), "runtime_min": re.compile(r"\bruntime=(\d+)")}
_USED = re.compile(r"exceeded (?:\w+ )?memory limit \((\d+) > (\d+)\)", re.I)  # bytes, bytes
_JOB_STARTS = "--executor slurm-jobstep"
"""In the command of the Snakemake that a job's script starts: once more in the log of a job that was requeued."""
_ASKED_AT_ONCE = 500
_TAIL_BYTES = 1 << 20
"""Of a log that may have grown without end."""


@dataclass(frozen=True)
class Ending:
    """What became of a job."""

    job_id: str
    kind: Kind
    state: str = ""
    """Slurm's word; empty where only the log spoke."""
    exit_code: int | None = None
    memory_mb: int | None = None
    """What it had asked for."""
    peak_mb: int | None = None
    """The most that it was seen to use."""
    runtime_min: int | None = None
    """The time that it had asked for."""
    node: str = ""
    by: str = ""
    """Who cancelled it."""


class Endings:
    """How some jobs ended. Slurm is asked about all of them at once, and only where a log does not say it."""

    def __init__(self, job_ids: Iterable[str]) -> None:
        self._job_ids = tuple(dict.fromkeys(job_ids))

    def of(self, job_id: str, log: Path | None = None) -> Ending:
        """How one of them ended, by whoever knows it."""
        text = tail(log) if log is not None else ""
        told = in_light_of(Ending(job_id, "unknown"), text)
        if told.kind in ("memory", "time", "preempted", "node"):
            return told
        return in_light_of(self._by_slurm.get(job_id) or Ending(job_id, "unknown"), text)

    @cached_property
    def _by_slurm(self) -> dict[str, Ending]:
        known = {**_controller(self._job_ids), **_accounting(self._job_ids)}
        return {job_id: known[job_id] for job_id in self._job_ids if job_id in known}


def ending(job_id: str, log: Path | None = None) -> Ending:
    """How a job ended."""
    return Endings([job_id]).of(job_id, log)


def in_light_of(found: Ending, text: str) -> Ending:
    """An ending with what the job's log says of it: the cause where Slurm knows none, and what had been asked for."""
    text = text[max(0, text.rfind(_JOB_STARTS)) :]
    values: dict[str, int] = {}
    for name, pattern in _REQUESTED.items():
        if getattr(found, name) is None and (match := pattern.search(text)):
            values[name] = int(match[1])
    if match := _USED.search(text):
        values["peak_mb"] = int(match[1]) >> 20
    found = replace(found, **values)  # type: ignore[arg-type]
    if found.kind in ("failed", "cancelled", "unknown"):
        for kind, pattern in _IN_LOGS:
            if pattern.search(text):
                return replace(found, kind=kind)
    return found


def tail(path: Path, most_bytes: int = _TAIL_BYTES) -> str:
    """The beginning and the end of a text file, or all of it; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= most_bytes:
                return file.read().decode(errors="replace")
            first = file.read(most_bytes // 2)
            file.seek(size - most_bytes // 2)
            return (first + b"\n" + file.read()).decode(errors="replace")
    except OSError:
        return ""


def _accounting(job_ids: Sequence[str]) -> dict[str, Ending]:
    form = "JobID,State,ExitCode,MaxRSS,ReqMem,TimelimitRaw,NodeList"
    found: dict[str, Ending] = {}
    for start in range(0, len(job_ids), _ASKED_AT_ONCE):
        some = ",".join(job_ids[start : start + _ASKED_AT_ONCE])
        text = ask("sacct", "--jobs", some, "--noheader", "--parsable2", "--duplicates", "--format", form) or ""
        for job_id, state, exit_code, peak, asked, limit, node in _rows(text):
            own, _, step = job_id.partition(".")
            if step:
                used = max(megabytes(peak) or 0, found[own].peak_mb or 0) if own in found else 0
                found |= {own: replace(found[own], peak_mb=used)} if used else {}
            else:  # a requeued job has a row for each time; the last one counts
                minutes = int(limit) if limit.isdecimal() else None
                memory = megabytes(asked)
                found[own] = Ending(
                    own, _kind(state), state, _exit_code(exit_code), memory, None, minutes, node, _user(state)
                )
    return found


def _rows(text: str) -> Iterator[list[str]]:
    return (line.split("|") for line in text.splitlines() if line.count("|") == 6)


def _controller(job_ids: Sequence[str]) -> dict[str, Ending]:
    one = job_ids[:1] if len(job_ids) == 1 else ()
    text = ask("scontrol", "--oneliner", "show", "job", *one) or ""
    found: dict[str, Ending] = {}
    for line in text.splitlines():
        values = dict(re.findall(r"(\w+)=(\S*)", line))
        if (job_id := values.get("JobId")) is None:
            continue
        state, limit = values.get("JobState", ""), seconds(values.get("TimeLimit", ""))
        found[job_id] = Ending(
            job_id,
            _kind(state),
            state,
            _exit_code(values.get("ExitCode", "")),
            memory_mb=megabytes(values.get("MinMemoryNode", "")),
            runtime_min=limit // 60 if limit is not None else None,
            node="" if values.get("NodeList", "(null)") == "(null)" else values["NodeList"],
        )
    return found


def _kind(state: str) -> Kind:
    return _STATES.get(state.split(" ")[0].rstrip("+"), "unknown")


def _exit_code(text: str) -> int | None:
    """Of `1:0`: exit status and signal."""
    status = text.partition(":")[0]
    return int(status) if status.isdecimal() else None


def _user(state: str) -> str:
    """Of `CANCELLED by 1000`."""
    match = re.search(r"by (\d+)", state)
    if match is None:
        return ""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(int(match[1])).pw_name
    return f"user {match[1]}"


def megabytes(text: str) -> int | None:
    """Slurm's way of writing a size, which means kilobytes where it names no unit: `8000M`, `8Gn`, `512K`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)[nc]?", text.strip())
    if match is None or not float(match[1]):
        return None
    return round(float(match[1]) * {"": 1 / 1024, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}[match[2]])

"""Slurm's logs of a run: which job wrote which.

Snakemake's executor puts them into `RESULTS/logs/slurm/rule_RULE/WILDCARDS/JOBID.log`, those of groups into
`group_GROUP_RULES/JOBID.log`. Whose group it is stands in the log's head alone, in the command that Snakemake was
started with in the job: `--target-jobs fit:subject=101 bake:subject=101`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from osgap.runtime import slurm
from osgap.workflow.jobs import Job

_HEAD_BYTES = 1 << 14
_TARGETS = re.compile(r"--target-jobs ((?:(?!--)(?:'[^']*'|\S+) )+)")
_FAILED_RULE = re.compile(r"^Error in rule (\w+):$", re.MULTILINE)


@dataclass(frozen=True)
class SlurmLog:
    """One log."""

    job_id: str
    path: Path
    changed: float
    """[seconds since 1970]"""
    grouped: bool = False
    """Whether several jobs share it."""


def comment_of(job: Job) -> str:
    """What `squeue` shows of a job that is no group's."""
    values = _values(job)
    return f"rule_{job.rule}_wildcards_{values}" if values else f"rule_{job.rule}"


def logs_of(folder: Path, jobs: Sequence[Job]) -> dict[str, list[SlurmLog]]:
    """Name of a job -> its logs, oldest first.

    Args:
        folder: `RESULTS/logs/slurm`.
        jobs: those that are asked about.
    """
    found: dict[str, list[SlurmLog]] = defaultdict(list)
    for job in jobs:
        found[job.name] += _logs_in(folder / f"rule_{job.rule}" / _values(job))
    by_target = {target_of(job): job.name for job in jobs}
    for log in (log for group in sorted(folder.glob("group_*")) for log in _logs_in(group, grouped=True)):
        for target in targets_in(_head(log.path)):
            if target in by_target:
                found[by_target[target]].append(log)
    return {name: sorted(logs, key=lambda log: log.changed) for name, logs in found.items() if logs}


def target_of(job: Job) -> str:
    """What Snakemake calls a job on its command line."""
    return f"{job.rule}:{','.join(f'{name}={value}' for name, value in sorted(job.wildcards.items()))}"


def targets_in(text: str) -> list[str]:
    """The jobs that a command line of Snakemake's names, as `target_of` does."""
    match = _TARGETS.search(text.replace('\\"', '"'))
    if match is None:
        return []
    words = (word.strip("'\"") for word in re.findall(r"'[^']*'|\S+", match[1]))
    return [f"{rule}:{','.join(sorted(values.split(',')))}" for rule, _, values in (w.partition(":") for w in words)]


def failed_rules(text: str) -> set[str]:
    """The rules that a log says have failed."""
    return set(_FAILED_RULE.findall(text))


def queued_jobs(queue: Iterable[slurm.QueuedJob], jobs: Sequence[Job], folder: Path) -> dict[str, slurm.QueuedJob]:
    """Name of a job -> what Slurm's queue has of it.

    Args:
        folder: of Slurm's logs; a group that has not started has none, and Slurm is asked for its script.
    """
    by_comment = {comment_of(job): job.name for job in jobs}
    by_target = {target_of(job): job.name for job in jobs}
    logs = {path.stem: path for path in folder.glob("group_*/*.log")}
    found: dict[str, slurm.QueuedJob] = {}
    for queued in sorted(queue, key=lambda item: item.running):  # of two, that of a killed Snakemake may run
        if queued.comment in by_comment:
            found[by_comment[queued.comment]] = queued
        elif queued.comment.startswith("rule_"):
            targets = _targets_of_group(queued.id, logs)
            found |= {by_target[target]: queued for target in targets if target in by_target}
    return found


def _targets_of_group(job_id: str, logs: Mapping[str, Path]) -> list[str]:
    targets = targets_in(_head(logs[job_id])) if job_id in logs else []
    return targets or targets_in(slurm.ask("scontrol", "write", "batch_script", job_id, "-") or "")


def _values(job: Job) -> str:
    return "_".join(job.wildcards.values()).replace("/", "_")


def _logs_in(folder: Path, *, grouped: bool = False) -> list[SlurmLog]:
    found = []
    for path in folder.glob("*.log"):
        if path.stem.isdecimal():
            found.append(SlurmLog(path.stem, path, path.stat().st_mtime, grouped))
    return found


def _head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES).decode(errors="replace")
    except OSError:
        return ""

"""Why jobs failed, in a sentence each that says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from osgap.operations.run import Run, open_run
from osgap.operations.slurm_logs import SlurmLog, failed_rules, logs_of
from osgap.operations.stage_logs import StageLog, read_stage_log
from osgap.runtime.slurm_endings import Ending, Endings, in_light_of, tail
from osgap.workflow.jobs import Job

SAVED = ("fit", "train", "oneshot")
"""Stages that go on from a checkpoint."""

_LINES = 8
_SHOWN = 20


@dataclass(frozen=True)
class Failure:
    """A job that ended without its outputs."""

    job: Job
    cause: str
    log: StageLog | None = None
    slurm: SlurmLog | None = None

    @property
    def logs(self) -> list[Path]:
        """Where more of it is."""
        return [item.path for item in (self.log, self.slurm) if item is not None]


def failure_of(job: Job, log: StageLog | None, slurm: SlurmLog | None, endings: Endings) -> Failure | None:
    """Why a job that is neither done nor in the queue ended; None where it never began.

    Args:
        log: its stage's, if there is one.
        slurm: the newest of Slurm's, if there is one.
        endings: of Slurm's jobs, this one's among them.
    """
    if slurm is None:
        if log is None:
            return None
        return Failure(job, log.error or "ended without a word", log)
    text = tail(slurm.path)
    if slurm.grouped and log is None and not _had_begun(job, text):
        return None  # another job of the group came before it
    said = log.error if log is not None and log.slurm_job in (None, slurm.job_id) else ""
    found = in_light_of(Ending(slurm.job_id, "failed"), text) if said else endings.of(slurm.job_id, slurm.path)
    return Failure(job, sentence(found, job, said), log, slurm)


def _had_begun(job: Job, text: str) -> bool:
    """Whether a job of a group was at work when the group ended, by the group's log."""
    failed = failed_rules(text)
    return job.rule in failed if failed else all(path.exists() for path in job.inputs)


def sentence(found: Ending, job: Job, said: str = "") -> str:
    """Why, and what to do.

    Args:
        said: how the stage's own log ends.
    """
    again = "it goes on from its checkpoint" if job.stage in SAVED else "it begins anew"
    same = f"when the same snakemake command runs again, {again}"
    if found.kind == "memory":
        asked = f"asked for {found.memory_mb:,} MB" if found.memory_mb else "no amount is known that it asked for"
        peak = f", used {found.peak_mb:,} MB" if found.peak_mb and found.peak_mb > (found.memory_mb or 0) else ""
        more = 2 * max(found.memory_mb or 8_000, found.peak_mb or 0)
        return f"out of memory: {asked}{peak}; ask for more with --set-resources {job.rule}:mem_mb={more}"
    if found.kind == "time":
        asked = f" of {found.runtime_min:,} minutes" if found.runtime_min else ""
        minutes = 2 * found.runtime_min if found.runtime_min else "MINUTES"
        return f"over its time limit{asked}; {same}; ask for more with --set-resources {job.rule}:runtime={minutes}"
    if found.kind == "preempted":
        return f"preempted by another job; {same}"
    if found.kind == "node":
        return f"its node{f' {found.node}' if found.node else ''} failed; {same}"
    if found.kind == "cancelled":
        return f"cancelled{f' by {found.by}' if found.by else ''}; {same}"
    if said:
        return said
    if found.kind == "completed":
        return "ended well for Slurm, but its files are not all there; a slow file system may show them late"
    status = f" with exit status {found.exit_code}" if found.exit_code else ""
    return f"failed{status} without a word in its log; Slurm's log may say more"


def failures(run: Run, jobs: Sequence[Job], since: float = 0.0) -> list[Failure]:
    """Those of the jobs that ended without their outputs, whoever knows why.

    Args:
        jobs: that are neither done nor in the queue.
        since: only those whose logs are newer [seconds since 1970].
    """
    slurm_logs = logs_of(run.pipeline.layout.slurm_logs, jobs)
    endings = endings_of(slurm_logs)
    found = []
    for job in jobs:
        log = read_stage_log(job.log)
        newest = slurm_logs.get(job.name, [None])[-1]
        if max(item.changed if item is not None else 0.0 for item in (log, newest)) < since:
            continue
        if (failure := failure_of(job, log, newest, endings)) is not None:
            found.append(failure)
    return found


def endings_of(logs: Mapping[str, Sequence[SlurmLog]]) -> Endings:
    """Of the newest of each job's logs."""
    return Endings(items[-1].job_id for items in logs.values())


def causes(results: Path, since: float) -> list[str]:
    """One or more lines for each job that failed since then: which, why, and where its logs are.

    Args:
        results: of a run that has written `run.json`.
        since: [seconds since 1970].

    Raises:
        UserError: no such run.
    """
    run = open_run(str(results))
    lines = []
    found = failures(run, [job for job in run.jobs if not job.done], since)
    for failure in found[:_SHOWN]:
        job_id = f" (Slurm job {failure.slurm.job_id})" if failure.slurm is not None else ""
        lines.append(f"{failure.job.name}{job_id}: {failure.cause}")
        lines.append(f"    see {' and '.join(map(str, failure.logs))}")
        if failure.log is not None and failure.log.error and failure.log.error in failure.cause:
            lines += [f"    | {line}" for line in last_lines(failure.log.path)]
    if len(found) > _SHOWN:
        lines.append(f"and {len(found) - _SHOWN:,} more: `osgap status {results}` counts them")
    return lines


def last_lines(path: Path, count: int = _LINES) -> list[str]:
    """The end of a text file."""
    return tail(path).rstrip().splitlines()[-count:] if count else []

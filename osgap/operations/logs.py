"""The logs of one job: the stage's own, and Slurm's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from osgap.operations.causes import endings_of, failure_of, last_lines
from osgap.operations.run import Run
from osgap.operations.slurm_logs import logs_of, queued_jobs
from osgap.operations.stage_logs import read_stage_log
from osgap.runtime import slurm
from osgap.runtime.errors import UserError
from osgap.workflow.jobs import Job


@dataclass(frozen=True)
class JobLogs:
    """What there is of one job."""

    job: Job
    summary: str
    """What became of it, in a sentence."""
    files: tuple[Path, ...]
    """The stage's log, then Slurm's, newest last."""


def find_job(run: Run, words: Sequence[str]) -> Job:
    """The job that some words name: a rule or stage, then its wildcards (`fit 101`, `evaluate one_shot 201`, `train`).

    Of an experiment's own job and one of the same name that it shares, the experiment's is meant.

    Raises:
        UserError: none, or several; says which there are.
    """
    name, *values = words
    named = [job for job in run.jobs if name in (job.rule, job.stage)]
    if not named:
        rules = ", ".join(dict.fromkeys(job.rule for job in run.jobs))
        raise UserError(f"{run.name}: no job of this run is called {name!r}; its rules are {rules}")
    found = [job for job in named if _values(job) == values] or [job for job in named if _ends_with(job, values)]
    if len(found) > 1:
        own = [job for job in found if job.experiment == run.experiment]
        found = own if len(own) == 1 else found
    if len(found) == 1:
        return found[0]
    shown = [job.name for job in found or named]
    some = ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
    problem = "fits several jobs" if found else "fits no job"
    raise UserError(f"{run.name}: {' '.join(words)} {problem}; there is {some} (an experiment's: RESULTS:EXPERIMENT)")


def logs_of_job(run: Run, job: Job) -> JobLogs:
    """Where a job's logs are, and what became of it."""
    folder = run.pipeline.layout.slurm_logs
    log = read_stage_log(job.log)
    slurm_logs = logs_of(folder, [job]).get(job.name, [])
    files = (*([job.log] if log is not None else []), *(item.path for item in slurm_logs))
    queued = queued_jobs(slurm.queue() or (), [job], folder).get(job.name)
    if queued is not None:
        reason = f" ({queued.reason})" if queued.reason else ""
        return JobLogs(job, f"Slurm job {queued.id} is {queued.state.lower()}{reason}", files)
    if job.done:
        return JobLogs(job, "done: all of its files are there", files)
    failure = failure_of(
        job, log, slurm_logs[-1] if slurm_logs else None, endings_of({job.name: slurm_logs} if slurm_logs else {})
    )
    if failure is None:
        return JobLogs(job, "has not begun", files)
    if log is not None and log.fresh and not log.error and not slurm_logs:
        return JobLogs(job, f"at work{f': {log.progress}' if log.progress else ''}", files)
    return JobLogs(job, failure.cause, files)


def shown(found: JobLogs, lines: int) -> str:
    """The cause in one sentence, then the ends of the logs.

    Args:
        lines: of each log at most.
    """
    parts = [f"{found.job.name}: {found.summary}"]
    for file in found.files:
        parts += ["", f"== {file}", *last_lines(file, lines)]
    if not found.files:
        parts.append(f"no log yet; the stage's will be {found.job.log}")
    return "\n".join(parts)


def _values(job: Job) -> list[str]:
    return [value for name, value in job.wildcards.items() if name != "experiment"]


def _ends_with(job: Job, values: Sequence[str]) -> bool:
    """Whether the values are a job's last ones: `oneshot 201` is `oneshot oneshot 201`, but not of few photographs."""
    own = _values(job)
    return (
        bool(values) and own[len(own) - len(values) :] == [*values] and job.wildcards.get("folder") in (None, "oneshot")
    )

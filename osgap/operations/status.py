"""How far a run is: from its files and `squeue` alone, without Snakemake."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from osgap.operations.causes import Failure, endings_of, failure_of
from osgap.operations.costs import read_costs
from osgap.operations.forecast import Load, Machine, load_of, schedule
from osgap.operations.run import Run
from osgap.operations.slurm_logs import SlurmLog, logs_of, queued_jobs
from osgap.operations.stage_logs import StageLog, read_stage_log
from osgap.runtime import slurm
from osgap.runtime.slurm_endings import Endings
from osgap.workflow.jobs import Job

State = Literal["done", "running", "queued", "failed", "waiting"]

_OVERDUE = 0.25
"""How much longer a job that takes longer than expected is expected to take, as a share of what was expected."""
STATES: tuple[State, ...] = ("done", "running", "queued", "failed", "waiting")


@dataclass(frozen=True)
class JobState:
    """One job."""

    job: Job
    state: State
    """`done`: its files are there. `queued`: Slurm has it. `waiting`: for other jobs, or to be submitted."""
    why: str = ""
    """Slurm's reason for letting it wait, or the cause of its failure."""
    progress: str = ""
    rest_s: float | None = None
    """How long it still takes, as its log says or as others took [seconds]; None where that is over already."""
    slurm_id: str | None = None
    start: datetime | None = None
    """When Slurm expects to start it."""


@dataclass(frozen=True)
class Status:
    """All jobs of a run, and when the last will be done."""

    run: Run
    states: tuple[JobState, ...]
    left_s: float
    """With failed jobs run again [seconds]."""
    machine: Machine
    """On which that is reckoned."""

    def of(self, state: State) -> list[JobState]:
        """The jobs in one state."""
        return [item for item in self.states if item.state == state]

    def counts(self) -> dict[str, Counter[State]]:
        """Stage -> state -> number of jobs."""
        found: dict[str, Counter[State]] = {}
        for item in self.states:
            found.setdefault(item.job.stage, Counter())[item.state] += 1
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON: numbers of all stages, and each job that runs, is queued or failed."""
        shown = [item for item in self.states if item.state in ("running", "queued", "failed")]
        return {
            "run": self.run.name,
            "snakemake": {True: "running", False: "not running", None: "unknown"}[self.run.alive],
            "left_seconds": round(self.left_s),
            "stages": {stage: {state: counts[state] for state in STATES} for stage, counts in self.counts().items()},
            "jobs": [
                {
                    "name": item.job.name,
                    "rule": item.job.rule,
                    "wildcards": {**item.job.wildcards},
                    "state": item.state,
                    "why": item.why,
                    "progress": item.progress,
                    "rest_seconds": None if item.rest_s is None else round(item.rest_s),
                    "slurm_id": item.slurm_id,
                    "log": str(item.job.log),
                }
                for item in shown
            ],
        }


def status(run: Run, machine: Machine) -> Status:
    """How far a run is.

    Args:
        machine: on which the jobs that are left are reckoned to run.
    """
    left = [job for job in run.jobs if not job.done]
    folder = run.pipeline.layout.slurm_logs
    queue = [item for item in slurm.queue() or () if _is_of(item, run)]
    queued = queued_jobs(queue, left, folder)
    logs = logs_of(folder, left)
    costs = read_costs()
    loads = {job.name: load_of(run.pipeline, job, costs, machine) for job in left}
    endings = endings_of({name: items for name, items in logs.items() if name not in queued})
    states = {
        job.name: _state(run, job, queued.get(job.name), logs.get(job.name, []), loads[job.name], endings)
        for job in left
    }
    states = _one_of_each_group(left, states)
    running = {name: item.rest_s for name, item in states.items() if item.state == "running"}
    rest = {name: _OVERDUE * loads[name].seconds if seconds is None else seconds for name, seconds in running.items()}
    ends = schedule(left, loads, machine, running=rest)
    everything = tuple(states.get(job.name) or JobState(job, "done") for job in run.jobs)
    return Status(run, everything, max(ends.values(), default=0.0), machine)


def _state(
    run: Run, job: Job, queued: slurm.QueuedJob | None, logs: Sequence[SlurmLog], load: Load, endings: Endings
) -> JobState:
    log = read_stage_log(job.log)
    if queued is not None and queued.running:
        return _running(job, log, load, time.time() - queued.elapsed_s, queued.id)
    if queued is not None:
        return JobState(job, "queued", queued.reason, slurm_id=queued.id, start=queued.start)
    newest = logs[-1] if logs else None
    if log is not None and newest is None and _goes_on_here(run, log):
        return _running(job, log, load)
    failure = failure_of(job, log, newest, endings)
    return JobState(job, "waiting") if failure is None else _failed(failure)


def _running(job: Job, log: StageLog | None, load: Load, started: float = 0.0, slurm_id: str | None = None) -> JobState:
    """A job at work.

    Args:
        started: when Slurm started it, or the first of its group; it cannot have begun before its inputs were there.
    """
    rest = log.rest_s if log is not None else None
    if rest is None:
        begun = max((path.stat().st_mtime for path in job.inputs if path.exists()), default=started)
        expected = load.seconds - (time.time() - max(begun, started))
        rest = expected if expected > 0 else None
    return JobState(job, "running", progress=log.progress if log is not None else "", rest_s=rest, slurm_id=slurm_id)


def _failed(failure: Failure) -> JobState:
    return JobState(
        failure.job, "failed", failure.cause, slurm_id=failure.slurm.job_id if failure.slurm is not None else None
    )


def _goes_on_here(run: Run, log: StageLog) -> bool:
    """Whether a job without Slurm is at work: its Snakemake lives, and it has not said that it failed.

    Where that Snakemake cannot be seen, a log counts that was written to just now.
    """
    if log.error or run.alive is False:
        return False
    return log.changed >= run.started if run.alive else log.fresh


def _is_of(queued: slurm.QueuedJob, run: Run) -> bool:
    """Whether a job in the queue was submitted for this results folder, by a Snakemake that works where it does."""
    told = (run.record or {}).get("config", {}).get("results", str(run.results))
    return (queued.folder / told).resolve() == run.results.resolve()


def _one_of_each_group(jobs: Sequence[Job], states: Mapping[str, JobState]) -> dict[str, JobState]:
    """Jobs of a group run one after the other: those that need what another of it still makes cannot have begun."""
    makers = {path: job.name for job in jobs for path in job.outputs}
    found = dict(states)
    for job in jobs:
        own = states[job.name]
        others = [states[makers[path]] for path in job.inputs if path in makers]
        if own.state == "running" and own.slurm_id and any(item.slurm_id == own.slurm_id for item in others):
            found[job.name] = JobState(job, "waiting", slurm_id=own.slurm_id)
    return found

"""When which job would be done: a simple scheduler over the jobs that are left, with measured durations."""

from __future__ import annotations

import heapq
import os
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from osgap.operations.costs import Costs
from osgap.operations.work import work_of
from osgap.runtime import slurm
from osgap.runtime.cards import list_gpus
from osgap.workflow.jobs import Job
from osgap.workflow.pipeline import Pipeline

MOST_JOBS = 200
"""Jobs that a cluster is given at once: `jobs` in profiles/slurm/config.yaml."""


@dataclass(frozen=True)
class Machine:
    """What jobs can have at once."""

    gpus: int
    cpus: int | None = None
    """Default is what the jobs ask for, at most `MOST_JOBS` jobs at once."""


def machine_here(gpus: int | None = None, cpus: int | None = None) -> Machine:
    """A machine of that many GPUs; by default what this cluster has, or this machine.

    Of a machine that belongs to no cluster its own cores count, where GPUs are not named either.
    """
    here = gpus is None
    nodes = {node.name: node for node in slurm.nodes() if not node.state.startswith(("down", "drain", "unknown"))}
    if gpus is None:
        gpus = sum(node.gpu_count for node in nodes.values()) if nodes else len(list_gpus())
    if cpus is None and here and not nodes:
        cpus = os.cpu_count()
    return Machine(gpus, cpus)


@dataclass(frozen=True)
class Load:
    """What one job takes."""

    seconds: float
    cpus: int
    gpus: int
    at_once: int = MOST_JOBS
    """How many jobs of its stage there can be at once."""

    @property
    def gpu_hours(self) -> float:
        """Of all of its cards."""
        return self.gpus * self.seconds / 3600

    @property
    def cpu_hours(self) -> float:
        """Of all of its threads, idle or not, as a cluster counts them."""
        return self.cpus * self.seconds / 3600


def load_of(pipeline: Pipeline, job: Job, costs: Costs, machine: Machine) -> Load:
    """What a job takes on this machine.

    A training whose cards the machine does not have is given those that it has, and as much longer.
    """
    owner = pipeline.of(job.place)
    needs = owner.needs(job.rule)
    nodes = owner.config.prior.nodes if job.stage == "train" else 1
    asked = needs.gpus * nodes
    gpus = 0 if owner.config.accelerator == "cpu" else min(asked, machine.gpus)
    cost = costs.of(job.stage, gpus > 0)
    threads = needs.threads * (asked if nodes > 1 else 1)  # on several nodes they are counted for each process
    cpus = threads if machine.cpus is None else min(threads, machine.cpus)
    seconds = cost.seconds(work_of(owner, job), cpus)
    if gpus and gpus < asked:
        seconds *= asked / gpus
    return Load(seconds, cpus, gpus, cost.at_once or MOST_JOBS)


def schedule(
    jobs: Sequence[Job], loads: Mapping[str, Load], machine: Machine, running: Mapping[str, float] | None = None
) -> dict[str, float]:
    """When each of the jobs would be done, in seconds from now; a job starts as soon as it can, in the list's order.

    Args:
        jobs: that are left, each after those that it needs; what they need of others is there.
        loads: of each, by name.
        running: those that run already, by name: how many seconds they still take.
    """
    plan = _Plan(jobs, loads, machine)
    for job in jobs:
        if running is not None and job.name in running:
            plan.start(job, running[job.name])
    while plan.start_what_can() or plan.running:
        plan.advance()
    return plan.ends


class _Plan:
    """The jobs that wait, those that run, and what is free."""

    def __init__(self, jobs: Sequence[Job], loads: Mapping[str, Load], machine: Machine) -> None:
        self._jobs, self._loads = jobs, loads
        self._free = {"gpus": machine.gpus, "cpus": machine.cpus or 10**9, "jobs": MOST_JOBS}
        self._of_stage: dict[str, int] = defaultdict(int)
        makers = {path: job.name for job in jobs for path in job.outputs}
        self._needs = {job.name: {makers[path] for path in job.inputs if path in makers} for job in jobs}
        self._needed_by: dict[str, list[Job]] = defaultdict(list)
        for job in jobs:
            for name in self._needs[job.name]:
                self._needed_by[name].append(job)
        self._ready: dict[str, deque[Job]] = defaultdict(deque)  # by stage: those of one stage need the same
        for job in jobs:
            if not self._needs[job.name]:
                self._ready[job.stage].append(job)
        self._order = {job.name: index for index, job in enumerate(jobs)}
        self.running: list[tuple[float, int, Job]] = []
        self.ends: dict[str, float] = {}
        self.now = 0.0

    def start(self, job: Job, seconds: float) -> None:
        """Give a job what it needs."""
        if job in self._ready[job.stage]:
            self._ready[job.stage].remove(job)
        self._take(job, 1)
        heapq.heappush(self.running, (self.now + seconds, self._order[job.name], job))

    def start_what_can(self) -> bool:
        """Start all that fits; whether anything did."""
        started = False
        for queue in list(self._ready.values()):
            while queue and self._fits(queue[0]):
                self.start(queue[0], self._loads[queue[0].name].seconds)
                started = True
        return started

    def advance(self) -> None:
        """Go on to the end of the next job."""
        self.now, _, job = heapq.heappop(self.running)
        self.ends[job.name] = self.now
        self._take(job, -1)
        for waiting in self._needed_by[job.name]:
            left = self._needs[waiting.name]
            left.discard(job.name)
            if not left and not self._is_known(waiting):
                self._ready[waiting.stage].append(waiting)

    def _is_known(self, job: Job) -> bool:
        """Whether it runs or has run: a job that was found running may need what is made again."""
        return job.name in self.ends or any(entry[2] is job for entry in self.running)

    def _fits(self, job: Job) -> bool:
        load = self._loads[job.name]
        enough = load.gpus <= self._free["gpus"] and load.cpus <= self._free["cpus"] and self._free["jobs"] > 0
        return enough and self._of_stage[job.stage] < load.at_once

    def _take(self, job: Job, sign: int) -> None:
        load = self._loads[job.name]
        self._free["gpus"] -= sign * load.gpus
        self._free["cpus"] -= sign * load.cpus
        self._free["jobs"] -= sign
        self._of_stage[job.stage] += sign

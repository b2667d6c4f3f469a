"""What a run will take, before anything is started: jobs, GPU-hours, CPU-hours, disk and time, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from osgap.operations.costs import Costs, read_costs
from osgap.operations.forecast import Load, Machine, load_of, schedule
from osgap.operations.space import space_needed
from osgap.operations.submissions import submissions
from osgap.workflow.jobs import Job, jobs
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.profile import Profile

_DISK = {
    "synthetic-person": "synthetic people",
    "download": "raw videos",
    "import": "captures",
    "fit": "avatars",
    "bake": "maps",
    "train": "prior",
    "oneshot": "personal avatars",
    "video": "figures",
}
"""Stage -> what `space_needed` calls what it writes."""


@dataclass(frozen=True)
class Row:
    """One stage, or all of them."""

    stage: str
    jobs: int
    """All of the run."""
    left: int
    """Those of them whose files are not all there."""
    gpu_hours: float
    """Of the jobs that are left, as the next two."""
    cpu_hours: float
    disk_bytes: float
    ends_after_s: float
    """When the last of them is done, from the start."""


@dataclass(frozen=True)
class Plan:
    """What is left of a run."""

    rows: tuple[Row, ...]
    total: Row
    machine: Machine
    submissions: int
    """Jobs that Slurm would be given; a group counts once."""
    overhead: float
    """What Snakemake itself takes of the processors for that, as a share of what the jobs take."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        slurm = {"submissions": self.submissions, "overhead": round(self.overhead, 5)}
        stages = [asdict(row) for row in self.rows]
        return {"machine": asdict(self.machine), "stages": stages, "total": asdict(self.total), "slurm": slurm}


def plan(
    pipeline: Pipeline,
    machine: Machine,
    *,
    experiment: str | None = None,
    profile: Profile | None = None,
    costs: Costs | None = None,
) -> Plan:
    """What is left of a run takes on this machine.

    Args:
        experiment: only what this experiment needs.
        profile: which says what Slurm is given as one.
        costs: seconds. Default is what was measured.
    """
    everything = jobs(pipeline, experiment)
    left = [job for job in everything if not job.done]
    costs = costs or read_costs()
    loads = {job.name: load_of(pipeline, job, costs, machine) for job in left}
    ends = schedule(left, loads, machine)
    disk = space_needed(pipeline)
    rows = [
        _row(stage, everything, left, loads, ends, disk.get(_DISK.get(stage, ""), 0.0)) for stage in _stages(everything)
    ]
    total = Row(
        "all",
        len(everything),
        len(left),
        sum(row.gpu_hours for row in rows),
        sum(row.cpu_hours for row in rows),
        sum(row.disk_bytes for row in rows),
        max(ends.values(), default=0.0),
    )
    count = submissions(left, profile or Profile()).total()
    overhead = count * costs.submission / 3600 / total.cpu_hours if left else 0.0
    return Plan(tuple(rows), total, machine, count, overhead)


def _stages(everything: Sequence[Job]) -> list[str]:
    """In the order of the first job of each."""
    return list(dict.fromkeys(job.stage for job in everything))


def _row(
    stage: str,
    everything: Sequence[Job],
    left: Sequence[Job],
    loads: dict[str, Load],
    ends: dict[str, float],
    disk_bytes: float,
) -> Row:
    names = [job.name for job in left if job.stage == stage]
    return Row(
        stage,
        sum(job.stage == stage for job in everything),
        len(names),
        sum(loads[name].gpu_hours for name in names),
        sum(loads[name].cpu_hours for name in names),
        disk_bytes if names else 0.0,
        max((ends[name] for name in names), default=0.0),
    )

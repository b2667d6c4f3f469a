"""What Slurm offers, where this machine belongs to a cluster: how jobs are remembered, GPUs, names.

Nothing here keeps a run from ending that does not use the cluster: whatever is wrong is a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from osgap.doctor.findings import Finding, Status, some
from osgap.runtime import slurm
from osgap.runtime.errors import UserError
from osgap.workflow.cluster_problems import configuration_problems, forgetting_problems, gpu_problems
from osgap.workflow.config import Config
from osgap.workflow.profile import Profile, read_profile

if TYPE_CHECKING:
    from osgap.workflow.pipeline import Pipeline


def findings(pipeline: Pipeline | None) -> list[Finding]:
    """All findings about the cluster; none on a machine that belongs to none."""
    if not slurm.expected():
        return []
    found = slurm.settings()
    missing = sorted({*slurm.COMMANDS} - {"sacct"} - slurm.commands())
    if missing:
        fix = "Run this on a login node, or load the cluster's module of Slurm."
        return [_finding("cluster", "warning", f"{', '.join(missing)} not on PATH", fix)]
    if found is None:
        fix = "Nothing to do where jobs do not go to Slurm; otherwise try again later, or ask who runs the cluster."
        return [_finding("cluster", "warning", "Slurm's commands are here, but its controller does not answer", fix)]
    nodes = slurm.nodes()
    kill = f", {found.kill_wait_s} s from SIGTERM to SIGKILL" if found.kill_wait_s is not None else ""
    return [
        _judged("cluster", f"Slurm {found.version}, {found.configuration}{kill}", configuration_problems()),
        _finished_jobs(found),
        _gpus(pipeline.config if pipeline is not None else Config(), nodes),
    ]


def _finding(name: str, status: Status, found: str, fix: str = "") -> Finding:
    return Finding("machine", name, status, found, fix)


def _judged(name: str, found: str, problems: Iterable[str]) -> Finding:
    """What is there, with the first problem that was found of it."""
    problem = next(iter(problems), None)
    if problem is None:
        return _finding(name, "ok", found)
    what, _, advice = problem.rpartition("; ")
    return _finding(name, "warning", f"{found}\n{what}", f"{advice[:1].upper()}{advice[1:]}.")


def _finished_jobs(found: slurm.Settings) -> Finding:
    """Whether Snakemake will notice that a job has ended."""
    try:
        profile = read_profile()
    except UserError:
        profile = Profile()
    age = "for an unknown time" if found.min_job_age_s is None else f"{found.min_job_age_s} s"
    kept = "and in a database (slurmdbd)" if found.accounting else "and in no database (no slurmdbd)"
    asked = f"Snakemake asks after {profile.first_check_s} s"
    return _judged(
        "finished jobs",
        f"remembered {age} (MinJobAge) {kept}; {asked}",
        forgetting_problems(found, profile.first_check_s),
    )


def _gpus(config: Config, nodes: Sequence[slurm.Node]) -> Finding:
    """Where GPUs are, by the cluster's names, and whether they are what this config asks for."""
    with_gpus = sorted(slurm.with_gpus(nodes), key=lambda node: node.partition)
    shown = []
    for partition, members in groupby(with_gpus, key=lambda node: node.partition):
        kinds = dict.fromkeys(slurm.described(node.gpus) for node in members)
        shown.append(f"{partition} ({some(list(kinds), 3)} a node)")
    text = f"in {', '.join(shown)}" if shown else "none that Slurm knows of"
    return _judged("cluster GPUs", text, gpu_problems(config, nodes))

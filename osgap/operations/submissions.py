"""How many jobs Slurm is given: a group of Snakemake's jobs counts once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from osgap.workflow.jobs import Job
from osgap.workflow.profile import Profile


def submissions(jobs: Sequence[Job], profile: Profile) -> Counter[str]:
    """Rule or group -> how often Slurm is given one."""
    found: Counter[str] = Counter(job.rule for job in jobs if job.rule not in profile.group_of)
    members: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        if job.rule in profile.group_of:
            members[profile.group_of[job.rule]].append(job)
    for group, grouped in members.items():
        found[group] = -(-_connected(grouped) // profile.components.get(group, 1))
    return found


def _connected(jobs: Sequence[Job]) -> int:
    """The number of sets of jobs that need each other, directly or not."""
    parent = list(range(len(jobs)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    makers = {path: index for index, job in enumerate(jobs) for path in job.outputs}
    for index, job in enumerate(jobs):
        for path in job.inputs:
            if path in makers:
                parent[root(index)] = root(makers[path])
    return len({root(index) for index in range(len(jobs))})

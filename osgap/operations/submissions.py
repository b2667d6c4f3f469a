"""How many jobs Slurm is given: a group of Snakemake's jobs counts once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from osgap.runtime.errors import UserError
from osgap.workflow.jobs import Job

PROFILE = Path("profiles/slurm/config.yaml")


@dataclass(frozen=True)
class Groups:
    """What Snakemake puts into one submission, from its options `groups` and `group-components`."""

    of_rule: Mapping[str, str] = field(default_factory=dict)
    """Rule -> group. Jobs of a group that need each other are submitted as one."""
    components: Mapping[str, int] = field(default_factory=dict)
    """Group -> how many of those go into one submission."""


def read_groups(profile: Path = PROFILE) -> Groups:
    """The groups of a profile; none where it is not there.

    Raises:
        UserError: it cannot be read.
    """
    if not profile.is_file():
        return Groups()
    try:
        content = yaml.safe_load(profile.read_text()) or {}
        components = {group: int(count) for group, count in _pairs(content.get("group-components")).items()}
        return Groups(_pairs(content.get("groups")), components)
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{profile}: not a profile of Snakemake's ({error}); correct it") from None


def _pairs(option: Any) -> dict[str, str]:
    """Of an option that is a mapping, or a list of `name=value`."""
    if isinstance(option, Mapping):
        return {str(name): str(value) for name, value in option.items()}
    return dict(str(item).split("=", 1) for item in option or ())


def submissions(jobs: Sequence[Job], groups: Groups) -> Counter[str]:
    """Rule or group -> how often Slurm is given one."""
    found: Counter[str] = Counter(job.rule for job in jobs if job.rule not in groups.of_rule)
    members: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        if job.rule in groups.of_rule:
            members[groups.of_rule[job.rule]].append(job)
    for group, grouped in members.items():
        found[group] = -(-_connected(grouped) // groups.components.get(group, 1))
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

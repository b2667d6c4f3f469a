"""What Snakemake's profile for Slurm says that others must know: groups, and how jobs are watched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from osgap.runtime.errors import UserError

PROFILE = Path("profiles/slurm/config.yaml")


@dataclass(frozen=True)
class Profile:
    """Some of its options."""

    group_of: Mapping[str, str] = field(default_factory=dict)
    """Rule -> group. Jobs of a group that need each other are submitted as one."""
    components: Mapping[str, int] = field(default_factory=dict)
    """Group -> how many of those go into one submission."""
    first_check_s: int = 40
    """Time after which Snakemake first asks for the state of its jobs [seconds]."""


def read_profile(file: Path = PROFILE) -> Profile:
    """The profile; where it is not there, what Snakemake has by default.

    Raises:
        UserError: it cannot be read.
    """
    if not file.is_file():
        return Profile()
    try:
        content = yaml.safe_load(file.read_text()) or {}
        components = {group: int(count) for group, count in _pairs(content.get("group-components")).items()}
        first = int(content.get("slurm-init-seconds-before-status-checks", Profile.first_check_s))
        return Profile(_pairs(content.get("groups")), components, first)
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not a profile of Snakemake's ({error}); correct it") from None


def _pairs(option: Any) -> dict[str, str]:
    """Of an option that is a mapping, or a list of `name=value`."""
    if isinstance(option, Mapping):
        return {str(name): str(value) for name, value in option.items()}
    return dict(str(item).split("=", 1) for item in option or ())

"""Which outputs were made by other versions of packages than the present ones, for `osgap why`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osgap.runtime.upgrades import current_versions, describe_upgrade, earlier_versions
from osgap.workflow.accept import provenance_of, records
from osgap.workflow.stages import STAGES

_MOST = 1000
"""Files of a stage that are looked at: to open one takes a fifth of a millisecond, on a network file system more."""


@dataclass
class Survey:
    """What some outputs were made by."""

    now: Mapping[str, str]
    there: int = 0
    """Outputs."""
    seen: int = 0
    """How many of them were looked at."""
    others: int = 0
    """How many of these were made by other versions."""
    versions: list[Mapping[str, str]] = field(default_factory=list)
    """By which, each once."""

    def __str__(self) -> str:
        """One sentence; empty where all were made by the present versions."""
        if not self.others:
            return ""
        of = f" of {self.seen:,} that were looked at, of {self.there:,} in all," * (self.seen < self.there)
        many = f"{self.others:,} output{'s' * (self.others != 1)}{of} {'was' if self.others == 1 else 'were'}"
        return f"{many} made by other versions: {describe_upgrade(earlier_versions(self.versions, self.now), self.now)}"


def versions_of(provenance: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """Those that an output was made by, and those that had a part in it before an upgrade on the way."""
    last: Mapping[str, str] = provenance.get("versions", {})
    earlier: Mapping[str, list[str]] = provenance.get("upgraded", {})
    return [last, *({**last, name: version} for name, versions in earlier.items() for version in versions)]


def survey(results: Path, most: int = _MOST) -> Survey:
    """Look at the outputs of a results folder.

    Args:
        most: of each stage; of more, so many are taken evenly.
    """
    found = Survey(current_versions())
    known: set[Path] = set()
    for stage in STAGES:
        files = [path for path in records(results, stage) if path not in known]  # a fit may be adopted
        known.update(files)
        found.there += len(files)
        for path in files[:: -(-len(files) // most) or 1]:
            provenance = provenance_of(path)
            found.seen += 1
            if provenance is None:
                continue
            made = versions_of(provenance)
            if earlier_versions(made, found.now):
                found.others += 1
                found.versions += [versions for versions in made if versions not in found.versions]
    return found

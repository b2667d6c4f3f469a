"""Why would a job run again? Snakemake's own decision, with its digests turned into names.

Snakemake decides; this module asks it for a dry run (`osgap.workflow.planned`) and explains the two parameters that
every rule carries: which key of the config changed (`settings`), and which modules changed (`code`), by comparing the
modules' digests with those in the provenance of the file that would be replaced.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osgap.runtime.artifacts import read_provenance
from osgap.runtime.code import code_digests
from osgap.runtime.errors import UserError
from osgap.runtime.upgrades import current_versions, describe_upgrade, earlier_versions
from osgap.workflow.stages import STAGES
from osgap.workflow.versions import versions_of

_PARAMS = "Params have changed since last execution: "
_LITERAL = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|( now: )""")
_DIGEST = re.compile(r"[0-9a-f]{16}(?: after .*)?")


@dataclass(frozen=True)
class Job:
    """One job that would run."""

    rule: str
    outputs: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What would run, and what would but for `osgap accept`."""

    jobs: tuple[Job, ...]
    accepted: tuple[str, ...]
    versions: tuple[str, ...] = ()
    """A sentence about outputs that other versions of packages made, if there are any."""


def why(snakemake_arguments: Sequence[str]) -> Plan:
    """The jobs that `snakemake ARGUMENTS` would run, in its order, each with its reasons.

    Raises:
        UserError: Snakemake refuses (its message is passed on).
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "planned.jsonl"
        command = [sys.executable, "-m", "osgap.workflow.planned", str(file), *snakemake_arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    if done.returncode:
        raise UserError(f"snakemake stopped with exit code {done.returncode}:\n{done.stdout}{done.stderr}".rstrip())
    versions = next((line["versions"] for line in lines if "versions" in line), {"upgrades": "warn", "others": ""})
    jobs = [
        Job(
            job["rule"],
            tuple(job["outputs"]),
            tuple(_explain(job["reason"], [Path(line["folder"], o) for o in job["outputs"]], versions["upgrades"])),
        )
        for line in lines
        if (job := line.get("job")) and job["outputs"]  # one without outputs only collects
    ]
    accepted = tuple(f"accepted for {line['accepted']}" for line in lines if "accepted" in line)
    others = (f"{versions['others']} (upgrades: {versions['upgrades']})",) if versions["others"] else ()
    return Plan(tuple(jobs), accepted, others)


def _explain(reason: str, outputs: Sequence[Path], upgrades: str = "warn") -> Iterator[str]:
    others, changed, params = reason.partition(_PARAMS)
    for other in filter(None, others.split("; ")):
        yield other[:1].lower() + other[1:]
    if not changed:
        return
    before, now = _params(params)
    yield from _settings_changes(_settings(before), _settings(now))
    yield from _others(before, now)
    yield from _made_by(outputs, upgrades)


def _params(text: str) -> tuple[list[str], list[str]]:
    """The parameters of text that only were before, and that only are now.

    Snakemake's events have the reason as a text alone; within it, parameters are Python's literals.
    """
    sides: tuple[list[str], list[str]] = ([], [])
    side = 0
    for match in _LITERAL.finditer(text):
        if match[1]:
            sides[side].append(ast.literal_eval(match[1]))
        else:
            side = 1
    return sides


def _is_settings(param: str) -> bool:
    return param.startswith("{")


def _settings(params: Sequence[str]) -> dict[str, Any]:
    return next((json.loads(param) for param in params if _is_settings(param)), {})


def _settings_changes(before: Any, now: Any, key: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            path = f"{key}.{name}" if key else name
            yield from _settings_changes(before.get(name, ...), now.get(name, ...), path)
    elif before != now:
        shown = ["(default)" if value is ... else json.dumps(value) for value in (before, now)]
        yield f"config {key}: {shown[0]} -> {shown[1]}"


def _others(before: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    """What is neither config nor code: who is trained on, whose motion drives."""
    shown = [[p for p in side if not _is_settings(p) and not _DIGEST.fullmatch(p)] for side in (before, now)]
    if any(shown):
        yield f"parameter {', '.join(shown[0]) or '(none)'} -> {', '.join(shown[1]) or '(none)'}"


def _made_by(outputs: Sequence[Path], upgrades: str) -> Iterator[str]:
    """Which modules are others than those that made the outputs, and which packages, if only for information."""
    for output in outputs:
        try:
            provenance = read_provenance(output)
        except (OSError, ValueError, UserError, zipfile.BadZipFile):
            continue
        if not isinstance(provenance, dict) or provenance.get("stage") not in STAGES:
            continue
        before: dict[str, str] = provenance["code"]
        now = code_digests(STAGES[provenance["stage"]].module)
        for module in sorted({*before, *now}):
            if before.get(module) != now.get(module):
                state = "is new" if module not in before else "is gone" if module not in now else "changed"
                yield f"code {module} {state}"
        versions = current_versions()
        by_itself = "" if upgrades == "rerun" else " (reruns nothing by itself)"
        for name, had in earlier_versions(versions_of(provenance), versions).items():
            yield f"version {describe_upgrade({name: had}, versions)}{by_itself}"
        return

"""Why would a job run again? Snakemake's own decision, with its digests turned into names.

Snakemake decides; this module asks it for a dry run and explains the two parameters that every rule carries: which
key of the config changed (`settings`), and which modules changed (`code`), by comparing the modules' digests with
those in the provenance of the file that would be replaced.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import code_digests
from osgap.workflow.stages import STAGES

_JOB = re.compile(r"^(?:local)?rule (?P<rule>\w+):$")
_FIELD = re.compile(r"^ {4}(?P<key>\w+): (?P<value>.*)$")


@dataclass(frozen=True)
class Reason:
    """One job that would run."""

    rule: str
    output: str
    reasons: tuple[str, ...]


def why(snakemake_arguments: list[str]) -> list[Reason]:
    """The jobs that `snakemake ARGUMENTS` would run, in its order, each with its reasons.

    Raises:
        UserError: Snakemake refuses (its message is passed on).
    """
    command = [sys.executable, "-m", "snakemake", *snakemake_arguments, "--dry-run", "--nocolor"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"snakemake stopped with exit code {done.returncode}:\n{done.stdout}{done.stderr}".rstrip())
    jobs = [job for job in _jobs(done.stdout + done.stderr) if job["rule"] != "all"]
    return [Reason(job["rule"], job.get("output", ""), tuple(_explain(job))) for job in jobs]


def _jobs(text: str) -> Iterator[dict[str, str]]:
    job: dict[str, str] = {}
    for line in text.splitlines():
        if head := _JOB.match(line):
            job = {"rule": head["rule"]}
        elif (field := _FIELD.match(line)) and job:
            job[field["key"]] = field["value"]
            if field["key"] == "reason":
                yield job
                job = {}


def _explain(job: Mapping[str, str]) -> Iterator[str]:
    for reason in job["reason"].split("; "):
        if not reason.startswith("Params have changed"):
            yield reason[:1].lower() + reason[1:]
            continue
        before, _, now = reason.partition(" now: ")
        yield from _settings_changes(_settings(before), _settings(now))
        yield from _code_changes(job.get("output", ""))


def _settings(text: str) -> dict[str, Any]:
    """The JSON object inside Snakemake's rendering of a rule's parameters, if it stands there."""
    start = text.find('{"')
    if start < 0:
        return {}
    try:
        return json.JSONDecoder().raw_decode(text.replace("\\'", "'"), start)[0]
    except json.JSONDecodeError:
        return {}


def _settings_changes(before: Any, now: Any, key: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            path = f"{key}.{name}" if key else name
            yield from _settings_changes(before.get(name, ...), now.get(name, ...), path)
    elif before != now:
        shown = ["(default)" if value is ... else json.dumps(value) for value in (before, now)]
        yield f"config {key}: {shown[0]} -> {shown[1]}"


def _code_changes(outputs: str) -> Iterator[str]:
    for output in outputs.split(", "):
        provenance = read_provenance(Path(output))
        if provenance is None or provenance.get("stage") not in STAGES:
            continue
        before: dict[str, str] = provenance["code"]
        now = code_digests(STAGES[provenance["stage"]].module)
        for module in sorted({*before, *now}):
            if before.get(module) != now.get(module):
                state = "is new" if module not in before else "is gone" if module not in now else "changed"
                yield f"code {module} {state}"
        return

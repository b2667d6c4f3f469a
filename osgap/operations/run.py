"""A run that was started: what it was told, and what is left of it, from its files."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from osgap.runtime.errors import UserError
from osgap.workflow import run_name
from osgap.workflow.config import load_config, validate
from osgap.workflow.jobs import Job, jobs
from osgap.workflow.pipeline import Pipeline


@dataclass(frozen=True)
class Run:
    """A run, or one experiment of it."""

    pipeline: Pipeline
    """Of the whole run."""
    results: Path
    """Its folder, as seen from here."""
    experiment: str | None = None
    record: dict[str, Any] | None = None
    """What the last `snakemake` wrote of itself; None where it has not."""
    started: float = 0.0
    """When it did, as files have their times [seconds since 1970]."""

    @cached_property
    def jobs(self) -> list[Job]:
        """All of them, with paths as seen from here."""
        return jobs(self.pipeline, self.experiment)

    @property
    def name(self) -> str:
        """`RESULTS[:EXPERIMENT]`."""
        return f"{self.results}{f':{self.experiment}' if self.experiment else ''}"

    @property
    def alive(self) -> bool | None:
        """Whether its `snakemake` is at work; None where that cannot be seen from this machine."""
        process = (self.record or {}).get("process", {})
        if not process or process.get("host") != socket.gethostname():
            return None if process else False
        with contextlib.suppress(ProcessLookupError):
            with contextlib.suppress(PermissionError):
                os.kill(process["pid"], 0)
            return True
        return False


def open_run(
    name: str, sources: Sequence[str] = (), overrides: Sequence[str] = (), experiment: str | None = None
) -> Run:
    """The run of a name: `RESULTS[:EXPERIMENT]`.

    Args:
        name: empty for the results folder of the config.
        sources, overrides: its config, where it is not to be what the run wrote of itself.
        experiment: where the name has none.

    Raises:
        UserError: no such run.
    """
    if name:
        results, named = run_name.split(name)
        experiment = named or experiment
    else:
        results = load_config(sources or ("config.yaml",), overrides).results
    if not results.is_dir():
        run_name.parse(name or str(results))
    record, started = _record(results)
    if sources or overrides or record is None:
        if record is None and not sources:
            raise UserError(
                f"{results}: no run.json, so nothing says what this run was told; start it (`snakemake` writes the "
                f"file), or give its config with --config"
            )
        config = load_config(sources or ("config.yaml",), overrides)
    else:
        config = validate(record["config"], where=f"{results / 'run.json'}")
    told = Path(config.results)
    pipeline = Pipeline(config if told == results else validate(_moved(config.model_dump(mode="json"), told, results)))
    if experiment is not None:
        pipeline.run(experiment)
    return Run(pipeline, results, experiment, record, started)


def _record(results: Path) -> tuple[dict[str, Any] | None, float]:
    file = results / "run.json"
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict) or "config" not in content:
            raise ValueError("it has no config")
        return content, file.stat().st_mtime
    except FileNotFoundError:
        return None, 0.0
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); remove it and start `snakemake`, which writes it") from None


def _moved(content: Any, told: Path, results: Path) -> Any:
    """A config whose texts name another results folder."""
    if isinstance(content, dict):
        return {key: _moved(value, told, results) for key, value in content.items()}
    if isinstance(content, list):
        return [_moved(item, told, results) for item in content]
    if isinstance(content, str) and (content == str(told) or content.startswith(f"{told}/")):
        return f"{results}{content[len(str(told)) :]}"
    return content

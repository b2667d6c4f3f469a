"""What Snakemake would do, in its own words: `python -m osgap.workflow.planned FILE [SNAKEMAKE ARGUMENTS]`.

A dry run with a logger plugin, which writes a line of JSON into FILE for each job that Snakemake announces, for each
acceptance that it was told of, and for what is known of packages' versions. Snakemake finds plugins among installed
packages of certain names; this one registers itself, so that installing osgap adds nothing to other workflows.
"""

from __future__ import annotations

import json
import os
import sys
from logging import LogRecord
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from osgap.workflow import launch
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.versions import survey

_NAME = "osgap"


class LogHandler(LogHandlerBase):
    """Writes what it is told of; what Snakemake prints stays as it is."""

    writes_to_stream = False
    writes_to_file = False
    has_filter = True  # of its own: what the user wants to see does not matter here
    has_formatter = True
    needs_rulegraph = False

    def emit(self, record: LogRecord) -> None:
        """Write a line, of a record that says something."""
        known: dict[str, Any] = vars(record)
        if known.get("event") == LogEvent.JOB_INFO:
            job = {"rule": known["rule_name"], "outputs": [*known["output"]], "reason": known["reason"]}
            self._write({"job": job, "folder": str(Path.cwd())})
        elif "accepted" in known:
            self._write({"accepted": known["accepted"]})

    @staticmethod
    def _write(line: dict[str, Any]) -> None:
        with Path(os.environ[_FILE]).open("a") as file:
            file.write(json.dumps(line) + "\n")


_FILE = "OSGAP_PLANNED"
"""Environment variable with the absolute path of the file: Snakemake may change the folder that it works in."""


def _tell_versions(pipeline: Pipeline) -> None:
    """What made the outputs that are there, which need not run again because of it."""
    content = {"upgrades": pipeline.config.upgrades, "others": str(survey(pipeline.config.results))}
    LogHandler._write({"versions": content})


def main(file: str, arguments: list[str]) -> None:
    """Let Snakemake plan; ends the process."""
    from snakemake.cli import main as snakemake
    from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    os.environ[_FILE] = str(Path(file).resolve())
    launch.observers.append(_tell_versions)
    registry = LoggerPluginRegistry()
    registry.register_plugin(f"{registry.module_prefix}{_NAME}", sys.modules[__name__])
    snakemake([*arguments, "--dry-run", "--nocolor", "--logger", _NAME])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

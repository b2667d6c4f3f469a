"""What happens between a planned run and its first job: one `snakemake` at a time, what it was told, whether it can.

Snakemake's own lock outlives a killed `snakemake` and is then refused until `--unlock`; the profiles leave it out. This
one is a lock on a file, which the system releases with the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock

from osgap.runtime.artifacts import write_text
from osgap.runtime.errors import UserError
from osgap.runtime.folder_lock import taken
from osgap.runtime.upgrades import current_versions, describe_upgrade, earlier_versions
from osgap.workflow.layout import Layout
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.slurm import check_cluster, end_orphans, keep_logs
from osgap.workflow.unanswered import keep_unanswered

_held = contextlib.ExitStack()  # until the process ends


def begin(pipeline: Pipeline, workflow: Any) -> None:
    """Take the results folder, see to the scheduler, and record what is about to run.

    Args:
        workflow: Snakemake's own, whose jobs are planned and whose executor is ready.

    Raises:
        UserError: another `snakemake` is at work on the folder, or the scheduler cannot do what will be asked of it.
    """
    from snakemake.logging import logger

    take(pipeline.layout)
    if workflow.executor_plugin.name == "slurm":
        check_cluster(pipeline, workflow)
        keep_logs(pipeline.layout.slurm_logs, workflow)
        keep_unanswered(workflow.scheduler._executor)
        if ended := end_orphans(pipeline.layout.slurm_logs):
            logger.warning(ended)
    if pipeline.config.upgrades == "warn" and (upgraded := upgrades_since(pipeline.layout.record)):
        logger.warning(
            f"other versions than in the last run: {upgraded}; what is made stands (upgrades: warn), see `osgap why`"
        )
    record(pipeline)


def take(layout: Layout) -> None:
    """Hold the results folder until the process ends.

    Raises:
        UserError: another process holds it, or the file system knows no locks.
    """
    layout.results.mkdir(parents=True, exist_ok=True)
    lock = FileLock(layout.lock)
    if not taken(lock):
        raise UserError(
            f"{layout.results}: another snakemake is at work here{_who(layout.record)}; wait for it, or stop it with "
            f"Ctrl-C and come back"
        )
    _held.callback(lock.release)


def record(pipeline: Pipeline) -> None:
    """Write what `osgap status` and others need to know of the run: its config without secrets, and who runs it."""
    content = {
        "config": pipeline.config.model_dump(mode="json"),
        "versions": current_versions(),
        "arguments": sys.argv[1:],
        "process": {"host": socket.gethostname(), "pid": os.getpid()},
    }
    write_text(pipeline.layout.record, json.dumps(content, indent=2) + "\n")  # unsorted: experiments have an order


def upgrades_since(file: Path) -> str:
    """Which packages are others than when a record was written; nothing where there is none."""
    try:
        before = json.loads(file.read_text())["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    now = current_versions()
    return describe_upgrade(earlier_versions([before], now), now)


def _who(file: Path) -> str:
    """The process that wrote a record, as far as it can be read."""
    try:
        process = json.loads(file.read_text())["process"]
        return f" (process {process['pid']} on {process['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""

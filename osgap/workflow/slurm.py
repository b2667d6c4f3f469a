"""A run whose jobs go to Slurm: whether it can take them, and where its logs go."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from osgap.runtime.errors import UserError
from osgap.workflow.pipeline import Pipeline

_CONF = "SLURM_CONF"


def check_cluster(pipeline: Pipeline) -> None:
    """Whether jobs can be submitted at all.

    Raises:
        UserError: saying what is missing.
    """
    if shutil.which("sbatch") is None:
        raise UserError(
            "sbatch is not on PATH, so that no job can be submitted; run this on a login node of the cluster (or load "
            "its module of Slurm), or use --profile profiles/local"
        )
    if _CONF in os.environ and not _found_without_variable():
        raise UserError(
            f"Slurm's configuration is named by {_CONF} alone ({os.environ[_CONF]}), and Snakemake's executor takes "
            f"that variable out of its jobs, whose srun would find none; ask for a link to it at "
            f"/etc/slurm/slurm.conf on all nodes, or put an `srun` on PATH that sets it and calls the real one"
        )


def _found_without_variable() -> bool:
    """Whether Slurm's commands find the configuration where they look by default, or are wrapped so that they do."""
    environment = {name: value for name, value in os.environ.items() if name != _CONF}
    return subprocess.run(["srun", "--version"], env=environment, capture_output=True).returncode == 0 and (
        subprocess.run(["scontrol", "ping"], env=environment, capture_output=True).returncode == 0
    )


def keep_logs(folder: Path, workflow: Any) -> None:
    """Let Slurm write the jobs' logs into the results, unless the user has named a folder.

    The executor has chosen its own by now; which folder is the run's is known no earlier than its config.
    """
    if workflow.executor_settings.logdir is None:
        workflow.scheduler._executor.slurm_logdir = folder.resolve()

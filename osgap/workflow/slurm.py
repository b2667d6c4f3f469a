"""A run whose jobs go to Slurm: whether it can take them, what is left of an earlier one, and where its logs go."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from osgap.runtime import slurm
from osgap.runtime.errors import UserError
from osgap.workflow.cluster_problems import problems
from osgap.workflow.pipeline import Pipeline

_PATIENCE_S = 60.0  # beyond what Slurm gives a job to end
_KILL_WAIT_S = 30  # Slurm's default
_POLL_S = 1.0


def check_cluster(pipeline: Pipeline, workflow: Any) -> None:
    """Whether the cluster can take the jobs.

    Raises:
        UserError: one line for each reason why not.
    """
    found = problems(pipeline.config, workflow.executor_settings.init_seconds_before_status_checks)
    if found:
        raise UserError("\n".join(found))


def end_orphans(folder: Path) -> str:
    """End the jobs of a `snakemake` that was killed, and wait until they are gone; what was done, or nothing.

    Nobody waits for them any more. Each would be submitted a second time, and a training that ends before the second
    one starts would be taken for none: Snakemake deletes a job's outputs when it starts it. So they end first. Those
    that run save their state, and go on from there when they are submitted again.

    Args:
        folder: where Slurm's logs of this results folder are, which no other `snakemake` is at work on.

    Raises:
        UserError: they do not end.
    """
    orphans = slurm.jobs_logging_below(folder)
    if not orphans:
        return ""
    slurm.cancel(orphans)
    found = slurm.settings()
    deadline = time.monotonic() + _PATIENCE_S + (found.kill_wait_s if found and found.kill_wait_s else _KILL_WAIT_S)
    while left := slurm.jobs_logging_below(folder):
        if time.monotonic() > deadline:
            raise UserError(
                f"Slurm jobs {', '.join(left)} of an earlier snakemake do not end; look at them with squeue, and start "
                f"again when they are gone"
            )
        time.sleep(_POLL_S)
    return (
        f"{len(orphans)} Slurm jobs of an earlier snakemake were ended ({', '.join(orphans)}); what they had begun "
        f"goes on from its checkpoints"
    )


def keep_logs(folder: Path, workflow: Any) -> None:
    """Let Slurm write the jobs' logs into the results, unless the user has named a folder.

    The executor has chosen its own by now; which folder is the run's is known no earlier than its config.
    """
    if workflow.executor_settings.logdir is None:
        workflow.scheduler._executor.slurm_logdir = folder.resolve()

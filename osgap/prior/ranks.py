"""Processes that train together: started by Fabric or by a scheduler, and ended together."""

from __future__ import annotations

import os
import threading
import time
import warnings
from typing import Any

from osgap.prior.config import PriorConfig

_PERIOD = 1.0  # seconds between two looks at the parent


def launch(config: PriorConfig) -> Any:
    """A launched `lightning_fabric.Fabric`: this process is one of those that train from here on.

    On one machine, the first process starts the others (the same command again) and is killed soon after one of them
    has died; the others end soon after the first one has. On several machines the scheduler starts one process per
    device (`srun`), and ends them together.
    """
    from lightning_fabric import Fabric

    started_by = os.getppid()
    with warnings.catch_warnings():
        # It says so wherever Slurm is installed; that there is no `srun` here is the workflow's choice.
        warnings.filterwarnings("ignore", message="The `srun` command is available")
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            precision=config.precision,
        )
    fabric.launch()
    if fabric.local_rank > 0:
        threading.Thread(target=_end_with, args=(started_by,), daemon=True).start()
    return fabric


def _end_with(parent: int) -> None:
    """A rank waits for the others inside a collective, from which no exception can take it."""
    while os.getppid() == parent:
        time.sleep(_PERIOD)
    os._exit(1)

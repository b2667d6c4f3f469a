"""Processes that train together: started by Fabric or by a scheduler, and ended together."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
import warnings
from typing import Any

import torch

from osgap.errors import UserError
from osgap.gpus import lease_gpus
from osgap.prior.config import PriorConfig
from osgap.termination import SIGNALS

_PERIOD = 1.0  # seconds between two looks at the parent
_FIRST = "OSGAP_FIRST_RANK"
"""Environment variable in which the first process tells those that it starts its number."""


def launch(config: PriorConfig) -> Any:
    """A launched `lightning_fabric.Fabric`: this process is one of those that train from here on.

    On one machine, the first process starts the others (the same command again) and is killed soon after one of them
    has died; the others end soon after the first one has. On several machines the scheduler starts one process per
    device, and must end them together (`srun --kill-on-bad-exit=1`).

    Raises:
        UserError: not as many processes as the config says.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.strategies import DDPStrategy

    if _is_started_by_another():
        threading.Thread(target=_end_with, args=(int(os.environ[_FIRST]),), daemon=True).start()
    else:
        os.environ[_FIRST] = str(os.getpid())
    # What it tells everybody (its precision, an advice about float32) is not news to who has written a config.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # It says so wherever Slurm is installed; that there is no `srun` here is the workflow's choice.
        warnings.filterwarnings("ignore", message="The `srun` command is available")
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            # Buffers (the mean map) never change, so that nobody needs to be told of them in every step.
            strategy=DDPStrategy(broadcast_buffers=False) if _count(config) > 1 else "auto",
            precision=config.precision,
            plugins=[LightningEnvironment()] if _is_alone(config) else None,
        )
    fabric.launch()
    if fabric.world_size != _count(config):
        raise UserError(
            f"prior.devices {config.devices} on prior.nodes {config.nodes} are {_count(config)} processes that train "
            f"together, but there are {fabric.world_size}; start one for each device (srun --ntasks-per-node)"
        )
    return fabric


def lease_devices(config: PriorConfig) -> contextlib.AbstractContextManager[None]:
    """Keep other stages on this machine from the GPUs that training uses; for the time around `launch`.

    The processes that `launch` starts use those that the first one holds, and those of a scheduler what it gave them.
    """
    started = "LOCAL_RANK" in os.environ  # by the first process, torchrun or a scheduler
    if config.accelerator == "cpu" or torch.version.cuda is None or started or not _is_alone(config):
        return contextlib.nullcontext()
    return lease_gpus(config.devices)


def _is_started_by_another() -> bool:
    return int(os.environ.get("LOCAL_RANK", 0)) > 0 and _FIRST in os.environ


def _is_alone(config: PriorConfig) -> bool:
    """A job with one task, such as Snakemake's, gets its processes here; Fabric would take it for all there are."""
    return config.nodes == 1 and int(os.environ.get("SLURM_NTASKS", 1)) == 1


def _count(config: PriorConfig) -> int:
    """How many processes train."""
    if config.devices != "auto":
        return config.devices * config.nodes
    return config.nodes * (1 if config.accelerator == "cpu" else max(1, torch.cuda.device_count()))


def outlive_signals(_: int) -> None:
    """For processes that load data: a scheduler signals them too, but the training process ends them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_with(first: int) -> None:
    """A rank waits for the others inside a collective, from which no exception can take it."""
    while os.getppid() == first:
        time.sleep(_PERIOD)
    os._exit(1)

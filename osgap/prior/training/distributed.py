"""Processes that train together: started by Fabric or by a scheduler, and ended together."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import signal
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from osgap.prior.config import PriorConfig
from osgap.runtime.errors import UserError
from osgap.runtime.gpus import accelerator, device_type, lease_gpus
from osgap.runtime.termination import SIGNALS

_PERIOD = 1.0  # seconds between two looks at the parent
_FIRST = "OSGAP_FIRST_RANK"
"""Environment variable in which the first process tells those that it starts its number."""


def launch(config: PriorConfig) -> Any:
    """A launched `lightning_fabric.Fabric`: this process is one of those that train from here on.

    On one machine, the first process starts the others (the same command again) and is killed soon after one of them
    has died; the others end soon after the first one has. On several machines the scheduler starts one process per
    device, and must end them together (`srun --kill-on-bad-exit=1`).

    Raises:
        UserError: a scheduler started other processes than the config says, or nobody did; or several are to be
            started here, of a program that cannot be started again.
    """
    from lightning_fabric import Fabric

    if _starts_others(config):
        _check_can_start_again(config)
    if _is_started_by_another():
        threading.Thread(target=_end_with, args=(int(os.environ[_FIRST]),), daemon=True).start()
    elif not int(os.environ.get("LOCAL_RANK", 0)):
        os.environ[_FIRST] = str(os.getpid())
    # What it tells everybody (its precision, an advice about float32) is not news to who has written a config.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # It says so wherever Slurm is installed; that there is no `srun` here is the workflow's choice.
        warnings.filterwarnings("ignore", message="The `srun` command is available")
        fabric = Fabric(
            accelerator=device_type(),
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=_together() if _count(config) > 1 else "auto",
            precision=config.precision,
            plugins=[_environment(config)],
        )
    fabric.launch()
    return fabric


def _together() -> Any:
    """Gradients are averaged. Buffers (the mean map) never change: nobody needs to be told of them in every step."""
    from lightning_fabric.strategies import DDPStrategy

    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
    settings: dict[str, Any] = {name: False}

    class OnOneStream(DDPStrategy):
        """Fabric's own wraps the network on a stream of its own, for those who capture graphs.

        Gradients would be added up on that stream in every later step, and wait for those of the step and back.
        """

        def setup_module(self, module: nn.Module) -> DistributedDataParallel:
            device = self.root_device
            return DistributedDataParallel(module, None if device.type == "cpu" else [device.index], **settings)

    return OnOneStream()


def keep_strides(model: nn.Module) -> None:
    """Let gradients lie in memory exactly as their parameters do, which processes that train together ask for.

    The stride of a dimension of size 1 means nothing, so that a convolution may give the gradient of a depthwise
    kernel `[C, 1, 3, 3]` another one than the kernel has, and torch keeps it. `DistributedDataParallel` compares all
    strides with those of its buckets, which are the parameters'.
    """
    for parameter in model.parameters():
        if parameter.ndim > 1 and 1 in parameter.shape:
            parameter.register_hook(partial(_laid_out_as, parameter))


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _environment(config: PriorConfig) -> Any:
    """Who started the processes, as a plugin of Fabric.

    Fabric finds that out too, but not of Slurm where the job is called `bash` or `interactive`, as in a session of
    `salloc`: every process would then wait for processes that nobody starts.

    Raises:
        UserError: others were started than the config says, or none.
    """
    from lightning_fabric.plugins import environments

    if _is_alone(config):
        return environments.LightningEnvironment()
    if environments.TorchElasticEnvironment.detect():
        per_node, count = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        if (per_node, count) != (_per_node(config), _count(config)):
            raise _other_processes(config, f"torchrun started {count}, {per_node} of them here")
        return environments.TorchElasticEnvironment()
    if _slurm_tasks() > 1:
        placed = os.environ["SLURM_STEP_TASKS_PER_NODE"]
        wanted = f"{_per_node(config)}(x{config.nodes})" if config.nodes > 1 else f"{_per_node(config)}"
        if placed != wanted:
            raise _other_processes(config, f"srun started {placed}")
        # Fabric asks for these: srun says the second only to those who have said it, and may say the job's instead.
        os.environ.update(SLURM_NTASKS=str(_count(config)), SLURM_NTASKS_PER_NODE=str(_per_node(config)))
        return environments.SLURMEnvironment()
    raise _other_processes(config, "only this one was started")


def _other_processes(config: PriorConfig, found: str) -> UserError:
    return UserError(
        f"prior.devices {config.devices} on prior.nodes {config.nodes} are {_count(config)} processes that train "
        f"together, {_per_node(config)} on each machine, but {found}; start one for each device (srun "
        f"--nodes={config.nodes} --ntasks-per-node={_per_node(config)}, or torchrun)"
    )


def lease_devices(config: PriorConfig) -> contextlib.AbstractContextManager[None]:
    """Keep other stages on this machine from the GPUs that training uses; for the time around `launch`.

    The processes that `launch` starts use those that the first one holds, and those of a scheduler what it gave them.
    """
    if accelerator() == "cpu" or not is_first(config):
        return contextlib.nullcontext()
    return lease_gpus(config.devices)


def is_first(config: PriorConfig) -> bool:
    """Whether no other process trains with this one so far: none has started it, and it will start any that do."""
    return "LOCAL_RANK" not in os.environ and _is_alone(config)


def _is_started_by_another() -> bool:
    return int(os.environ.get("LOCAL_RANK", 0)) > 0 and _FIRST in os.environ


def _is_alone(config: PriorConfig) -> bool:
    """A job with one task, such as Snakemake's, gets its processes here; Fabric would take it for all there are."""
    from lightning_fabric.plugins.environments import TorchElasticEnvironment

    return config.nodes == 1 and _slurm_tasks() == 1 and not TorchElasticEnvironment.detect()


def _starts_others(config: PriorConfig) -> bool:
    """The environment of Fabric starts them where nobody has set this process's number."""
    return _is_alone(config) and _count(config) > 1 and "LOCAL_RANK" not in os.environ


def _check_can_start_again(config: PriorConfig) -> None:
    """Fabric starts the others as this process was: the module of `python -m`, or the file that `sys.argv` names.

    Raises:
        UserError: it is neither; they would find nothing, or something else.
    """
    main, program = sys.modules["__main__"], sys.argv[0] if sys.argv else ""
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None and spec.name != "__main__":  # which is what `python FOLDER` says
        return
    if spec is None and file is not None and Path(program).is_file():
        return
    if program == "-c":
        found = "it was given by `python -c`"
    elif file is None or program in ("", "-"):
        found = "it was typed: a notebook, an interpreter or standard input"
    else:
        found = f"{program} is neither a script nor the module of `python -m`"
    raise UserError(
        f"{_count(config)} processes are to train together, so this program has to be started again for each, but "
        f"{found}. Run `osgap train`, or put the call into a file and run that; or set prior.devices to 1"
    )


def _slurm_tasks() -> int:
    """How many processes `srun` started with this one. A batch script is one, however many its job may have; so is
    what somebody types into the terminal that `srun --pty` gives to the first task, while the others find none and end.
    """
    typed = "SLURM_PTY_PORT" in os.environ and sys.stdin.isatty()
    return 1 if typed else int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))


def _per_node(config: PriorConfig) -> int:
    return _count(config) // config.nodes


def _count(config: PriorConfig) -> int:
    """How many processes train."""
    if config.devices != "auto":
        return config.devices * config.nodes
    return config.nodes * (1 if device_type() == "cpu" else torch.cuda.device_count())


def outlive_signals(_: int) -> None:
    """For processes that load data: a scheduler signals them too, but the training process ends them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end_with(first: int) -> None:
    """A rank waits for the others inside a collective, from which no exception can take it."""
    while os.getppid() == first:
        time.sleep(_PERIOD)
    os._exit(1)

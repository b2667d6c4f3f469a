"""A run from outside: `plan` before it, `status` during it, `logs` of one of its jobs."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import Annotated

import tyro

from osgap.cli.common import Common, Options, app

RunName = Annotated[str, tyro.conf.arg(metavar="RESULTS[:EXPERIMENT]")]


@dataclass(frozen=True)
class Devices:
    """What a run is reckoned on."""

    gpus: int | None = None
    """GPUs that it can use at once. Default is those of the cluster, or of this machine."""
    cpus: int | None = None
    """CPU cores that it can use at once. Default is what the jobs ask for; without --gpus and on no cluster, this
    machine's."""


@app.command(name="plan")
def plan(
    devices: tyro.conf.OmitArgPrefixes[Devices] = Devices(),
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    common: Options = Common(),
) -> None:
    """Say what a run will take, before anything is started: jobs, GPU-hours, CPU-hours, disk, time.

    Args:
        as_json: For machines: JSON on stdout.
    """
    common.limit_threads()
    from osgap.operations.forecast import machine_here
    from osgap.operations.plan import plan as make
    from osgap.operations.screen import show_plan
    from osgap.workflow.config import load_config
    from osgap.workflow.pipeline import Pipeline
    from osgap.workflow.profile import read_profile

    pipeline = Pipeline(load_config(common.sources, common.set))
    machine = machine_here(devices.gpus, devices.cpus)
    found = make(pipeline, machine, experiment=common.experiment, profile=read_profile())
    print(json.dumps(found.as_dict(), indent=2)) if as_json else show_plan(found)


@app.command(name="status")
def status(
    run: Annotated[RunName, tyro.conf.Positional] = "",
    watch: int | None = None,
    devices: tyro.conf.OmitArgPrefixes[Devices] = Devices(),
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
    common: Options = Common(),
) -> None:
    """Say how far a run is: what is done, runs, waits in Slurm's queue, has failed, and how long still.

    Args:
        run: The run's results folder, and an experiment of it. Default is the config's.
        watch: Again every so many seconds, until the run is done.
        as_json: For machines: JSON on stdout.
    """
    common.limit_threads()
    from osgap.operations.forecast import machine_here
    from osgap.operations.run import open_run
    from osgap.operations.screen import show_status
    from osgap.operations.status import status as examine

    machine = machine_here(devices.gpus, devices.cpus)
    while True:
        found = examine(open_run(run, common.config, common.set, common.experiment), machine)
        if as_json:
            print(json.dumps(found.as_dict()) if watch else json.dumps(found.as_dict(), indent=2), flush=True)
        else:
            show_status(found)
        if not watch or len(found.of("done")) == len(found.states):
            break
        time.sleep(watch)
        if not as_json and sys.stdout.isatty():
            print("\033[H\033[2J", end="")


@app.command(name="logs")
def logs(
    job: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RULE [METHOD] [SUBJECT]")],
    run: RunName = "",
    lines: int = 40,
    common: Options = Common(),
) -> None:
    """Show why a job failed, and the ends of its logs: the stage's own, and Slurm's.

    Args:
        job: Such as fit 101, evaluate one_shot 201, or train; a rule or a stage.
        run: The run's results folder, and an experiment of it. Default is the config's.
        lines: Of each log at most.
    """
    common.limit_threads()
    from osgap.operations.logs import find_job, logs_of_job, shown
    from osgap.operations.run import open_run
    from osgap.runtime.errors import UserError

    if not job:
        raise UserError("which job? Name its rule and subject, such as `osgap logs fit 101`")
    opened = open_run(run, common.config, common.set, common.experiment)
    print(shown(logs_of_job(opened, find_job(opened, job)), lines))

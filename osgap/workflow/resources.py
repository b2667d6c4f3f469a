"""What each rule's jobs need: threads, memory, time, GPUs. Rules ask here; docs/cluster.md has the table.

Memory and time are asked for once more with each further attempt, so that a job that was killed for the lack of either
comes through. Times are limits for a scheduler: several times what was measured on an H200 (docs/performance.md), for
older cards and busy file systems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from osgap.workflow.config import Config

_FIT_RATE = 50.0  # images per second; an H200 makes 1,000, and 63 in the reference's manner
_TRAINING_RATE = 20.0  # target images per second and card; an H200 makes 181
_START_MINUTES = 30  # compiling gsplat, reading frames, measuring
_CPU_FACTOR = 20  # of fits and training without a GPU


@dataclass(frozen=True)
class Needs:
    """Of one job at its first attempt."""

    threads: int = 1
    """Of the command; on several nodes, of each of its processes."""
    memory_mb: int = 2_000
    """On each node."""
    minutes: int = 30
    gpus: int = 0
    """On each node."""


NEEDS: dict[str, Needs] = {
    "synthetic_head": Needs(),
    "synthetic_person": Needs(threads=2, memory_mb=4_000, minutes=60),
    "download": Needs(threads=2, memory_mb=2_000, minutes=240),
    "import_tracking": Needs(threads=2, memory_mb=4_000, minutes=60),
    "fit": Needs(threads=4, memory_mb=12_000, gpus=1),
    "adopt_avatar": Needs(memory_mb=8_000),
    "bake": Needs(memory_mb=4_000, minutes=10),
    "adopt_maps": Needs(memory_mb=4_000, minutes=10),
    "train": Needs(threads=8, memory_mb=32_000, gpus=1),
    "calibrate": Needs(threads=4, memory_mb=12_000, minutes=60, gpus=1),
    "oneshot": Needs(threads=4, memory_mb=12_000, minutes=60, gpus=1),
    "evaluate": Needs(threads=4, memory_mb=12_000, minutes=60, gpus=1),
    "tables": Needs(minutes=10),
    "ablation": Needs(minutes=10),
    "person_figure": Needs(memory_mb=8_000),
    "cross_figure": Needs(memory_mb=8_000),
    "overview": Needs(memory_mb=8_000),
    "video": Needs(threads=2, memory_mb=8_000, minutes=60),
}
"""By rule. The times of `fit` and `train` follow from the config, and so do GPUs and nodes of `train`."""


def needs(config: Config, rule: str) -> Needs:
    """What a job of a rule needs with this config."""
    fixed = NEEDS[rule]
    gpus, minutes = fixed.gpus, fixed.minutes
    if rule == "fit":
        minutes = _minutes(config.fit.iterations * config.fit.images_per_step / _FIT_RATE, config)
    if rule == "train":
        prior = config.prior
        gpus = 1 if prior.devices == "auto" else prior.devices
        minutes = _minutes(prior.steps * prior.sources * prior.targets / _TRAINING_RATE, config)
    # On one machine a single command starts the processes; on several Slurm does, and counts threads for each.
    processes = 1 if rule == "train" and config.prior.nodes > 1 else max(1, gpus)
    return Needs(fixed.threads * processes, fixed.memory_mb * max(1, gpus), minutes, gpus)


def resources(config: Config, rule: str) -> dict[str, int | str | Callable[[Any, int], int]]:
    """The same as Snakemake's resources, with what the cluster wants to be told; functions of the attempt."""
    needed = needs(config, rule)
    nodes = config.prior.nodes if rule == "train" else 1
    found: dict[str, int | str | Callable[[Any, int], int]] = {
        "mem_mb": lambda wildcards, attempt: needed.memory_mb * attempt,
        "runtime": lambda wildcards, attempt: needed.minutes * attempt,
        **config.cluster.request(needed.gpus, nodes),
    }
    if nodes > 1:
        # With `mpi` the executor leaves the start of the processes to the rule's own srun. It wants `tasks_per_node` or
        # `tasks` to be more than 1, and takes `tasks` for those of each GPU unless that number is given.
        found |= {"nodes": nodes, "mpi": "srun"}
        found |= {"tasks_per_node": needed.gpus} if needed.gpus > 1 else {"tasks": nodes, "tasks_per_gpu": 0}
    return found


def by_experiment(places: Mapping[str, Mapping[str, Any]]) -> dict[str, Callable[[Any, int], Any]]:
    """Resources of a rule whose jobs belong to different experiments, as functions of the wildcard `experiment`.

    Args:
        places: value of the wildcard -> resources; of the config as it stands, too, whose value is empty. All have the
            same names.
    """

    def asked(name: str) -> Callable[[Any, int], Any]:
        def value(wildcards: Any, attempt: int) -> Any:
            found = places[wildcards.experiment][name]
            return found(wildcards, attempt) if callable(found) else found

        return value

    return {name: asked(name) for name in places[""]}


def launcher(config: Config, threads: int) -> str:
    """What stands before `osgap train`: on several machines Slurm's srun, which starts a process for each GPU.

    It is told everything, because the executor takes what Slurm has set out of the job's environment.

    Args:
        threads: that each process has.
    """
    gpus, nodes = needs(config, "train").gpus, config.prior.nodes
    if nodes == 1:
        return ""
    return f"srun --nodes={nodes} --ntasks-per-node={gpus} --cpus-per-task={threads} --kill-on-bad-exit=1 "


def _minutes(seconds: float, config: Config) -> int:
    """A time limit for a computation that long."""
    factor = _CPU_FACTOR if config.accelerator == "cpu" else 1
    return _START_MINUTES + round(seconds * factor / 60)

"""What would keep jobs of this config from running on this cluster, as far as Slurm's own commands say."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from osgap.runtime import slurm
from osgap.workflow.config import Config
from osgap.workflow.resources import NEEDS, needs

_CHECKS_TO_NOTICE = 3
"""The executor trusts `squeue` where Slurm remembers a finished job for this many times its first check."""


def problems(config: Config, first_check_s: int) -> list[str]:
    """One sentence for each, which says what to do; none on a cluster that can take the jobs.

    Args:
        first_check_s: time after which Snakemake first asks for the state of its jobs [seconds].
    """
    if "sbatch" not in slurm.commands():
        return [
            "sbatch is not on PATH, so that no job can be submitted; run this on a login node of the cluster (or load "
            "its module of Slurm), or use --profile profiles/local"
        ]
    found = slurm.settings()
    if found is None:
        return [
            "Slurm's controller does not answer (`scontrol show config` fails); try again later, or ask who runs the "
            "cluster"
        ]
    return [*forgetting_problems(found, first_check_s), *configuration_problems(), *gpu_problems(config, slurm.nodes())]


def forgetting_problems(found: slurm.Settings, first_check_s: int) -> Iterator[str]:
    """Whether Slurm remembers finished jobs until Snakemake asks for them."""
    age, needed = found.min_job_age_s, _CHECKS_TO_NOTICE * first_check_s
    if age is not None and age < needed and not found.accounting:
        yield (
            f"Slurm forgets a finished job after {age} s (MinJobAge) and keeps no accounting (slurmdbd), so that "
            f"Snakemake, which asks after {first_check_s} s, may wait for ever; ask for MinJobAge of {needed} s or "
            f"more, or lower slurm-init-seconds-before-status-checks in the profile to {max(1, age // 3)}"
        )


def configuration_problems() -> Iterator[str]:
    """Whether `srun` finds the cluster in a job, where SLURM_CONF is not set."""
    if (named := os.environ.get(slurm.CONFIGURATION)) and not slurm.found_without_environment():
        yield (
            f"Slurm's configuration is named by {slurm.CONFIGURATION} alone ({named}), and Snakemake's executor takes "
            f"that variable out of its jobs, whose srun would find none; ask for a link to it at /etc/slurm/slurm.conf "
            f"on all nodes, or put an `srun` on PATH that sets it and calls the real one"
        )


def gpu_problems(config: Config, nodes: Sequence[slurm.Node]) -> Iterator[str]:
    """Whether the nodes have what the rules ask for; nothing is said where they are not known."""
    if not nodes:
        return
    cluster = config.cluster
    partitions = sorted({node.partition for node in nodes})
    for key in ("partition", "gpu_partition"):
        named = getattr(cluster, key)
        if named is not None and not {*named.split(",")} & {*partitions}:
            yield f"cluster.{key}: this cluster has no partition {named!r}; its partitions are {', '.join(partitions)}"
            return
    wanted = cluster.gpu_partition or cluster.partition
    offered = [n for n in nodes if n.partition in wanted.split(",")] if wanted else [n for n in nodes if n.default]
    where = f"partition {wanted}" if wanted else "the default partition"
    elsewhere = sorted({node.partition for node in slurm.with_gpus(nodes)})
    most = max((node.gpu_count for node in offered), default=0)
    asking = {rule: asked for rule in NEEDS if (asked := needs(config, rule).gpus)}
    if not asking:
        return
    if not most:
        advice = (
            f"GPUs are in {', '.join(elsewhere)}: set cluster.gpu_partition in profiles/slurm/site.yaml"
            if elsewhere
            else "Slurm knows of no GPU on any node (`sinfo -o %G`): ask for GresTypes=gpu to be configured"
        )
        yield f"{', '.join(asking)} ask for GPUs, and no node of {where} has any; {advice}"
        return
    models = {model for node in offered for model in node.gpus}
    if cluster.gpu_model is not None and cluster.gpu_model not in models:
        there = ", ".join(sorted(filter(None, models))) or "GPUs without a name (leave the key out)"
        yield f"cluster.gpu_model: no node of {where} has {cluster.gpu_model!r}; it has {there}"
        return
    if cluster.gpu_model is not None:
        most = max(node.gpus.get(cluster.gpu_model, 0) for node in offered)
    for rule, asked in asking.items():
        if asked > most:
            advice = (
                "lower prior.devices, or train on several nodes (prior.nodes)" if rule == "train" else "ask for less"
            )
            yield f"{rule} asks for {asked} GPUs on a node, and no node of {where} has more than {most}; {advice}"

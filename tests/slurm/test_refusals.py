"""What cannot work on a cluster stops in one sentence before the first job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from workflow.conftest import Checkout

from .cluster import Cluster
from .runs import SlurmRun

pytestmark = [pytest.mark.slurm, pytest.mark.slurm_full, pytest.mark.slow]


@dataclass(frozen=True)
class Unwrapped:
    """A cluster by SLURM_CONF alone, with the commands of the machine."""

    conf: Path

    def environment(self, outside: Mapping[str, str]) -> dict[str, str]:
        return {**outside, "SLURM_CONF": str(self.conf)}


def refused(checkout: Checkout, cluster: Cluster, log: Path, *arguments: str, unwrapped: bool = False) -> str:
    """What is said instead of running a job."""
    run = SlurmRun(checkout, Unwrapped(cluster.conf) if unwrapped else cluster, log, arguments)
    assert run.start("--force", "--", "results/reduced/prior/model.pt").wait(120) == 1
    assert not cluster.run("squeue", "--noheader", "--states=all")
    return run.said


@pytest.mark.parametrize(
    ("options", "arguments", "sentence"),
    [
        ({"min_job_age": 2}, [], "Slurm forgets a finished job after 2 s (MinJobAge) and keeps no accounting"),
        ({}, ["--config", "cluster={gpu_partition: a100}"], "this cluster has no partition 'a100'"),
        (
            {},
            ["--config", "prior={devices: 3}"],
            "train asks for 3 GPUs on a node, and no node of the default partition has",
        ),
        ({"gpus": 0}, [], "Slurm knows of no GPU on any node"),
    ],
    ids=["forgets jobs", "no such partition", "more GPUs than a node has", "no GPUs"],
)
def test_refused(
    checkout: Checkout, start_cluster: Callable[..., Cluster], tmp_path: Path, options: dict, arguments: list[str],
    sentence: str,
) -> None:  # fmt: skip
    assert sentence in refused(checkout, start_cluster(**options), tmp_path / "snakemake.log", *arguments)


def test_a_configuration_that_only_a_variable_names(checkout: Checkout, cluster: Cluster, tmp_path: Path) -> None:
    said = refused(checkout, cluster, tmp_path / "snakemake.log", unwrapped=True)
    assert f"Slurm's configuration is named by SLURM_CONF alone ({cluster.conf})" in said

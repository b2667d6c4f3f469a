"""A run on Slurm ends with the bytes of a run on this machine, also when Snakemake is killed in the middle."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from workflow.conftest import Checkout
from workflow.test_promises import digests

from .cluster import Cluster
from .runs import SlurmRun, kill

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

WITH_GPU = ("rule_person_fit", "rule_person_bake_fit", "rule_train", "rule_calibrate", "rule_oneshot", "rule_evaluate")
TABLES = ("--", "results/reduced/tables/novel_view.csv")


def assert_gpus_were_asked_for(run: SlurmRun) -> None:
    """As `squeue` shows it, by the jobs whose rules use one and by no others."""
    jobs = run.slurm.jobs()
    assert {"rule_train", "rule_tables"} <= {job["Comment"] for job in jobs}
    for job in jobs:
        asked = "gres:gpu:1" in job.get("TresPerJob", "")
        assert asked == job["Comment"].startswith(WITH_GPU), job["Comment"]


def test_a_killed_run_goes_on_and_ends_with_the_bytes_of_this_machine(
    cluster: Cluster, halfway: Checkout, finished: Checkout, tmp_path: Path
) -> None:
    run = SlurmRun(halfway, cluster, tmp_path / "snakemake.log")
    first = run.start(*TABLES)
    run.job("rule_person_fit")
    kill(first)
    run.finish(*TABLES)
    assert digests(halfway.results) == digests(finished.results)
    assert_gpus_were_asked_for(run)
    assert "Nothing to be done" in run.finish(*TABLES)


@pytest.mark.slurm_full
def test_all_of_the_demo_as_it_is_typed(
    cluster: Cluster, emptied: Checkout, finished: Checkout, tmp_path: Path
) -> None:
    run = SlurmRun(emptied, cluster, tmp_path / "snakemake.log")
    run.finish(patience=3600)
    assert digests(emptied.results) == digests(finished.results)
    assert_gpus_were_asked_for(run)
    started = time.monotonic()
    assert "Nothing to be done" in run.finish()
    assert time.monotonic() - started < 60

"""A run on Slurm ends with the bytes of a run on this machine, also when Snakemake is killed in the middle."""

from __future__ import annotations

import pytest
from workflow.conftest import Checkout
from workflow.test_promises import digests

from .runs import SlurmRun, kill

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

WITH_GPU = {"fit", "train", "oneshot", "evaluate"}


def test_a_killed_run_goes_on_and_ends_with_the_bytes_of_this_machine(finished: Checkout, run: SlurmRun) -> None:
    first = run.start()
    run.job("group_person")
    kill(first)
    said = run.finish()
    assert digests(run.checkout.results) == digests(finished.results)
    for job in run.slurm.jobs():
        rule = job["Comment"].removeprefix("rule_").partition("_wildcards")[0]
        assert ("gres:gpu:1" in job.get("TresPerJob", "")) == (rule in WITH_GPU | {"group_person"}), (rule, job)
        assert job["JobState"] == "COMPLETED", job
    assert "Nothing to be done" in run.finish()
    assert "LockException" not in said

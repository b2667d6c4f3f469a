"""Which cards are a process's, by what stands in its environment: the table of `osgap.runtime.allocation`."""

from __future__ import annotations

from pathlib import Path

import pytest

from osgap.runtime.allocation import LEASED, VISIBLE, Allocation, find_allocation, scheduler_job

from . import fake_nvml

SLURM = {"SLURM_JOB_ID": "17"}
JOB = "Slurm job 17"
MACHINE = [{"uuid": f"GPU-{letter}"} for letter in "abcd"]
ALL = {gpu["uuid"]: gpu["uuid"] for gpu in MACHINE}


def own(*cards: str) -> dict[str, str]:
    """What cards are called among the processes of a job."""
    return {f"Slurm-job-17-{card}": card for card in cards}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, Allocation(None, ALL)),
        ({VISIBLE: "2"}, Allocation(None, {"GPU-c": "2"}, chosen=True)),
        ({VISIBLE: "2,GPU-a"}, Allocation(None, {"GPU-c": "2", "GPU-a": "GPU-a"})),
        ({VISIBLE: ""}, Allocation(None, {}, chosen=True)),
        ({VISIBLE: "0,-1,1"}, Allocation(None, {"GPU-a": "0"}, chosen=True)),
        (SLURM | {VISIBLE: "0"}, Allocation(JOB, own("0"), 1)),
        (SLURM | {VISIBLE: "0,1", "SLURM_GPUS_ON_NODE": "4"}, Allocation(JOB, own("0", "1"), 2)),
        (SLURM, Allocation(JOB, {}, others=4)),
        (SLURM | {"SLURM_GPUS_ON_NODE": "0"}, Allocation(JOB, {}, others=4)),
        (SLURM | {VISIBLE: "NoDevFiles"}, Allocation(JOB, {})),
        (SLURM | {"SLURM_JOB_GPUS": "1,3"}, Allocation(JOB, own("1", "3"), 2)),
        (SLURM | {"SLURM_STEP_GPUS": "3", "SLURM_JOB_GPUS": "1,3"}, Allocation(JOB, own("3"), 1)),
        (SLURM | {"SLURM_JOB_GPUS": "4,5,6,7"}, Allocation(JOB, ALL, 4)),  # a control group shows four
        (SLURM | {"SLURM_GPUS_ON_NODE": "2"}, Allocation(JOB, ALL, 2)),  # it counts, and does not say which
        (SLURM | {"SLURM_GPUS": "h200:2"}, Allocation(JOB, ALL, 2)),
        (SLURM | {"SLURM_GPUS_PER_NODE": "h200:2,a100:1"}, Allocation(JOB, ALL, 3)),
        (SLURM | {VISIBLE: "", "SLURM_GPUS": "1"}, Allocation(JOB, {}, 1)),
        ({"PBS_JOBID": "5.host"}, Allocation("PBS job 5.host", {}, others=4)),
        ({"LSB_JOBID": "5", VISIBLE: "1"}, Allocation("LSF job 5", {"LSF-job-5-1": "1"}, 1)),
        ({VISIBLE: "1,2", LEASED: "1,2"}, Allocation(None, {"1": "1", "2": "2"}, chosen=True)),
        (SLURM | {VISIBLE: "1", LEASED: "1"}, Allocation(JOB, {"1": "1"}, 1, chosen=True)),
        ({VISIBLE: "1,2", LEASED: "3"}, Allocation(None, {"GPU-b": "1", "GPU-c": "2"})),  # a child has changed it
    ],
    ids=str,
)
def test_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], found: Allocation
) -> None:
    fake_nvml.install(monkeypatch, tmp_path, MACHINE)
    assert find_allocation(environment) == found


def test_a_job_on_a_machine_without_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_nvml.install(monkeypatch, tmp_path, None)
    assert find_allocation(SLURM) == Allocation(JOB, {})
    assert find_allocation({VISIBLE: "0,1"}) == Allocation(None, {"0": "0", "1": "1"})


def test_partitions_have_no_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """How CUDA counts a machine's partitions is not how they are listed."""
    fake_nvml.install(monkeypatch, tmp_path, [{"uuid": "GPU-a", "partitions": ["MIG-1", "MIG-2"]}])
    assert find_allocation({VISIBLE: "0,MIG-GPU-a/1/0"}).cards == {"0": "0", "MIG-GPU-a-1-0": "MIG-GPU-a/1/0"}


def test_jobs_of_schedulers_are_named() -> None:
    assert scheduler_job({}) is None
    assert scheduler_job({"SLURM_JOB_ID": ""}) is None
    assert scheduler_job(SLURM) == JOB

"""What happens to a training on Slurm: cancelled, drained, requeued, preempted, out of time, out of memory, twice.

However it is interrupted, it ends with the bytes of the training on this machine.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from workflow.conftest import Checkout
from workflow.test_promises import digests

from .cluster import Cluster
from .daemons import until
from .runs import SlurmRun, kill

pytestmark = [pytest.mark.slurm, pytest.mark.slurm_full, pytest.mark.slow]

TRAIN = ("--force", "--", "results/reduced/prior/model.pt")


class Training:
    """Of the reduced demo's prior, whose other results are there.

    Args:
        run: in a copy of `finished`.
        finished: what is compared with.
    """

    def __init__(self, run: SlurmRun, finished: Checkout) -> None:
        self.run = run
        self.expected = digests(finished.results / "prior")
        self.results = run.checkout.results

    def start(self, *arguments: str) -> dict[str, str]:
        """Begin, and return the job once it has saved its state for the first time."""
        self.process = self.run.start(*arguments, *TRAIN)
        job = self.run.job("rule_train")
        assert until(lambda: any((self.results / "checkpoints" / "train").rglob("*.pt")), 300), self.run.said
        return job

    def end(self) -> str:
        """Wait for the end, which must be a good one, and return what was said."""
        status = self.process.wait(900)
        said = self.run.said
        assert status == 0, said
        assert digests(self.results / "prior") == self.expected
        return said

    @property
    def log(self) -> str:
        """The stage's, which begins anew with each start of it."""
        return (self.results / "logs" / "train.log").read_text()

    def jobs(self) -> dict[str, str]:
        """Number -> state of the jobs that Slurm knows."""
        return {job["JobId"]: job["JobState"] for job in self.run.slurm.jobs()}


@pytest.fixture
def training(checkout: Checkout, start_cluster: Callable[..., Cluster], finished: Checkout, tmp_path: Path) -> Training:
    """A step of the training ends before it saves: on a busy machine that takes more than some seconds."""
    return Training(SlurmRun(checkout, start_cluster(kill_wait=60), tmp_path / "snakemake.log"), finished)


def test_cancelled_it_is_submitted_again_and_goes_on(training: Training) -> None:
    job = training.start()
    training.run.slurm.run("scancel", job["JobId"])
    said = training.end()
    assert f"SLURM-job '{job['JobId']}' failed, SLURM status is: 'CANCELLED'" in said
    assert "going on from step" in training.log
    assert list(training.jobs().values()) == ["CANCELLED", "COMPLETED"]


def test_requeued_it_goes_on_as_the_same_job(training: Training) -> None:
    job = training.start()
    training.run.slurm.run("scontrol", "requeue", job["JobId"])
    training.end()
    assert "going on from step" in training.log
    assert training.jobs() == {job["JobId"]: "COMPLETED"}
    assert [each["Restarts"] for each in training.run.slurm.jobs()] == ["1"]


def test_preempted_it_goes_on_as_the_same_job(training: Training) -> None:
    job = training.start()
    training.run.slurm.run("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    training.end()
    assert "going on from step" in training.log
    assert training.jobs()[job["JobId"]] == "COMPLETED"
    assert {each["JobId"]: each["Restarts"] for each in training.run.slurm.jobs()}[job["JobId"]] == "1"


def test_out_of_time_it_saves_its_state_and_goes_on(training: Training) -> None:
    job = training.start()
    training.run.slurm.run("scontrol", "update", f"JobId={job['JobId']}", "EndTime=now+3")
    said = training.end()
    assert f"SLURM-job '{job['JobId']}' failed, SLURM status is: 'TIMEOUT'" in said
    assert "DUE TO TIME LIMIT" in said, "Slurm's own log is shown"
    assert "non-zero exit status 75" in said
    assert "going on from step" in training.log
    assert list(training.jobs().values()) == ["TIMEOUT", "COMPLETED"]


def test_out_of_memory_it_says_so_and_gets_more(training: Training) -> None:
    training.process = training.run.start("--set-resources", "train:mem_mb=400 * attempt ** 3", *TRAIN)
    said = training.end()
    assert "exceeded memory limit" in said, "the cause is in the terminal"
    states = list(training.jobs().values())
    assert states[0] in ("FAILED", "OUT_OF_MEMORY")
    assert states[-1] == "COMPLETED"


def test_of_two_snakemakes_the_second_says_who_is_at_work(training: Training, tmp_path: Path) -> None:
    training.start()
    second = SlurmRun(training.run.checkout, training.run.cluster, tmp_path / "second.log")
    assert second.start(*TRAIN).wait(120) == 1
    assert f"another snakemake is at work here (process {training.process.pid} on " in second.said
    assert len(training.jobs()) == 1
    training.end()


def test_killed_and_started_again_it_ends_the_first_job_and_goes_on(training: Training) -> None:
    job = training.start()
    kill(training.process)
    training.process = training.run.start(*TRAIN)
    assert f"of an earlier snakemake were ended ({job['JobId']})" in training.end()
    assert "going on from step" in training.log
    assert sorted(training.jobs().values()) == ["CANCELLED", "COMPLETED"]


def test_interrupted_it_cancels_its_job(training: Training) -> None:
    job = training.start()
    kill(training.process, signal.SIGINT)
    assert until(lambda: training.jobs()[job["JobId"]] == "CANCELLED", 30)
    training.process = training.run.start(*TRAIN)
    training.end()
    assert "going on from step" in training.log


def test_a_drained_node_and_a_controller_that_restarts_are_waited_for(training: Training) -> None:
    slurm = training.run.slurm
    slurm.run("scontrol", "update", "NodeName=node1", "State=DRAIN", "Reason=test")
    training.process = training.run.start(*TRAIN)
    job = training.run.job("rule_train", "PENDING")
    slurm.run("scontrol", "update", "NodeName=node1", "State=RESUME")
    training.run.job("rule_train", "RUNNING")
    slurm.stop_controller()
    time.sleep(10)  # in which Snakemake asks in vain
    slurm.start_controller()
    training.end()
    assert training.jobs() == {job["JobId"]: "COMPLETED"}


@pytest.mark.parametrize("command", ["squeue", "sacct"])
def test_with_accounting(
    checkout: Checkout, finished: Checkout, start_cluster: Callable[..., Cluster], tmp_path: Path, command: str
) -> None:
    arguments = ("--slurm-status-command", command, "--config", "cluster={account: lab}")
    cluster = start_cluster(slurmdbd=True)
    training = Training(SlurmRun(checkout, cluster, tmp_path / "snakemake.log", arguments), finished)
    training.process = training.run.start(*TRAIN)
    training.end()
    assert [job["Account"] for job in cluster.jobs()] == ["lab"]


def test_on_two_nodes(
    checkout: Checkout, start_cluster: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a cluster, a node's name is its address.
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    cluster = start_cluster(nodes=2, gpus=1)
    before = (checkout.results / "prior" / "model.pt").read_bytes()
    arguments = ("--config", "prior={nodes: 2, devices: 1}")
    SlurmRun(checkout, cluster, tmp_path / "snakemake.log", arguments).finish(*TRAIN)
    (job,) = cluster.jobs()
    assert job["NumNodes"] == "2"
    assert job["TresPerJob"] == "gres:gpu:2"
    assert (checkout.results / "prior" / "model.pt").read_bytes() != before, "each step saw twice as many people"

"""What the other tests rely on: the cluster gives fake GPUs, kills for memory, and goes away."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .cluster import Cluster
from .daemons import until

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).parents[2]
SHOW = "env | grep -E '^(SLURM_(JOB_)?GPUS|CUDA)' | LC_ALL=C sort"


def submit(cluster: Cluster, command: str, *arguments: str, output: str = "out") -> str:
    """Run a job to its end and return what it printed."""
    file = cluster.folder / output
    cluster.run("sbatch", "--wait", f"--output={file}", f"--chdir={cluster.folder}", *arguments, "--wrap", command)
    return file.read_text()


@pytest.mark.parametrize(
    ("request_", "seen"),
    [
        ("--gpus=1", "CUDA_VISIBLE_DEVICES=0\nSLURM_GPUS=1\nSLURM_GPUS_ON_NODE=1\nSLURM_JOB_GPUS=0\n"),
        ("--gres=gpu:h200:2", "CUDA_VISIBLE_DEVICES=0,1\nSLURM_GPUS_ON_NODE=2\nSLURM_JOB_GPUS=0,1\n"),
        ("--ntasks=1", ""),
    ],
)
def test_a_job_sees_the_devices_that_it_asked_for(cluster: Cluster, request_: str, seen: str) -> None:
    assert submit(cluster, SHOW, request_) == seen


def test_two_nodes_of_one_machine(start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster(nodes=2, gpus=1)
    said = submit(cluster, "srun --ntasks=2 sh -c 'echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'", "--nodes=2",
                  "--gpus-per-node=1")  # fmt: skip
    assert sorted(said.splitlines()) == ["node1 0", "node2 0"]


def test_a_job_over_its_memory_is_killed(cluster: Cluster) -> None:
    greedy = f'{sys.executable} -c "import time; x = bytearray(300_000_000); time.sleep(30)"'
    with pytest.raises(Exception, match=r"sbatch .* ended with"):
        submit(cluster, f"srun {greedy}", "--mem=100")
    assert "exceeded memory limit" in (cluster.folder / "out").read_text()


@pytest.mark.slurm_full
def test_accounting(start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster(slurmdbd=True)
    submit(cluster, "true", "--account=lab", "--comment=rule_fit")
    row = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=Account,State,Comment"]
    assert until(lambda: cluster.run(*row).split() == ["lab|COMPLETED|rule_fit"], 15), cluster.run(*row)


def test_a_person_starts_and_stops_it(start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster()  # another one, which must be left alone; and the skip, where there is no Slurm
    folder = cluster.folder / "another"
    command = [sys.executable, "-m", "tests.slurm.cluster"]

    def act(action: str) -> str:
        return subprocess.run(
            [*command, action, "--folder", str(folder), "--gpus", "1"],
            cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE,
        ).stdout  # fmt: skip

    typed = f"{act('start')}\nsbatch --parsable --chdir={folder} --gpus=1 --wrap 'sleep 600'; sinfo -o %G"
    environment = {"PATH": os.environ["PATH"]}
    said = subprocess.run(["sh", "-c", typed], env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout
    assert said.split() == ["1", "GRES", "gpu:h200:1"]
    processes = [each["pid"] for each in Cluster(folder).daemons.known()]
    assert len(processes) == 3
    act("stop")
    assert not any(Path(f"/proc/{process}/exe").exists() for process in processes)
    assert not Cluster(folder).processes_of_jobs()
    assert cluster.run("sinfo", "--noheader", "--partition=main", "--format=%T").split() == ["idle"]

"""What a cluster lacks for this config is said before its first job, with what to do; elsewhere nothing is said."""

from __future__ import annotations

from typing import Any

import pytest

from osgap.doctor import cluster
from osgap.doctor.findings import Finding
from osgap.runtime import slurm
from osgap.workflow.cluster_problems import problems
from osgap.workflow.config import Config, load_config
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.profile import read_profile

CONFIG = """AccountingStorageType   = accounting_storage/{storage}
KillWait                = 30 sec
MinJobAge               = {age} sec
SLURM_CONF              = /etc/slurm/slurm.conf
SLURM_VERSION           = 22.05.8"""
NODES = """gpu01|gpu|512000|64|infinite|mixed|gpu:h200:2(S:0-1)
gpu02|gpu|512000|64|infinite|mixed|gpu:a100:4
cpu01|cpu*|64000|16|infinite|idle|(null)"""


class Cluster:
    """One that can take the jobs, but for what a test changes."""

    def __init__(self, commands: Any) -> None:
        self.commands = commands

    def there(self, *, age: int = 300, storage: str = "none", nodes: str = NODES, when: str = "") -> None:
        self.commands.silence("sbatch", "squeue", "srun", "scancel", "sacct")
        self.commands.answer("scontrol", CONFIG.format(age=age, storage=storage), when=when)
        self.commands.answer("sinfo", nodes)


@pytest.fixture
def here(fake_slurm: Any) -> Cluster:
    return Cluster(fake_slurm)


def config(**changes: Any) -> Config:
    return load_config([{"cluster": {"gpu_partition": "gpu"}, **changes}])


def examined(found: Config | None = None) -> dict[str, Finding]:
    return {finding.name: finding for finding in cluster.findings(Pipeline(found) if found else None)}


def test_a_machine_without_slurm_is_left_in_peace(here: Cluster) -> None:
    assert examined(config()) == {}


def test_a_cluster_that_can_take_the_jobs(here: Cluster) -> None:
    here.there()
    assert problems(config(), 10) == []
    found = examined(config())
    assert {finding.status for finding in found.values()} == {"ok"}
    assert found["cluster"].found == "Slurm 22.05.8, /etc/slurm/slurm.conf, 30 s from SIGTERM to SIGKILL"
    first = read_profile().first_check_s
    assert found["finished jobs"].found == (
        f"remembered 300 s (MinJobAge) and in no database (no slurmdbd); Snakemake asks after {first} s"
    )
    assert found["cluster GPUs"].found == "in gpu (2 h200, 4 a100 a node)"


def test_commands_without_a_controller(here: Cluster) -> None:
    here.commands.silence(*slurm.COMMANDS)
    (said,) = problems(config(), 10)
    assert said.startswith("Slurm's controller does not answer")
    (finding,) = examined().values()
    assert (finding.name, finding.status) == ("cluster", "warning")
    assert "its controller does not answer" in finding.found


def test_no_sbatch(here: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    (said,) = problems(config(), 10)
    assert said.startswith("sbatch is not on PATH")
    assert "login node" in said
    monkeypatch.setenv("SLURM_CONF", "/shared/slurm.conf")
    found = examined()["cluster"]
    assert "sbatch" in found.found
    assert "sacct" not in found.found  # clusters without accounting need none
    assert "login node" in found.fix


@pytest.mark.parametrize(
    ("age", "storage", "first", "missed"),
    [(300, "none", 10, 0), (29, "none", 10, 1), (30, "none", 10, 0), (2, "slurmdbd", 10, 0), (119, "none", 40, 1)],
)
def test_finished_jobs_must_be_remembered_until_they_are_asked_for(
    age: int, storage: str, first: int, missed: int, here: Cluster
) -> None:
    here.there(age=age, storage=storage)
    found = problems(config(), first)
    assert len(found) == missed
    for said in found:
        assert f"after {age} s (MinJobAge)" in said
        assert f"{3 * first} s or more" in said


def test_the_doctor_says_so_too(here: Cluster) -> None:
    here.there(age=2)
    found = examined(config())["finished jobs"]
    assert found.status == "warning"
    assert "may wait for ever" in found.found
    assert found.fix.startswith("Ask for MinJobAge of ")


def test_a_configuration_that_only_the_variable_names(here: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    here.there(when='[ -n "$SLURM_CONF" ]')
    monkeypatch.setenv("SLURM_CONF", "/shared/slurm.conf")
    (said,) = problems(config(), 10)
    assert "SLURM_CONF alone (/shared/slurm.conf)" in said
    assert "/etc/slurm/slurm.conf" in said
    assert examined(config())["cluster"].status == "warning"


def test_a_variable_that_is_not_needed_is_fine(here: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    here.there()
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/slurm.conf")
    assert problems(config(), 10) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cluster": {}}, ["no node of the default partition has any", "GPUs are in gpu: set cluster.gpu_partition"]),
        ({"cluster": {"partition": "cpu"}}, ["no node of partition cpu has any"]),
        ({"cluster": {"gpu_partition": "gpus"}}, ["no partition 'gpus'", "cpu, gpu"]),
        ({"cluster": {"partition": "all", "gpu_partition": "gpu"}}, ["cluster.partition", "'all'"]),
        ({"cluster": {"gpu_partition": "gpu", "gpu_model": "h100"}}, ["gpu has 'h100'", "a100, h200"]),
        ({"prior": {"devices": 8}}, ["train asks for 8 GPUs on a node", "more than 4", "prior.nodes"]),
        ({"prior": {"devices": 4}, "cluster": {"gpu_partition": "gpu", "gpu_model": "h200"}}, ["more than 2"]),
    ],
)  # fmt: skip
def test_gpus_that_no_node_has(changes: dict[str, Any], said: list[str], here: Cluster) -> None:
    here.there()
    (found,) = problems(config(**changes), 10)
    for words in said:
        assert words in found
    finding = examined(config(**changes))["cluster GPUs"]
    assert finding.status == "warning"
    assert finding.fix


@pytest.mark.parametrize(
    "changes",
    [
        {"prior": {"devices": 4}},
        {"prior": {"devices": 2}, "cluster": {"gpu_partition": "gpu", "gpu_model": "h200"}},
        {"cluster": {"gpu_partition": "cpu,gpu"}},
    ],
)
def test_gpus_that_some_node_has(changes: dict[str, Any], here: Cluster) -> None:
    here.there()
    assert problems(config(**changes), 10) == []


def test_a_cluster_that_knows_of_no_gpu(here: Cluster) -> None:
    here.there(nodes="cpu01|cpu*|64000|16|infinite|idle|(null)")
    (said,) = problems(config(cluster={}), 10)
    assert "GresTypes=gpu" in said
    assert examined(config(cluster={}))["cluster GPUs"].found.startswith("none that Slurm knows of")


def test_nodes_that_are_not_shown_are_no_problem(here: Cluster) -> None:
    here.there(nodes="")
    assert problems(config(), 10) == []

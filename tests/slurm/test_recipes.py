"""What a site's settings make of the jobs that are submitted: arguments of a stub `sbatch`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from workflow.conftest import Checkout

from .runs import SlurmRun
from .stub import Stub

pytestmark = pytest.mark.slow

TARGETS = ("results/reduced/captures/201.h5", "results/reduced/prior/model.pt")
WITHOUT_GPU, WITH_GPU = "rule_capture_import_tracking", "rule_train"
SITE = ("-p", "-A", "-C", "--qos", "--gpus", "--gres", "--nodes", "--ntasks", "--nice", "--exclusive")


@pytest.fixture
def submitted(checkout: Checkout, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Submit a job without a GPU and one with, of a run that is finished but told to make them again.

    What is returned are the arguments that differ between sites.
    """

    def submit(*config: str) -> dict[str, str]:
        stub = Stub(tmp_path / "stub").install(sacctmgr="lab\nlab-gpu\n")
        run = SlurmRun(checkout, stub, tmp_path / "snakemake.log", ("--config", *config))
        run.finish("--force", "--", *TARGETS)
        assert set(stub.submissions) == {WITHOUT_GPU, WITH_GPU}
        return {comment: of_the_site(arguments) for comment, arguments in stub.submissions.items()}

    return submit


def of_the_site(arguments: list[str]) -> str:
    """A long option is one word, with its value; a short one has it in the next."""
    found = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word.startswith(SITE):
            found.append(word if word.startswith("--") else f"{word} {following}")
    return " ".join(found)


@pytest.mark.parametrize(
    ("config", "with_gpu", "without"),
    [
        ("{}", "-p main --gpus=1", "-p main --ntasks=1"),
        (
            "{partition: cpu, gpu_partition: gpu, account: lab, gpu_account: lab-gpu, gpu_qos: preemptible, "
            "gpu_model: h200, constraint: ib, extra: --nice=1}",
            "-A lab-gpu -p gpu -C ib --qos=preemptible --nice=1 --gpus=h200:1",
            "-A lab -p cpu --ntasks=1 --nice=1",
        ),
        (
            "{gpu: gres, gpu_model: h200, gpu_extra: --exclusive}",
            "-p main --exclusive --gres=gpu:h200:1",
            "-p main --ntasks=1",
        ),
        (
            "{gpu_partition: gpu, gpu: per_task}",
            "-p gpu --ntasks=1 --gpus-per-task=1",
            "-p main --ntasks=1",
        ),
    ],
    ids=["as it comes", "everything by name", "gres", "per task"],
)
def test_recipes(submitted: Callable[..., dict[str, str]], config: str, with_gpu: str, without: str) -> None:
    assert submitted(f"cluster={config}") == {WITH_GPU: with_gpu, WITHOUT_GPU: without}


@pytest.mark.parametrize(
    ("prior", "asked"),
    [
        ("{nodes: 2, devices: 2}", "-p main --nodes=2 --ntasks-per-node=2 --gpus=4"),
        ("{nodes: 2, devices: 1}", "-p main --nodes=2 --ntasks=2 --gpus=2"),
    ],
)
def test_training_on_several_nodes(submitted: Callable[..., dict[str, str]], prior: str, asked: str) -> None:
    assert submitted(f"prior={prior}")[WITH_GPU] == asked

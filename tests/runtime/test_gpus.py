from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from osgap.runtime import gpus
from osgap.runtime.cards import describe_driver, list_gpus
from osgap.runtime.errors import UserError

from . import fake_nvml

HOLD = """
import logging, sys, time
from pathlib import Path
from osgap.runtime.gpus import lease
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
with lease(sys.argv[2:], Path(sys.argv[1])) as gpu:
    print(gpu, flush=True)
    sys.stdin.readline()
"""

Hold = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    """Start a process that leases one of the given GPUs, prints which, and holds it until it is told to end."""
    started = []

    def start(*names: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "locks"), *names]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, text=True, **pipes)  # type: ignore[call-overload]
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line(stream: object) -> str:
    assert hasattr(stream, "readline")
    return stream.readline().strip()


def test_processes_take_different_cards_and_the_next_one_waits(hold: Hold) -> None:
    names = ["GPU-a", "GPU-b"]
    first, second = hold(*names), hold(*names)
    assert {line(first.stdout), line(second.stdout)} == set(names)
    third = hold(*names)
    assert line(third.stderr).startswith("GPU-a, GPU-b: leased by other processes (locks in ")
    assert third.poll() is None
    first.communicate("\n")  # ends, and gives its card back
    freed = line(third.stdout)
    assert freed in names
    os.kill(second.pid, signal.SIGKILL)
    other = hold(*names)
    assert {freed, line(other.stdout)} == set(names)


def test_a_killed_process_frees_its_card(hold: Hold) -> None:
    holder = hold("GPU-a")
    assert line(holder.stdout) == "GPU-a"
    waiting = hold("GPU-a")
    assert "waiting for one" in line(waiting.stderr)
    os.kill(holder.pid, signal.SIGKILL)
    assert line(waiting.stdout) == "GPU-a"


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"file/locks: leases of GPUs.*CUDA_VISIBLE_DEVICES"),
        gpus.lease(["GPU-a"], tmp_path / "file" / "locks"),
    ):
        pass


Cards = Callable[[list[dict[str, Any]] | None], None]


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cards:
    """Say which cards the machine has; locks go to a folder of the test."""
    for name in list(os.environ):
        if name.startswith(("SLURM", "CUDA_VISIBLE", "OSGAP_LEASED")) or name in ("PBS_JOBID", "LSB_JOBID"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    return lambda given: fake_nvml.install(monkeypatch, tmp_path, given)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, []),
        ([], []),
        ([{"uuid": "GPU-1"}, {"uuid": "GPU-2", "mig": False}], ["GPU-1", "GPU-2"]),
        (
            [{"uuid": "GPU-1"}, {"uuid": "GPU-2", "partitions": ["MIG-1", None, "MIG-2"]}, {"uuid": "GPU-3"}],
            ["GPU-1", "MIG-1", "MIG-2", "GPU-3"],
        ),
        ([{"uuid": "GPU-1", "partitions": []}], ["GPU-1"]),
        (
            [
                {"uuid": "GPU-1", "hidden": True},
                {"uuid": "GPU-2", "name": "NVIDIA H200"},
                {"uuid": "GPU-3", "hidden": True},
            ],
            ["GPU-2"],
        ),
    ],
    ids=["no driver", "no card", "cards", "partitions", "partitions to be made", "a control group"],
)
def test_listing(cards: Cards, given: list[dict[str, Any]] | None, found: list[str]) -> None:
    cards(given)
    assert list_gpus() == found
    named = next(({"name": card.get("name", "NVIDIA A")} for card in given or [] if not card.get("hidden")), None)
    assert describe_driver() == (None if named is None else (named["name"], fake_nvml.DRIVER))
    assert sys.modules["pynvml"]._users == 0, "what was initialised is given back"


def test_the_library_is_what_the_tests_take_it_for() -> None:
    """Names, parameters and the order of errors of the installed `pynvml`, for all that the one in its place has."""
    import pynvml

    names = [name for name in vars(fake_nvml) if name.lower().startswith("nvml")]
    assert len(names) > 12
    for name in names:
        own, real = getattr(fake_nvml, name), getattr(pynvml, name)
        if isinstance(own, type):
            # The library makes the classes of its errors when they are asked for.
            assert issubclass(real, pynvml.NVMLError)
        elif callable(own):
            assert list(inspect.signature(own).parameters) == list(inspect.signature(real).parameters), name
        else:
            assert own == real


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver")
def test_a_machine_without_a_driver() -> None:
    assert list_gpus() == []
    assert describe_driver() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_cuda_shows_is_listed() -> None:
    shown = str(torch.cuda.get_device_properties(0).uuid)
    assert shown in " ".join(list_gpus())


def test_the_lease_restricts_the_process_and_its_children(cards: Cards) -> None:
    cards(TWO)
    with gpus.lease(["GPU-a"], gpus.lock_folder()), gpus.lease_gpu() as device:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"
        child = (
            "import os; from osgap.runtime import gpus; gpus.pick_device(); print(os.environ['CUDA_VISIBLE_DEVICES'])"
        )
        shown = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == "GPU-b"
        assert device.type == "cpu"  # there is no such card
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


TWO: list[dict[str, Any]] = [{"uuid": "GPU-a"}, {"uuid": "GPU-b"}]


def test_several_cards_are_held_and_given_back(cards: Cards) -> None:
    cards(TWO)
    with gpus.lease_gpus("auto"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
        assert gpus._lock_one(["GPU-a", "GPU-b"], gpus.lock_folder()) is None
        with gpus.lease_gpus(2), gpus.lease_gpu():  # a part of the same job has what it has
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    with gpus.lease_gpus(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a"
        with gpus.lease(["GPU-a", "GPU-b"], gpus.lock_folder()) as other:
            assert other == "GPU-b"


COLLECT = """
import sys, tempfile
tempfile.gettempdir = lambda: sys.argv[1]
from osgap.runtime import gpus
with gpus.lease_gpus("auto"):
    print("held", flush=True)
"""


def test_who_wants_all_waits_for_each(cards: Cards, tmp_path: Path) -> None:
    cards(TWO)
    with gpus.lease(["GPU-b"], gpus.lock_folder()):
        command = [sys.executable, "-c", COLLECT, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + 60
            while (spare := gpus._lock_one(["GPU-a"], gpus.lock_folder())) is not None:
                spare[1].release()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert process.poll() is None  # it has the first one and waits for the second
        except BaseException:
            process.kill()
            raise
    assert process.communicate(timeout=60)[0] == "held\n"


def test_a_partition_works_alone(cards: Cards) -> None:
    cards([{"uuid": "GPU-a", "partitions": ["MIG-1", "MIG-2"]}])
    with gpus.lease_gpus("auto"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "MIG-1"
    with pytest.raises(UserError, match=r"2 GPUs are asked for, but this machine has 0 whole ones.*one partition"):
        gpus.lease_gpus(2).__enter__()


@pytest.mark.parametrize(
    ("changes", "environment", "held"),
    [
        ({}, {}, "GPU-a,GPU-b"),
        ({"devices": 1}, {}, "GPU-a"),
        ({}, {"LOCAL_RANK": "0"}, None),  # torchrun's
        ({}, {"SLURM_STEP_NUM_TASKS": "2"}, None),
        ({"nodes": 2}, {}, None),
    ],
    ids=str,
)
def test_training_holds_what_it_uses(
    cards: Cards, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any],
    environment: dict[str, str], held: str | None,
) -> None:  # fmt: skip
    from osgap.prior.config import PriorConfig
    from osgap.prior.training.distributed import lease_devices

    cards(TWO)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name in ("LOCAL_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with lease_devices(PriorConfig(**changes)):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == held


@pytest.mark.parametrize("given", [None, []], ids=["no driver", "no card"])
def test_no_gpu(cards: Cards, given: list[dict[str, Any]] | None) -> None:
    cards(given)
    expected = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    with gpus.lease_gpu() as device:
        assert device == expected
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert not gpus.lock_folder().exists()


def test_a_card_that_a_user_has_chosen_is_not_leased(cards: Cards, monkeypatch: pytest.MonkeyPatch) -> None:
    cards(TWO[:1])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with gpus.lease_gpu():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
        assert not gpus.lock_folder().exists()


SIDE_BY_SIDE = """
import logging, os, sys, tempfile
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
tempfile.gettempdir = lambda: sys.argv[1]
from types import SimpleNamespace
cuda = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: False)
sys.modules["torch"] = SimpleNamespace(cuda=cuda, device=lambda *name: name)  # which would take seconds to load
from osgap.runtime import gpus
gpus._check = lambda gpu: None
with gpus.lease_gpu():
    logging.info("held")
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("job", [{"SLURM_JOB_ID": "17"}, {}], ids=["in an allocation", "of a user's list"])
def test_jobs_side_by_side_take_different_ones_of_the_visible(
    cards: Cards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: dict[str, str]
) -> None:
    """A Snakemake that runs its jobs in an allocation, or in a shell that has been given some cards."""
    cards([{"uuid": f"GPU-{letter}"} for letter in "abcd"])
    for name, value in {**job, "CUDA_VISIBLE_DEVICES": "1,3"}.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-c", SIDE_BY_SIDE, str(tmp_path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [subprocess.Popen(command, text=True, **pipes) for _ in range(3)]
    try:
        (waits,) = (process for process in started if "leased by other processes" in line(process.stderr))
        others = [process for process in started if process is not waits]
        assert {line(process.stdout) for process in others} == {"1", "3"}
        others[0].communicate("\n", timeout=60)
        assert line(waits.stdout) in {"1", "3"}
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_another_job_has_other_cards_of_the_same_number(
    cards: Cards, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where control groups hide what is others', each job counts its cards from 0."""
    cards(TWO[:1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpus, "_check", lambda gpu: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with gpus.lease_gpu(), monkeypatch.context() as other:
        other.setenv("SLURM_JOB_ID", "18")
        other.delenv("OSGAP_LEASED_GPUS")
        with gpus.lease_gpu() as device:  # would wait for ever
            assert device == torch.device("cuda", 0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert "OSGAP_LEASED_GPUS" not in os.environ


# what is computed on -------------------------------------------------------------------------------------
@pytest.fixture
def torch_finds(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Say how many cards torch finds."""

    def say(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(gpus, "_check", lambda gpu: None)

    return say


TorchFinds = Callable[[int], None]


def test_the_cpu_alone_touches_no_card(cards: Cards, torch_finds: TorchFinds, monkeypatch: pytest.MonkeyPatch) -> None:
    cards(TWO)
    torch_finds(2)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(gpus, "find_allocation", lambda: pytest.fail("cards were looked for"))
    with gpus.using("cpu"), gpus.lease_gpu() as device, gpus.lease_gpus(1):
        assert device == torch.device("cpu")
        assert gpus.device_type() == "cpu"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert not gpus.lock_folder().exists()


def test_no_gpu_where_one_is_asked_for(cards: Cards, torch_finds: TorchFinds) -> None:
    cards(None)
    torch_finds(0)
    with gpus.using("cuda"):
        for lease in (gpus.lease_gpu(), gpus.lease_gpus("auto")):
            with (
                pytest.raises(UserError, match=r"accelerator is cuda, but torch .*; set it to auto or cpu, or use"),
                lease,
            ):
                pass
    with gpus.lease_gpu() as device:
        assert device == torch.device("cpu")
    torch_finds(1)
    with gpus.using("cuda"), gpus.lease_gpu() as device:
        assert device == torch.device("cuda", 0)


def test_a_job_that_asked_for_no_gpu_leaves_those_of_others_alone(
    cards: Cards, torch_finds: TorchFinds, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cards(TWO)
    torch_finds(2)
    gpus._warn.cache_clear()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with gpus.lease_gpu() as device, gpus.lease_gpus("auto"):
        assert device == torch.device("cpu")
        assert not gpus.lock_folder().exists()
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "Slurm job 17 asked for no GPU, although " in warning.getMessage()
    assert "has 2 GPUs, which may be given to others: COMPUTING ON THE CPU" in warning.getMessage()
    assert "--set-resources fit:gpu=1" in warning.getMessage()
    with gpus.using("cuda"), pytest.raises(UserError, match="accelerator is cuda, but Slurm job 17 asked for no GPU"):
        gpus.device_type()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0"}, r"has 1 GPU on .* \(CUDA_VISIBLE_DEVICES=0\), but torch"),
        ({"SLURM_GPUS_ON_NODE": "2"}, r"has 2 GPUs on .* \(SLURM_GPUS_ON_NODE=2\), but torch"),
    ],
    ids=str,
)
def test_a_job_whose_gpu_is_not_there_fails(
    cards: Cards, torch_finds: TorchFinds, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str
) -> None:
    cards(None)
    torch_finds(0)
    for name, value in {"SLURM_JOB_ID": "17", "SLURMD_NODENAME": "node1", **environment}.items():
        monkeypatch.setenv(name, value)
    for lease in (gpus.lease_gpu(), gpus.lease_gpus("auto"), gpus.lease_gpus(1)):
        with pytest.raises(UserError, match=f"Slurm job 17 {said}.*nvidia-smi.*accelerator to cpu"), lease:
            pass
    with gpus.using("cpu"), gpus.lease_gpu() as device:
        assert device == torch.device("cpu")
    monkeypatch.delenv("SLURMD_NODENAME")
    with pytest.raises(UserError, match=r"this shell .of salloc. is not on the job's machine.* with srun"):
        gpus.device_type()


def test_fewer_cards_than_were_given(cards: Cards, torch_finds: TorchFinds, monkeypatch: pytest.MonkeyPatch) -> None:
    cards(TWO)
    torch_finds(1)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UserError, match=r"job 17 has 2 GPUs on .*, but torch finds 1 of them"), gpus.lease_gpus("auto"):
        pass
    with pytest.raises(UserError, match=r"3 GPUs are asked for, but Slurm job 17 has 2 whole ones .CUDA_VISIBLE.*=0,1"):
        gpus.lease_gpus(3).__enter__()


def test_a_leased_card_is_the_one_cuda_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CUDA read the environment too early it shows another card first: refused, not silently shared."""

    class Properties:
        uuid = "b"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    gpus._check("GPU-b")
    with pytest.raises(UserError, match=r"GPU-a was leased, but CUDA has been in use.*shows GPU-b"):
        gpus._check("GPU-a")

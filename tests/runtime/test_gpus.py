from __future__ import annotations

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
from osgap.runtime.errors import UserError

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


def test_listing() -> None:
    listing = """GPU 0: NVIDIA H200 (UUID: GPU-6f0c-01)
GPU 1: NVIDIA H200 (UUID: GPU-6f0c-02)
  MIG 3g.71gb     Device  0: (UUID: MIG-aa-1)
  MIG 3g.71gb     Device  1: (UUID: MIG-aa-2)
GPU 2: NVIDIA H200 (UUID: GPU-6f0c-03)
"""
    assert gpus.parse_gpus(listing) == ["GPU-6f0c-01", "MIG-aa-1", "MIG-aa-2", "GPU-6f0c-03"]
    assert gpus.parse_gpus("No devices found.\n") == []


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put an `nvidia-smi` first in the path that runs the given shell script; locks go to a folder of the test."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def write(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return write


def test_the_lease_restricts_the_process_and_its_children(driver: Callable[[str], None]) -> None:
    driver("echo 'GPU 0: NVIDIA A (UUID: GPU-a)'; echo 'GPU 1: NVIDIA A (UUID: GPU-b)'")
    with gpus.lease(["GPU-a"], gpus.lock_folder()), gpus.lease_gpu() as device:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"
        child = (
            "import os; from osgap.runtime import gpus; gpus.pick_device(); print(os.environ['CUDA_VISIBLE_DEVICES'])"
        )
        shown = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
        assert shown.stdout.strip() == "GPU-b"
        assert device.type == "cpu"  # there is no such card
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


TWO = "echo 'GPU 0: NVIDIA A (UUID: GPU-a)'; echo 'GPU 1: NVIDIA A (UUID: GPU-b)'"


def test_several_cards_are_held_and_given_back(driver: Callable[[str], None]) -> None:
    driver(TWO)
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


def test_who_wants_all_waits_for_each(driver: Callable[[str], None], tmp_path: Path) -> None:
    driver(TWO)
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


def test_a_partition_works_alone(driver: Callable[[str], None]) -> None:
    parts = "echo '  MIG 3g Device 0: (UUID: MIG-1)'; echo '  MIG 3g Device 1: (UUID: MIG-2)'"
    driver(f"echo 'GPU 0: A (UUID: GPU-a)'; {parts}")
    with gpus.lease_gpus("auto"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "MIG-1"
    with pytest.raises(UserError, match=r"2 GPUs are asked for, but this machine has 0 whole ones.*one partition"):
        gpus.lease_gpus(2).__enter__()


@pytest.mark.parametrize(
    ("changes", "environment", "held"),
    [
        ({}, {}, "GPU-a,GPU-b"),
        ({"devices": 1}, {}, "GPU-a"),
        ({"accelerator": "cpu"}, {}, None),
        ({}, {"LOCAL_RANK": "0"}, None),  # torchrun's
        ({}, {"SLURM_STEP_NUM_TASKS": "2"}, None),
        ({"nodes": 2}, {}, None),
    ],
    ids=str,
)
def test_training_holds_what_it_uses(
    driver: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any],
    environment: dict[str, str], held: str | None,
) -> None:  # fmt: skip
    from osgap.prior.config import PriorConfig
    from osgap.prior.training.distributed import lease_devices

    driver(TWO)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name in ("LOCAL_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with lease_devices(PriorConfig(**changes)):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == held


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices found.'"])
def test_no_gpu(driver: Callable[[str], None], script: str) -> None:
    driver(script)
    expected = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    with gpus.lease_gpu() as device:
        assert device == expected
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert not gpus.lock_folder().exists()


def test_the_schedulers_choice_wins(driver: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    driver("echo 'GPU 0: NVIDIA A (UUID: GPU-a)'")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with gpus.lease_gpu():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
        assert not gpus.lock_folder().exists()


def test_a_leased_card_is_the_one_cuda_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CUDA read the environment too early it shows another card first: refused, not silently shared."""

    class Properties:
        uuid = "b"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    gpus._check("GPU-b")
    with pytest.raises(UserError, match=r"GPU-a was leased, but CUDA has been in use.*shows GPU-b"):
        gpus._check("GPU-a")

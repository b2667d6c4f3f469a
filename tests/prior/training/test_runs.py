"""Long trainings: schedulers' signals, processes that die, people who are kept out, and what is seen from outside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from osgap.prior.mean import load_maps
from osgap.prior.network.model import load_prior
from osgap.prior.training import stage as train
from osgap.prior.training.data import Assembly, Batch, Frames
from osgap.prior.training.monitor import StepMonitor
from osgap.prior.training.turn import Turn
from osgap.runtime.artifacts import write_json
from osgap.runtime.errors import UserError
from osgap.runtime.folder_lock import FolderLock
from osgap.runtime.provenance import Provenance
from osgap.runtime.termination import AGAIN
from osgap.splat.uv_maps import load_uv_gt
from prior.runs import FILES, PEOPLE, inputs, outputs, start, tiny


@pytest.fixture(scope="module")
def undisturbed(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert start(world, folder, tiny()).wait(300) == 0
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_schedulers_signal_saves_and_says_again(
    world: Any, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    torch.set_num_threads(1)
    done: list[int] = []
    original = train.Training.advance

    def advance(self: Any, *args: Any) -> None:
        done.append(self.step)
        if done == [0, 1, 2]:
            os.kill(os.getpid(), number)
        original(self, *args)

    monkeypatch.setattr(train.Training, "advance", advance)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        train.run(tiny(), inputs(world), outputs(tmp_path), seed=7)
    assert ended.value.code == AGAIN
    assert signal.getsignal(number) == before
    assert not (tmp_path / "model.pt").exists()
    train.run(tiny(), inputs(world), outputs(tmp_path), seed=7)
    assert done == [0, 1, 2, 3, 4, 5], "no step twice: the state was saved after step 2, not at the last checkpoint"
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes(), name


_SUSPENDED = """
import os, signal, sys
from pathlib import Path
from osgap.prior.training import stage as train
advance = train.Training.advance

def suspended(self, *args):
    if self.step == 3:
        os.kill(os.getpid(), signal.SIGSTOP)
    advance(self, *args)

train.Training.advance = suspended
exec(Path(sys.argv[1]).with_name("job.py").read_text())
"""


@pytest.mark.slow
@pytest.mark.parametrize("first_is_killed", [False, True])
def test_two_trainings_at_once_end_with_the_bytes_of_one(
    world: Any, undisturbed: Path, tmp_path: Path, first_is_killed: bool, second_process: Any
) -> None:
    shutil.copytree(undisturbed, tmp_path, ignore=lambda _, names: {*names} - {"job.py"}, dirs_exist_ok=True)
    (tmp_path / "job.json").write_text((undisturbed / "job.json").read_text().replace(str(undisturbed), str(tmp_path)))
    (tmp_path / "suspended.py").write_text(_SUSPENDED)
    first = subprocess.Popen([sys.executable, str(tmp_path / "suspended.py"), str(tmp_path / "job.json")])
    said = second_process(first, lambda: start(world, tmp_path, tiny(), stderr=subprocess.PIPE), first_is_killed)
    assert ("going on from step 2 of 6 (checkpoint of " in said) == first_is_killed
    assert (f"made meanwhile by process {first.pid}" in said) != first_is_killed
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (undisturbed / name).read_bytes(), name


@pytest.mark.slow
def test_processes_of_a_scheduler_wait_together(world: Any, tmp_path: Path) -> None:
    """The first has to wait for its turn, with the other one in a group that is told to go on waiting."""
    config = tiny(2).model_copy(update={"devices": 2, "sources": 1})
    group = {
        "TORCHELASTIC_RUN_ID": "7", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()),
    }  # fmt: skip
    lock = FolderLock(tmp_path / "checkpoints", "another training")
    lock.acquire()
    ranks = [
        start(world, tmp_path, config, environment={**group, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE)
        for rank in ("0", "1")
    ]
    try:
        first = ranks[0].stderr
        assert first is not None
        while "waiting for it to end" not in (line := first.readline().decode()):
            assert line, "the first one ended"
        time.sleep(3)
        assert [rank.poll() for rank in ranks] == [None, None]
        lock.release()
        assert [rank.wait(240) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    assert json.loads((tmp_path / "train.json").read_text())["steps"] == 2


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Group:
    """Fabric's broadcast, between threads."""

    def __init__(self, size: int) -> None:
        self.barrier, self.said = threading.Barrier(size), None

    def fabric(self, rank: int) -> Any:
        def broadcast(value: Any) -> Any:
            if rank == 0:
                self.said = value
            self.barrier.wait(30)
            said = self.said
            self.barrier.wait(30)
            return said

        return SimpleNamespace(is_global_zero=rank == 0, broadcast=broadcast)


@pytest.mark.parametrize(("found", "left"), [(True, False), (False, True), (UserError("no"), False)], ids=str)
def test_all_processes_learn_whether_anything_is_left(tmp_path: Path, found: Any, left: bool) -> None:
    """Another one finishes while the first waits for it; or does not; or the first cannot go on."""
    provenance = Provenance("train", None, 0, {}, {}, {}, {})
    made, group = tmp_path / "train.json", Group(2)
    other = FolderLock(tmp_path / "checkpoints", provenance.key.computation)
    said: list[bool] = []
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        other.acquire()
        write_json(tmp_path / "checkpoints" / "holder.json", {"computation": "", "pid": 1, "host": "elsewhere"})
        turns = [Turn(stack, tmp_path / "checkpoints", [made], lambda: provenance) for _ in range(2)]
        second = pool.submit(turns[1].take_together, group.fabric(1))
        first = group.fabric(0)
        told = first.broadcast

        def broadcast(value: Any) -> None:
            said.append(told(value))
            if said == ["waiting", "waiting"]:
                if isinstance(found, UserError):
                    raise found
                if found:
                    write_json(made, {}, provenance.as_dict())
                other._lock.release()

        first.broadcast = broadcast
        if isinstance(found, UserError):
            with pytest.raises(UserError):
                turns[0].take_together(first)
            other._lock.release()
        else:
            assert turns[0].take_together(first) == left
        assert second.result(30) == left
    assert set(said[:-1]) == {"waiting"}
    assert turns[1].checkpoints is None


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def _ranks(process: subprocess.Popen[bytes], checkpoint: Path) -> list[int]:
    """The other ranks of a training, once it is under way."""
    deadline = time.monotonic() + 240
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "the training ended before it could be disturbed"
    return _children(process.pid)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["first", "second"])
def test_one_dead_process_ends_the_job(world: Any, tmp_path: Path, victim: str) -> None:
    """A rank that is killed leaves the other one inside a collective, which waits for half an hour by itself."""
    config = tiny(steps=100_000).model_copy(update={"devices": 2, "sources": 1})
    process = start(world, tmp_path, config)
    others = _ranks(process, tmp_path / "checkpoints" / "latest.pt")
    assert len(others) == 1
    os.kill(process.pid if victim == "first" else others[0], signal.SIGKILL)
    assert process.wait(30) != 0
    deadline = time.monotonic() + 20
    while Path(f"/proc/{others[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    alive = Path(f"/proc/{others[0]}/status")
    assert not alive.exists() or "zombie" in alive.read_text()
    assert not (tmp_path / "model.pt").exists()


def test_people_who_are_kept_out_are_measured_and_not_learned(world: Any, tmp_path: Path) -> None:
    config = tiny().model_copy(update={"validation": ("green",), "validate_every": 3})
    train.run(config, inputs(world), outputs(tmp_path), seed=7)
    log = json.loads((tmp_path / "train.json").read_text())
    assert log["people"] == ["red", "blue"]
    assert [point["step"] for point in log["validation"]] == [3, 6]
    for point in log["validation"]:
        assert 5 < point["psnr"] < 60
        assert 0 < point["ssim"] < 1
    assert load_prior(tmp_path / "model.pt").people == ("red", "blue")
    expected = load_maps([world.maps(subject) for subject in ("red", "blue")]).mean(dim=0)
    assert torch.equal(load_uv_gt(tmp_path / "mean_uv.npz"), expected)


def test_people_who_cannot_be_kept_out(world: Any, tmp_path: Path) -> None:
    for names, message in (
        (("green", "grey"), r"prior\.validation: grey: not among the training people \(red, green, blue\)"),
        (PEOPLE, "names all training people"),
    ):
        config = tiny().model_copy(update={"validation": names})
        with pytest.raises(UserError, match=message):
            train.run(config, inputs(world), outputs(tmp_path), seed=7)


def test_tensorboard_sees_every_step_once(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    original = train.Training.advance

    def advance(self: Any, *args: Any) -> None:
        if self.step == 5 and not (tmp_path / "again").exists():
            (tmp_path / "again").touch()
            raise KeyboardInterrupt  # the last checkpoint is of step 4
        original(self, *args)

    monkeypatch.setattr(train.Training, "advance", advance)
    config = tiny().model_copy(update={"checkpoint_every": 4, "validate_every": 3})
    with pytest.raises(KeyboardInterrupt):
        train.run(config, inputs(world), outputs(tmp_path), seed=7)
    train.run(config, inputs(world), outputs(tmp_path), seed=7)
    seen = EventAccumulator(str(tmp_path / "events"), {"images": 0, "scalars": 0}).Reload()
    assert [event.step for event in seen.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    curve = json.loads((tmp_path / "train.json").read_text())["curve"]
    assert [event.value for event in seen.Scalars("train/loss")] == pytest.approx([point["loss"] for point in curve])
    assert [event.step for event in seen.Images("preview")] == [3, 6]
    assert seen.Images("preview")[0].width == 5 * 22


def test_the_monitor_tells_what_happened() -> None:
    monitor = StepMonitor(torch.device("cpu"))
    fine, broken = torch.tensor(False), torch.tensor(True)
    monitor.report(fine, fine, False, lambda: UserError("never"))
    assert monitor.stop() is False
    monitor.report(fine, fine, True, lambda: UserError("never"))
    assert monitor.stop() is True
    for losses, gradient in ((broken, broken), (fine, broken), (broken, fine)):
        monitor.report(losses, gradient, True, lambda: UserError("step 2"))
        with pytest.raises(UserError, match="step 2"):
            monitor.stop()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_reports_are_read_later_on_a_gpu() -> None:
    device = torch.device("cuda")
    monitor = StepMonitor(device)
    fine, broken = torch.tensor(False, device=device), torch.tensor(True, device=device)
    monitor.report(broken, broken, False, lambda: UserError("step 0"))
    assert monitor.stop() is False
    monitor.report(fine, fine, True, lambda: UserError("never"))
    assert monitor.stop() is False
    with pytest.raises(UserError, match="step 0"):
        monitor.stop(settle=True)
    assert monitor.stop(settle=True) is True


def test_what_was_wrong_first_is_what_is_said(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where reports are read later: the step after a broken one is refused by the renderer."""
    original = Assembly.batch

    def batch(self: Assembly, frames: Frames) -> Batch:
        made = original(self, frames)
        if len(seen) == 2:
            made.images[0, 3, 3] = float("nan")
        seen.append(made.names)
        return made

    seen: list[list[str]] = []
    monkeypatch.setattr(Assembly, "batch", batch)
    monkeypatch.setattr("osgap.prior.training.monitor.StepMonitor.__init__", _delayed(StepMonitor.__init__))
    with pytest.raises(UserError, match="step 2: not finite: l1 of") as caught:
        train.run(tiny(), inputs(world), outputs(tmp_path), seed=7)
    assert seen[2][0] in str(caught.value)
    left = torch.load(tmp_path / "checkpoints" / "not-finite-0.pt", weights_only=True)
    assert (left["step"], left["samples"]) == (2, seen[2])


def _delayed(original: Callable[..., None]) -> Callable[..., None]:
    def init(self: StepMonitor, *args: Any) -> None:
        original(self, *args)
        self._delay = 2

    return init


_TWO_RANKS = """
import os, signal, sys, time
from pathlib import Path
from osgap.runtime.checkpoint import Checkpoints
from osgap.prior.training import stage as train
from osgap.prior.training.data import Assembly, Batch, Frames
from osgap.prior.training.data import Assembly
rank, deed = int(os.environ.get("LOCAL_RANK", 0)), sys.argv[2]
batch, save = Assembly.batch, Checkpoints.save
count = 0

def disturbed(self, frames):
    global count
    count += 1
    made = batch(self, frames)
    if rank == 1 and count == 3 and deed == "signal":
        os.kill(os.getpid(), signal.SIGUSR1)
    if rank == 1 and count == 3 and deed == "nan":
        made.images[0, 3, 3] = float("nan")
    return made

def slow(self, state):
    time.sleep(7)  # longer than the others are watched
    save(self, state)

Assembly.batch = disturbed
if deed == "signal":
    Checkpoints.save = slow
exec(Path(sys.argv[1]).with_name("job.py").read_text())  # not runpy, which would hide this file from the launcher
"""


def _two_ranks(world: Any, folder: Path, deed: str) -> subprocess.CompletedProcess[str]:
    config = tiny().model_copy(update={"devices": 2, "sources": 1, "checkpoint_every": 100})
    job = start(world, folder, config)  # for its files
    job.kill()
    job.wait()
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "disturbed.py").write_text(_TWO_RANKS)
    command = [sys.executable, str(folder / "disturbed.py"), str(folder / "job.json"), deed]
    # As Snakemake's jobs are on Slurm: one task, which starts the other process itself.
    slurm = {
        "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }  # fmt: skip
    environment = {**os.environ, **slurm}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_one_ranks_signal_saves_and_stops_both(world: Any, tmp_path: Path) -> None:
    done = _two_ranks(world, tmp_path, "signal")
    assert done.returncode == AGAIN, done.stderr[-2000:]
    assert torch.load(tmp_path / "checkpoints" / "latest.pt", weights_only=True)["state"]["step"] == 3


@pytest.mark.slow
def test_one_ranks_broken_sample_is_named_by_the_first(world: Any, tmp_path: Path) -> None:
    done = _two_ranks(world, tmp_path, "nan")
    assert done.returncode not in (0, AGAIN)
    assert "UserError: step 2: not finite: l1 of" in done.stderr
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.pt")) == ["not-finite-1.pt"]


def test_loader_processes_outlive_a_signal_to_all(world: Any, tmp_path: Path) -> None:
    """A scheduler signals every process of a job."""
    config = tiny(steps=100_000).model_copy(update={"workers": 1})
    process = start(world, tmp_path, config, new_session=True)
    _ranks(process, tmp_path / "checkpoints" / "latest.pt")
    os.killpg(process.pid, signal.SIGUSR1)
    assert process.wait(60) == AGAIN


def test_resuming_keeps_what_was_measured(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    config = tiny().model_copy(update={"validation": ("green",), "validate_every": 2})
    train.run(config, inputs(world), outputs(tmp_path / "whole"), seed=7)
    original = train.Training.advance

    def advance(self: Any, *args: Any) -> None:
        if self.step == 3 and not (tmp_path / "told").exists():
            (tmp_path / "told").touch()
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, *args)

    monkeypatch.setattr(train.Training, "advance", advance)
    with pytest.raises(SystemExit):
        train.run(config, inputs(world), outputs(tmp_path / "parts"), seed=7)
    train.run(config, inputs(world), outputs(tmp_path / "parts"), seed=7)
    assert (tmp_path / "parts" / "train.json").read_bytes() == (tmp_path / "whole" / "train.json").read_bytes()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_resumed_training_on_a_gpu_has_the_same_curve(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Sums come in another order there, so bytes differ; other samples or a lost state would be seen in the loss."""
    changes = {"devices": 1, "precision": precision, "checkpoint_every": 8}
    config = tiny(24).model_copy(update=changes)
    curves, steps = [], []
    original = train.Training.advance

    def advance(self: train.Training, *args: Any) -> None:
        steps.append(self.step)
        if len(steps) == stop:
            raise KeyboardInterrupt
        original(self, *args)

    monkeypatch.setattr(train.Training, "advance", advance)
    for name, seed, stop in (("whole", 7, None), ("resumed", 7, 12), ("other", 8, None)):
        steps.clear()
        if stop is not None:
            with pytest.raises(KeyboardInterrupt):
                train.run(config, inputs(world), outputs(tmp_path / name), seed=seed)
        train.run(config, inputs(world), outputs(tmp_path / name), seed=seed)
        assert steps == ([*range(24)] if stop is None else [*range(12), *range(8, 24)])
        log = json.loads((tmp_path / name / "train.json").read_text())
        curves.append(np.array([point["loss"] for point in log["curve"]]))
    whole, resumed, other = curves
    assert len(whole) == 24
    np.testing.assert_allclose(resumed, whole, rtol=0.01)
    assert np.abs(other / whole - 1).max() > 0.1, "a curve that tells nothing"

"""Long trainings: schedulers' signals, processes that die, people who are kept out, and what is seen from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from osgap.errors import UserError
from osgap.prior import train
from osgap.prior.mean import load_maps
from osgap.prior.model import load_prior
from osgap.prior.vitals import Vitals
from osgap.splat.uv_maps import load_uv_gt
from osgap.termination import AGAIN
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


def test_vitals_tell_what_happened() -> None:
    vitals = Vitals(torch.device("cpu"), 1)
    fine, broken = torch.tensor(False), torch.tensor(True)
    vitals.report(fine, False, lambda: UserError("never"))
    assert vitals.stop() is False
    vitals.report(fine, True, lambda: UserError("never"))
    assert vitals.stop() is True
    vitals.report(broken, True, lambda: UserError("step 2"))
    with pytest.raises(UserError, match="step 2"):
        vitals.stop()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_vitals_are_read_later_on_a_gpu() -> None:
    device = torch.device("cuda")
    vitals = Vitals(device, 1)
    vitals.report(torch.tensor(True, device=device), False, lambda: UserError("step 0"))
    assert vitals.stop() is False
    vitals.report(torch.tensor(False, device=device), True, lambda: UserError("never"))
    assert vitals.stop() is False
    with pytest.raises(UserError, match="step 0"):
        vitals.stop(settle=True)
    assert vitals.stop(settle=True) is True

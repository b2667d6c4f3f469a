"""The stage on a person whose truth is known: quality, files, killed runs, and messages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import plyfile
import pytest
import torch

from fit.people import CAMERAS, HEIGHT, SUBJECT, TEST_TIMES, TRAIN_TIMES, UV_SIZE, WIDTH, World, config, rewritten
from osgap.capture.batches import Batch
from osgap.capture.store import CaptureStore
from osgap.fit import stage
from osgap.fit.measure import measure
from osgap.fit.optimise import Fit
from osgap.fit.stage import FitInputs, FitOutputs
from osgap.head.assets import load_head
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.checkpoint import Checkpoints
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Key
from osgap.runtime.termination import AGAIN
from osgap.splat.avatar import Avatar

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def fitted(world: World, tmp_path_factory: pytest.TempPathFactory) -> FitOutputs:
    outputs = world.outputs(tmp_path_factory.mktemp("fitted"))
    stage.run(config(iterations=200), world.inputs, outputs, subject=SUBJECT, seed=0)
    return outputs


def test_the_fit_recovers_a_known_avatar(fitted: FitOutputs) -> None:
    metrics = json.loads(fitted.metrics.read_text())["metrics"]
    assert metrics["val"]["psnr"] > 32
    assert metrics["test"]["psnr"] > 32
    assert metrics["val"]["ssim"] > 0.97
    assert metrics["val"]["frames"] == TRAIN_TIMES
    assert metrics["test"]["frames"] == TEST_TIMES * CAMERAS


def test_metrics_are_those_of_the_saved_avatar(world: World, fitted: FitOutputs) -> None:
    store, avatar = CaptureStore(world.inputs.capture), Avatar.load(fitted.avatar)
    written = json.loads(fitted.metrics.read_text())["metrics"]["test"]
    again = measure(avatar, load_head(world.inputs.head), store, store.cameras, store.split("test"))
    assert again == pytest.approx(written, abs=1e-4)


def test_a_fit_stays_closed_where_no_camera_looks(world: World, fitted: FitOutputs, tmp_path: Path) -> None:
    closed = json.loads(fitted.metrics.read_text())["coverage"]
    outputs = world.outputs(tmp_path)
    stage.run(config(iterations=200, losses={"coverage": 0}), world.inputs, outputs, subject=SUBJECT, seed=0)
    other = json.loads(outputs.metrics.read_text())
    assert closed["open"] < 0.3 * other["coverage"]["open"]
    assert closed["worst"] > other["coverage"]["worst"]
    psnr = json.loads(fitted.metrics.read_text())["metrics"]["test"]["psnr"]
    assert psnr > other["metrics"]["test"]["psnr"] - 0.3


def test_the_loss_falls(fitted: FitOutputs) -> None:
    curve = json.loads(fitted.metrics.read_text())["loss"]
    assert curve["step"][-1] == 200
    assert len(curve["mean"]) == len(curve["step"])
    assert curve["mean"][-1] < 0.1 * curve["mean"][0]


def test_motion_is_refined_where_there_are_training_frames_only(world: World, fitted: FitOutputs) -> None:
    tracked, refined = CaptureStore(world.inputs.capture).params, Avatar.load(fitted.avatar).params
    assert refined.timesteps == tracked.timesteps
    for name in ("expr", "rotation", "translation", "jaw_pose"):
        before, after = getattr(tracked, name), getattr(refined, name)
        assert torch.equal(after[TRAIN_TIMES:], before[TRAIN_TIMES:])
        changed = (after[:TRAIN_TIMES] != before[:TRAIN_TIMES]).any(dim=1)
        assert changed.all() or name == "jaw_pose"  # this head has no jaw
    assert torch.equal(refined.shape, tracked.shape)
    assert torch.equal(refined.static_offset, tracked.static_offset)


def test_refinement_corrects_the_tracking(world: World, tmp_path: Path) -> None:
    truth = CaptureStore(world.inputs.capture).params
    noise = torch.randn(truth.translation.shape, generator=torch.Generator().manual_seed(0)) * 0.003
    noise -= noise[:TRAIN_TIMES].mean(dim=0)  # a shift that all timesteps share is the avatar's as much as the motion's
    tracked = truth.replace(translation=truth.translation + noise)
    capture = rewritten(world.inputs.capture, tmp_path / "noisy.h5", params=tracked)
    outputs = world.outputs(tmp_path)
    settings = config(iterations=200, learning_rates={"translation": 5e-4})
    stage.run(settings, FitInputs(capture, world.inputs.head), outputs, subject=SUBJECT, seed=0)
    refined = Avatar.load(outputs.avatar).params
    left = (refined.translation - truth.translation)[:TRAIN_TIMES]
    left -= left.mean(dim=0)
    assert left.norm() < 0.4 * noise[:TRAIN_TIMES].norm()


def test_files_are_what_other_programs_read(world: World, fitted: FitOutputs) -> None:
    summary = json.loads(fitted.metrics.read_text())
    vertices = plyfile.PlyData.read(fitted.avatar / "point_cloud.ply")["vertex"]
    assert len(vertices) == summary["gaussians"] == len(world.truth.faces)
    np.testing.assert_array_equal(vertices["binding_0"].astype(np.int64), world.truth.faces.numpy())
    assert {"f_rest_44", "rot_3", "opacity"} <= {p.name for p in vertices.properties}
    with np.load(fitted.avatar / "flame_param.npz") as params:
        assert params["expr"].shape == (TRAIN_TIMES + TEST_TIMES, 100)
        assert params["dynamic_offset"].shape[0] == TRAIN_TIMES + TEST_TIMES
    preview = cv2.imread(str(fitted.preview))
    assert preview is not None
    assert preview.shape[0] == 3 * HEIGHT
    assert preview.shape[1] % WIDTH == 0
    assert preview.shape[1] // WIDTH >= 4
    target, rendered = preview[:HEIGHT].astype(float), preview[HEIGHT : 2 * HEIGHT].astype(float)
    assert np.abs(target - rendered).mean() < 5
    for path in (fitted.metrics, fitted.preview, fitted.avatar / "flame_param.npz", fitted.avatar / "point_cloud.ply"):
        provenance = read_provenance(path)
        assert provenance is not None
        assert provenance["stage"] == "fit"
        assert provenance["subject"] == SUBJECT
        assert provenance["config"]["uv_size"] == UV_SIZE
    assert not list(fitted.checkpoints.glob("*.pt"))


def started(world: World, output: Path, *death: str) -> subprocess.Popen[str]:
    """Start `fit.victim`."""
    folder = world.inputs.capture.parents[1]
    command = [sys.executable, "-m", "fit.victim", str(folder), str(output), *death]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def killed(world: World, output: Path, *death: str) -> tuple[int, list[int]]:
    """Run `fit.victim`, which dies; returns its exit status and the steps that it did."""
    process = started(world, output, *death)
    steps, said = process.communicate()
    assert "Traceback" not in said, said
    assert process.returncode != AGAIN or f"stopped at step {int(death[1]) + 1} of 60; the same command goes" in said
    return process.returncode, [int(line) for line in steps.split()]


def finished(world: World, output: Path, monkeypatch: pytest.MonkeyPatch, **changes: object) -> list[int]:
    """Run the stage in this process, as `fit.victim` does when nothing kills it; returns the steps that it did."""
    steps: list[int] = []

    def step(self: Fit, batch: Batch) -> torch.Tensor:
        steps.append(batch.step)
        return do_step(self, batch)

    do_step, threads = Fit.step, torch.get_num_threads()
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "step", step)
        torch.set_num_threads(1)
        try:
            stage.run(config(**changes), world.inputs, world.outputs(output), subject=SUBJECT, seed=7)
        finally:
            torch.set_num_threads(threads)
    return steps


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "avatar").iterdir())}


@pytest.fixture(scope="module")
def uninterrupted(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert finished(world, folder, monkeypatch) == list(range(60))
    written = contents(folder)
    assert sorted(written) == ["fit.json", "flame_param.npz", "point_cloud.ply", "preview.png"]
    return written


def test_a_killed_fit_goes_on_from_its_checkpoint(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    assert killed(world, tmp_path, "SIGKILL", "47") == (-signal.SIGKILL, list(range(47)))
    assert not (tmp_path / "avatar").exists()
    assert finished(world, tmp_path, monkeypatch) == list(range(40, 60))  # there was a checkpoint after 40
    assert contents(tmp_path) == uninterrupted


@pytest.mark.parametrize("first_is_killed", [False, True])
def test_two_fits_at_once_end_with_the_bytes_of_one(
    world: World, tmp_path: Path, uninterrupted: dict[str, bytes], first_is_killed: bool, second_process: Any
) -> None:
    """As when a new Snakemake submits a job that an old one's Slurm still runs."""
    first = started(world, tmp_path, "SIGSTOP", "47")
    said = second_process(first, lambda: started(world, tmp_path, "SIGSTOP", "never"), first_is_killed)
    assert ("going on from step 40 of 60 (checkpoint of " in said) == first_is_killed
    assert (f"made meanwhile by process {first.pid}" in said) != first_is_killed
    assert contents(tmp_path) == uninterrupted


def test_killed_while_writing_outputs(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    assert killed(world, tmp_path, "SIGKILL", "fit.json") == (-signal.SIGKILL, list(range(60)))
    assert (tmp_path / "avatar" / "point_cloud.ply").exists()
    assert not (tmp_path / "avatar" / "fit.json").exists()
    assert finished(world, tmp_path, monkeypatch) == []  # nothing of the optimisation again
    assert contents(tmp_path) == uninterrupted


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_schedulers_signal_saves_first(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes], name: str
) -> None:
    assert killed(world, tmp_path, name, "30") == (AGAIN, list(range(31)))
    assert finished(world, tmp_path, monkeypatch) == list(range(31, 60))
    assert contents(tmp_path) == uninterrupted


def test_decoding_ahead_gives_the_same_avatar(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    assert finished(world, tmp_path, monkeypatch, frame_memory_mib=0) == list(range(60))
    (tmp_path / "kept").mkdir()
    for name, content in uninterrupted.items():
        (tmp_path / "kept" / name).write_bytes(content)
    kept, ahead = Avatar.load(tmp_path / "kept"), Avatar.load(tmp_path / "avatar")
    assert torch.equal(kept.attributes.channels, ahead.attributes.channels)
    assert torch.equal(kept.params.expr, ahead.params.expr)


def test_checkpoints_of_another_config_are_not_used(world: World, tmp_path: Path) -> None:
    outputs = world.outputs(tmp_path)
    with Checkpoints(outputs.checkpoints, Key("another computation")) as other:
        other.save({"done": 60, "losses": torch.zeros(60), "fit": {}})
    stage.run(config(), world.inputs, outputs, subject=SUBJECT, seed=0)
    assert json.loads(outputs.metrics.read_text())["metrics"]["val"]["psnr"] > 20


def test_another_subjects_capture_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{SUBJECT}\.h5: holds subject {SUBJECT}, but 017"):
        stage.run(config(), world.inputs, world.outputs(tmp_path), subject="017", seed=0)
    assert not (tmp_path / "avatar").exists()


def test_a_capture_without_training_frames_is_refused(world: World, tmp_path: Path) -> None:
    store = CaptureStore(world.inputs.capture)
    everything = np.concatenate([store.split(name) for name in ("train", "val", "test")])
    splits = {"train": np.zeros((0, 2), np.int64), "val": np.zeros((0, 2), np.int64), "test": everything}
    capture = rewritten(world.inputs.capture, tmp_path / "empty.h5", splits=splits)
    with pytest.raises(UserError, match=r"empty\.h5: has no training frames"):
        stage.run(config(), FitInputs(capture, world.inputs.head), world.outputs(tmp_path), subject=SUBJECT, seed=0)


def test_a_single_camera_leaves_metrics_without_numbers(world: World, tmp_path: Path) -> None:
    frames = np.array([(t, 0) for t in range(TRAIN_TIMES)])
    none = np.zeros((0, 2), np.int64)
    capture = rewritten(
        world.inputs.capture, tmp_path / "one.h5", splits={"train": frames, "val": none, "test": frames[:1]}
    )
    outputs = world.outputs(tmp_path)
    stage.run(config(iterations=2), FitInputs(capture, world.inputs.head), outputs, subject=SUBJECT, seed=0)
    metrics = json.loads(outputs.metrics.read_text())["metrics"]
    assert metrics["val"] == {"psnr": None, "ssim": None, "frames": 0}
    assert metrics["test"]["frames"] == 1

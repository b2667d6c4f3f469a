from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from osgap.capture.store import CaptureStore
from osgap.prior.config import AugmentConfig, OneShotConfig, PriorConfig
from osgap.prior.mean import load_maps, mean_avatar
from osgap.prior.network.encoder import ImageEncoder
from osgap.prior.network.model import load_prior
from osgap.prior.network.published import layer_names, published_decoder
from osgap.prior.network_config import EncoderConfig
from osgap.prior.personalisation import stage as oneshot
from osgap.prior.personalisation.stage import OneShotInputs, OneShotOutputs
from osgap.prior.photographs import Photographs
from osgap.prior.training import stage as train
from osgap.prior.training.data import Assembly, Batch, Frames
from osgap.prior.training.distributed import launch
from osgap.prior.training.schedule import learning_rate, parameter_groups
from osgap.prior.training.stage import TrainInputs, run
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.checkpoint import Checkpoints
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Key, file_digest
from osgap.runtime.weights import WeightFile
from osgap.splat.attributes import CHANNELS
from osgap.splat.avatar import Avatar
from osgap.splat.uv_maps import load_uv_gt, save_uv_gt
from prior.runs import FILES, PEOPLE, clean_environment, inputs, outputs, start, tiny

ROTATION = CHANNELS["rotation"]


@pytest.fixture(scope="module")
def trained(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs of an undisturbed run."""
    folder = tmp_path_factory.mktemp("trained")
    _train_in_process(world, folder)
    return folder


@pytest.fixture(scope="module")
def steady(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of `_steady()`."""
    folder = tmp_path_factory.mktemp("steady")
    assert start(world, folder, _steady()).wait(300) == 0
    return folder


def _steady(**changes: Any) -> PriorConfig:
    """Without the term that has jumps: where a surface counts as open a rounding decides, and Adam makes steps of it.

    `test_losses.py` compares that term between processes.
    """
    config = tiny()
    losses = config.losses.model_copy(update={"coverage": 0.0})
    return config.model_copy(update={"losses": losses, **changes})


def _train_in_process(world: Any, folder: Path, steps: int = 6) -> None:
    process = start(world, folder, tiny(steps))
    assert process.wait(300) == 0


def test_outputs_are_complete_and_carry_provenance(world: Any, trained: Path) -> None:
    for name in FILES:
        provenance = read_provenance(trained / name)
        assert provenance is not None
        assert provenance["stage"] == "train"
        assert provenance["seed"] == 7
    expected = load_maps([world.maps(subject) for subject in PEOPLE]).mean(dim=0)
    assert torch.equal(load_uv_gt(trained / "mean_uv.npz"), expected)
    log = json.loads((trained / "train.json").read_text())
    assert log["people"] == list(PEOPLE)
    assert [point["step"] for point in log["curve"]] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "uv", "l1", "ssim", "alpha"} <= set(log["curve"][0])
    assert [path.name for path in (trained / "checkpoints").iterdir()] == ["lock"]
    model = load_prior(trained / "model.pt", uv_size=12)
    assert model.people == PEOPLE
    moved = model(Photographs(torch.rand(1, 1, 3, 32, 32), None)) - model.decoder.mean
    assert moved.abs().max() > 0


def test_killed_runs_end_with_the_same_bytes(world: Any, trained: Path, tmp_path: Path) -> None:
    """SIGKILL once a checkpoint is there; the second run goes on from it and not from the start."""
    process = start(world, tmp_path, tiny())
    checkpoint = tmp_path / "checkpoints" / "latest.pt"
    deadline = time.monotonic() + 240
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL, "the run ended before it could be killed"
    saved = torch.load(checkpoint, weights_only=True)["state"]
    assert 0 < saved["step"] <= 6
    _train_in_process(world, tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes(), name


def test_a_finished_step_is_never_repeated(
    world: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    done: list[int] = []
    original = train.Training.advance

    def advance(self: Any, *args: Any) -> None:
        done.append(self.step)
        if len(done) == 4:
            raise KeyboardInterrupt
        original(self, *args)

    monkeypatch.setattr(train.Training, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), inputs(world), outputs(tmp_path), seed=7)
    run(tiny(), inputs(world), outputs(tmp_path), seed=7)
    assert done == [0, 1, 2, 3, 2, 3, 4, 5], "checkpoints are every 2 steps: only step 2 is done twice"
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes(), name


def test_steps_without_training_need_weights_of_the_default_network(tmp_path: Path) -> None:
    weights = {"path": tmp_path / "model.pth", "sha256": "0" * 64}
    with pytest.raises(ValidationError, match="steps is 0, but there are no weights"):
        PriorConfig.model_validate({"steps": 0})
    with pytest.raises(ValidationError, match="weights are of the default encoder, but encoder changes width"):
        PriorConfig.model_validate({"weights": weights, "encoder": {"width": 32}})
    assert PriorConfig.model_validate({"weights": weights, "steps": 0}).steps == 0
    assert PriorConfig.model_validate({"weights": weights, "encoder": {"width": 64}}).weights is not None


def _published(path: Path) -> dict[str, torch.Tensor]:
    """A checkpoint of the published size with random weights, as its publisher's training saves it."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in ImageEncoder(EncoderConfig()).state_dict().items()}
    layers = layer_names(EncoderConfig())
    state = {}
    for name, shape in shapes.items():
        layer, _, parameter = name.rpartition(".")
        gain = (1.5 / shape[1:].numel()) ** 0.5 if len(shape) > 1 else 0.1
        state[f"module.Encoder.{layers[layer]}.{parameter}"] = gain * torch.randn(shape, generator=generator)
    torch.save(state | {"module.flame_model.v_template": torch.zeros(5143, 3)}, path)
    return state


@pytest.mark.slow
def test_a_published_network_becomes_a_prior_without_training(world: Any, tmp_path: Path) -> None:
    """At its full size: the file has its weights and its head, and gives maps that one photograph can start from."""
    state = _published(tmp_path / "model.pth")
    weights = {"path": tmp_path / "model.pth", "sha256": file_digest(tmp_path / "model.pth")}
    config = PriorConfig.model_validate({"weights": weights, "steps": 0, "precision": "32-true", "source_cameras": 1})
    run(config, inputs(world, ("red",)), outputs(tmp_path / "prior"), seed=7)
    provenance = read_provenance(tmp_path / "prior" / "model.pt")
    assert provenance is not None
    assert weights["sha256"] in provenance["inputs"].values()
    log = json.loads((tmp_path / "prior" / "train.json").read_text())
    assert (log["steps"], log["curve"]) == (0, [])
    assert torch.equal(load_uv_gt(tmp_path / "prior" / "mean_uv.npz"), load_uv_gt(world.maps("red")))

    model = load_prior(tmp_path / "prior" / "model.pt", uv_size=12)
    found = model.encoder.state_dict()
    assert torch.equal(found["fusion.out.weight"], state["module.Encoder.Final_encoder.output_net.6.weight"])
    stem = state["module.Encoder.encoder.conv1.weight"]
    torch.testing.assert_close(found["trunk.stem.weight"][:, 3:], 511 * stem[:, 3:])
    features = torch.randn(1, 96, 6, 6)
    expected = published_decoder(world.binding.mask, model.decoder.residual_scale)(features)
    assert torch.equal(model.decoder(features), expected)

    given = OneShotInputs(world.capture("grey"), tmp_path / "prior" / "model.pt", world.assets)
    folder = tmp_path / "oneshot"
    made = OneShotOutputs(
        folder, folder / "prior", folder / "saw.json", folder / "preview.png", tmp_path / "checkpoints"
    )
    oneshot.run(OneShotConfig(steps=2), None, given, made, subject="grey", seed=0)
    assert len(Avatar.load(folder).attributes) == len(world.binding)


def test_weights_that_are_none_stop_the_training(world: Any, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"not a checkpoint")
    weights = WeightFile(path=tmp_path / "model.pth", sha256=file_digest(tmp_path / "model.pth"))
    config = PriorConfig(weights=weights, steps=0, precision="32-true")
    with pytest.raises(UserError, match=r"prior\.weights: .*model\.pth is no PyTorch state dict"):
        run(config, inputs(world), outputs(tmp_path / "prior"), seed=7)
    assert not (tmp_path / "prior" / "model.pt").exists()


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(
    world: Any, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network and its gradient are one graph each: nothing in it makes the compiler give up."""

    def compiled(model: Any) -> Any:
        return torch.compile(model, backend="aot_eager", fullgraph=True)  # without a C++ compiler's minute

    torch.set_num_threads(1)  # as what it is compared with: sums in another order are other steps of Adam
    monkeypatch.setattr("osgap.prior.training.loop._compiled", compiled)
    torch._dynamo.utils.counters.clear()
    run(tiny().model_copy(update={"compile": True}), inputs(world), outputs(tmp_path), seed=7)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    _assert_same_weights(trained, tmp_path)


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(world: Any, steady: Path, tmp_path: Path) -> None:
    """Two processes with one source each see the samples of one process with two, and average their gradients."""
    assert start(world, tmp_path, _steady(devices=2, sources=1)).wait(300) == 0
    _assert_same_weights(steady, tmp_path)


@pytest.mark.slow
def test_two_machines_learn_what_one_learns(world: Any, steady: Path, tmp_path: Path) -> None:
    """`srun --nodes=2` in a session of `salloc`, whose jobs are called `interactive`."""
    config = _steady(devices=1, nodes=2, sources=1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    processes = []
    try:
        for rank in ("0", "1"):
            # One thread, as what it is compared with; Fabric would take all cores for the one process of a machine.
            slurm = {
                "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "interactive", "SLURM_NNODES": "2", "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_PROCID": rank, "SLURM_NODEID": rank, "SLURM_LOCALID": "0",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            processes.append(start(world, tmp_path, config, environment=slurm))
        assert [process.wait(300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    _assert_same_weights(steady, tmp_path)


def _assert_same_weights(one: Path, other: Path) -> None:
    """But for rounding."""
    expected, found = (load_prior(folder / "model.pt").state_dict() for folder in (one, other))
    assert list(found) == list(expected)
    for name, value in expected.items():
        values = [value, found[name]]
        if name.startswith("decoder.out"):
            # All people have the same rotations, so that their gradient is rounding, and Adam makes a step of its sign.
            values = [torch.cat([v[: ROTATION.start], v[ROTATION.stop :]]) for v in values]
        torch.testing.assert_close(values[1], values[0], atol=1e-5, rtol=1e-4, msg=name)


_SRUN = {"SLURM_STEP_NUM_TASKS": "4"}


@pytest.mark.parametrize(
    ("changes", "environment", "found"),
    [
        ({"nodes": 2}, {}, "only this one was started"),
        ({"nodes": 2, "devices": 2}, {"SLURM_NTASKS": "4"}, "only this one was started"),  # in a job, but no srun
        ({"nodes": 2}, {**_SRUN, "SLURM_STEP_TASKS_PER_NODE": "4"}, "srun started 4"),
        ({"devices": 2}, {**_SRUN, "SLURM_STEP_TASKS_PER_NODE": "4"}, "srun started 4"),
        ({"nodes": 2, "devices": 2}, {**_SRUN, "SLURM_STEP_TASKS_PER_NODE": "3,1"}, "srun started 3,1"),
        ({"devices": 1}, {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "torchrun started 2, 2 of them here"),
        ({"nodes": 2}, {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, "torchrun started 2, 2 of them here"),
    ],
    ids=str,
)
def test_processes_that_nobody_started_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], environment: dict[str, str], found: str
) -> None:
    clean_environment(monkeypatch)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if "WORLD_SIZE" in environment:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    config = PriorConfig.model_validate({"devices": 1, **changes})
    with pytest.raises(UserError, match=rf", but {found}; start one for each device \(srun --nodes={config.nodes} "):
        launch(config)


@pytest.mark.parametrize("typed", [True, False])
def test_what_is_typed_into_a_terminal_of_srun_is_one_process(monkeypatch: pytest.MonkeyPatch, typed: bool) -> None:
    """`srun --ntasks=4 --pty bash` starts four shells, of which three end at once."""
    clean_environment(monkeypatch)
    for name, value in {**_SRUN, "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_PTY_PORT": "40000"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: typed))
    config = PriorConfig.model_validate({"devices": 1})
    if typed:
        assert launch(config).world_size == 1
    else:
        with pytest.raises(UserError, match="srun started 4"):
            launch(config)


def test_a_checkpoint_of_another_config_is_not_resumed(world: Any, tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "checkpoints", Key("of another computation")) as checkpoints:
        checkpoints.save({"step": 5})
    run(tiny(2), inputs(world), outputs(tmp_path), seed=7)
    assert len(json.loads((tmp_path / "train.json").read_text())["curve"]) == 2


def test_training_brings_the_maps_nearer(world: Any, tmp_path: Path) -> None:
    still = AugmentConfig(brightness=0, tint=0, saturation=0, offset=0, shift=0, scale=0)
    config = tiny(80).model_copy(update={"learning_rate": 1e-3, "checkpoint_every": 100, "augment": still})
    run(config, inputs(world), outputs(tmp_path), seed=0)
    curve = json.loads((tmp_path / "train.json").read_text())["curve"]
    first, last = (np.mean([point["loss"] for point in part]) for part in (curve[:10], curve[-10:]))
    assert last < 0.8 * first


def test_divergence_stops_with_step_and_sample(world: Any, tmp_path: Path) -> None:
    config = tiny().model_copy(update={"learning_rate": 1e30})
    sample = r"map of (red|green|blue): source t\d/c\d, targets t\d/c\d, t\d/c\d"
    with pytest.raises(UserError, match=rf"step 1: not finite: {sample}; {sample}\. .* lower prior\.learning_rate"):
        run(config, inputs(world), outputs(tmp_path), seed=0)
    assert not (tmp_path / "model.pt").exists()


def test_a_broken_loss_names_the_one_sample_it_comes_from(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stops the run is the real check; only the broken target is made up, since no file can hold it."""
    original = Assembly.batch

    def batch(self: Assembly, frames: Frames) -> Batch:
        batch = original(self, frames)
        for sample, person in enumerate(batch.people):
            if person == 1:
                batch.images[2 * sample + 1, 3, 3] = float("nan")
        return batch

    monkeypatch.setattr(Assembly, "batch", batch)
    with pytest.raises(UserError, match=r"step \d: not finite: l1 of green: source t\d/c\d, targets t\d") as caught:
        run(tiny(), inputs(world), outputs(tmp_path), seed=0)
    assert "ssim of green" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("red", "blue", "uv of", "alpha of"))
    left = torch.load(tmp_path / "checkpoints" / "not-finite-0.pt", weights_only=True)
    assert str(tmp_path / "checkpoints" / "not-finite-0.pt") in str(caught.value)
    assert left["images"].shape == (4, 32, 22, 3)
    assert left["images"].isnan().any(dim=-1).sum() == sum("green" in sample for sample in left["samples"]) > 0


def test_maps_of_different_sizes_are_refused(world: Any, tmp_path: Path) -> None:
    save_uv_gt(tmp_path / "odd.npz", torch.zeros(8, 8, 14))
    given = TrainInputs((world.capture("red"),) * 2, (world.maps("red"), tmp_path / "odd.npz"), world.assets)
    with pytest.raises(UserError, match=r"maps of different sizes \(red.npz 12, odd.npz 8\)"):
        run(tiny(), given, outputs(tmp_path), seed=0)


def test_maps_of_others_and_of_other_heads_are_refused(world: Any, tmp_path: Path) -> None:
    captures = (world.capture("red"), world.capture("blue"))
    save_uv_gt(tmp_path / "blue.npz", load_uv_gt(world.maps("blue")), {"subject": "green"})
    given = TrainInputs(captures, (world.maps("red"), tmp_path / "blue.npz"), world.assets)
    with pytest.raises(UserError, match=r"blue\.npz: is the map of green, but stands beside the capture of blue"):
        run(tiny(), given, outputs(tmp_path), seed=0)
    save_uv_gt(tmp_path / "blue.npz", torch.ones(12, 12, 14))
    uncovered = int((~world.binding.mask).sum())
    assert uncovered > 0
    with pytest.raises(UserError, match=rf"blue\.npz: {uncovered} texels are filled"):
        run(tiny(), given, outputs(tmp_path), seed=0)


def test_nobody_to_train_on_is_an_error(world: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one person; got 0 captures"):
        run(tiny(), inputs(world, ()), outputs(tmp_path), seed=0)


def test_learning_rate_warms_up_and_falls() -> None:
    config = tiny(102)
    rates = [learning_rate(config, step) for step in range(103)]
    assert rates[0] == pytest.approx(0.5e-3)
    assert rates[2] == pytest.approx(1e-3)
    assert rates[52] == pytest.approx(0.5 * (1e-3 + 1e-5))
    assert rates[102] == pytest.approx(1e-5)
    constant = tiny(102).model_copy(update={"schedule": "constant"})
    assert [learning_rate(constant, step) for step in (0, 1, 2, 102)] == pytest.approx([0.5e-3, 1e-3, 1e-3, 1e-3])


def test_only_matrices_decay() -> None:
    layer = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.LayerNorm(2))
    decaying, others = parameter_groups(layer, 0.1)
    assert [p.ndim for p in decaying["params"]] == [4]
    assert decaying["weight_decay"] == 0.1
    assert len(others["params"]) == 3
    assert others["weight_decay"] == 0


def test_mean_avatar_stands_on_the_persons_own_head(world: Any) -> None:
    maps = load_maps([world.maps(subject) for subject in PEOPLE])
    params = CaptureStore(world.capture("grey")).params.select(1)
    avatar = mean_avatar(maps.mean(dim=0), world.binding, params)
    gaussians = avatar.gaussians(world.head)
    assert gaussians.means.shape == (1, len(world.binding), 3)
    distance = torch.cdist(gaussians.means[0], world.head.vertices(params)[0]).amin(dim=1)
    assert distance.max() < 0.05, "metres; without the person's translation and rotation it is some 0.1"

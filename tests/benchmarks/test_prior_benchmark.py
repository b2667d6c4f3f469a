"""The benchmark of the prior, at toy size on the CPU; and that its plain step computes what training computes."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from osgap.capture.store import CaptureStore
from osgap.head.texels import bind_texels
from osgap.metrics import lpips
from osgap.prior.mean import load_maps
from osgap.prior.network.encoder import ImageEncoder
from osgap.prior.network.published import published_decoder
from osgap.prior.network_config import EncoderConfig
from osgap.runtime.provenance import file_digest
from osgap.runtime.weights import WeightFile
from osgap.splat.attributes import CHANNELS, N_CHANNELS

Load = Callable[[str], ModuleType]
Run = Callable[[str, Sequence[str]], dict[str, Any]]

ENCODER = {
    "input_size": 32,
    "token_width": 32,
    "residual_blocks": [1, 1],
    "attention_blocks": 1,
    "heads": 2,
    "dilations": [1, 2, 3],
}
PRIOR = {"encoder": ENCODER, "precision": "32-true", "workers": 0, "sources": 2, "targets": 3}
UV_SIZE = 16


@pytest.fixture(scope="module")
def painted(load: Load, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of three painted people, and their files."""
    people = load("people")
    folder = tmp_path_factory.mktemp("painted")
    config = people.synthetic_config("64x88", 2, 0)
    return folder, people.paint(folder, config, 3, UV_SIZE, torch.device("cpu"))


@pytest.fixture
def cast(load: Load, painted: tuple[Path, Any], tmp_path: Path) -> Any:
    benchmark = load("prior")
    options = argparse.Namespace(prior=PRIOR, lpips=False, vgg=None)
    config = benchmark.training_config(options, None, tmp_path, torch.device("cpu"))
    return benchmark.load(painted[1], config, 0, torch.device("cpu"))


def test_all_parts_at_toy_size(run: Run, painted: tuple[Path, Any]) -> None:
    folder, _ = painted
    timing = ["--images", "5", "--plain-images", "3", "--rounds", "2", "--batches", "1", "2", "--passes", "1"]
    settings = ["--people", "2", "--seed", "0", "--prior", json.dumps(PRIOR), "--matrix", "128", "--no-lpips"]
    settings += ["--oneshot", '{"steps": 3, "losses": {"coverage": 0}}', "--commands", "1"]
    result = run("prior", ["--work", str(folder), *settings, *timing])

    assert str(folder.parent) not in json.dumps(result)
    assert result["machine"]["threads"] == 1
    assert (result["people"]["width"], result["people"]["height"]) == (64, 88)
    assert (result["people"]["painted"], result["people"]["trained_on"]) == (3, 2)
    assert result["people"]["training_images"] == 2 * 4 * 15
    assert result["people"]["uv_size"] == UV_SIZE
    assert result["lpips"] is None
    assert max(result["agreement"]["term_errors"].values()) < 1e-4
    rate = 1e12 * result["matrix"]["bf16_tflops"]
    flops = 3 * 2e9 * result["encoder_gmac"]
    check_train(result["train"], flops, rate)
    check_encoder(result["encoder"], flops, rate)
    check_oneshot(result["oneshot"], flops, rate)


def check_train(measured: dict[str, Any], flops: float, rate: float) -> None:
    """Rates are the medians of their rounds, and ratios are those of the rates."""
    assert (measured["sources"], measured["targets"]) == (2, 3)
    assert (measured["images"], measured["plain_images"]) == (6, 4)  # whole steps
    assert measured["terms"] == ["alpha", "coverage", "l1", "position", "scale", "ssim", "uv"]
    for name, targets in {"loader": 3, "resident": 3, "flushed": 2, "kept": 2}.items():
        loop = measured["plain"][name] if targets == 2 else measured[name]
        assert len(loop["rounds"]) == 2
        assert loop["images_per_s"] == pytest.approx(1 / np.median(1 / np.array(loop["rounds"])))
        assert loop["sources_per_s"] == pytest.approx(loop["images_per_s"] / targets)
        assert loop["utilisation"] == pytest.approx(loop["sources_per_s"] * flops / rate)
        if targets == 3:
            for plain, ratio in measured["ratio"][name].items():
                assert ratio == pytest.approx(loop["images_per_s"] / measured["plain"][plain]["images_per_s"])
    assert measured["garbage"]["objects"] > 1000


def check_encoder(measured: dict[str, Any], flops: float, rate: float) -> None:
    assert list(measured["batches"]) == ["1", "2"]
    for count, passes in {**measured["batches"], "1 plain": measured["plain"]}.items():
        assert passes["ms"] == pytest.approx(np.median(passes["rounds_ms"]))
        assert 1e12 * passes["tflops"] == pytest.approx(int(count[0]) * flops / passes["ms"] * 1e3)
        assert passes["utilisation"] == pytest.approx(1e12 * passes["tflops"] / rate)


def check_oneshot(measured: dict[str, Any], flops: float, rate: float) -> None:
    assert measured["steps"] == 3
    assert measured["seconds"] == pytest.approx(np.median(measured["rounds"]))
    assert measured["steps_per_s"] == pytest.approx(3 / measured["seconds"])
    for name, plain in measured["plain"].items():
        assert plain["steps_per_s"] == pytest.approx(1 / np.median(1 / np.array(plain["rounds"])))
        assert measured["ratio"][name] == pytest.approx(measured["steps_per_s"] / plain["steps_per_s"])
    command = measured["command"]
    assert [command["seconds"]] == command["rounds"]
    assert command["seconds"] > measured["seconds"]
    assert {"oneshot/103/point_cloud.ply", "oneshot/103/oneshot.json"} <= set(command["files"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="needs gsplat")
def test_all_parts_on_a_gpu(run: Run, tmp_path: Path) -> None:
    """Both programs agree there, too, and training in bfloat16 runs with loader processes."""
    prior = {**PRIOR, "precision": "bf16-mixed", "workers": 2}
    timing = ["--images", "12", "--plain-images", "4", "--rounds", "2", "--commands", "1", "--matrix", "1024"]
    arguments = ["--device", "cuda", "--work", str(tmp_path), "--people", "2", *timing]
    result = run("prior", [*arguments, "--prior", json.dumps(prior)])
    assert result["machine"]["gpu"]
    assert result["agreement"]["gradient_error"] < 1e-2
    assert result["train"]["ratio"]["loader"]["kept"] > 0


# agreement --------------------------------------------------------------------------------------------------------


def test_training_and_the_plain_step_agree(load: Load, cast: Any) -> None:
    found = load("prior").agreement(cast)
    assert found["images"] == 6
    assert set(found["terms"]) == {"l1", "ssim", "uv", "alpha", "position", "scale"}
    assert min(found["terms"].values()) > 0  # nothing agrees for want of a term
    assert max(found["term_errors"].values()) < 1e-4
    assert 0 < found["gradient_error"] < 1e-4


@pytest.mark.parametrize("name", ["POSITION_THRESHOLD", "SCALE_THRESHOLD"])
def test_a_plain_step_with_another_term_is_refused(
    load: Load, cast: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    benchmark, plain_prior = load("prior"), load("plain_prior")
    monkeypatch.setattr(plain_prior, name, 0.95 * getattr(plain_prior, name))
    with pytest.raises(SystemExit, match="differ on the same weights and batch"):
        benchmark.agreement(cast)


def test_each_term_and_the_gradient_are_compared(load: Load) -> None:
    compare, cpu = load("prior").compare, torch.device("cpu")
    terms = {"l1": 0.2, "scale": 0.0, "uv": 2.0}
    assert compare({**terms, "l1": 0.2001}, terms, 1e-4, cpu)["term_errors"] == {
        "l1": pytest.approx(5e-4),
        "scale": 0.0,
        "uv": 0.0,
    }
    for name, value in {"l1": 0.2003, "scale": 1e-6, "uv": float("nan")}.items():
        with pytest.raises(SystemExit, match=re.escape(f"{name} {value:.6g} and ")):
            compare({**terms, name: value}, terms, 1e-4, cpu)
    with pytest.raises(SystemExit, match=r"gradients by 2\.0e-03"):
        compare(terms, terms, 2e-3, cpu)


def test_training_steps_have_lpips_where_plain_ones_do(load: Load, painted: tuple[Path, Any], tmp_path: Path) -> None:
    benchmark, cpu = load("prior"), torch.device("cpu")
    options = argparse.Namespace(prior=PRIOR, lpips=True, vgg=None, seed=0)
    config = benchmark.training_config(options, benchmark.vgg_state(options), tmp_path, cpu)
    assert config.losses.lpips == 0.4
    cast = benchmark.load(painted[1], config, 0, cpu)
    training = benchmark.make_training(cast, tmp_path)
    benchmark.advance(training, next(benchmark.loaded(cast, 1)), cast.rig, 64)
    assert training.window["lpips"] > 0
    assert benchmark.vgg_state(argparse.Namespace(lpips=False)) is None


# the plain step ---------------------------------------------------------------------------------------------------


def test_the_plain_encoder_is_the_package_s(load: Load) -> None:
    config = EncoderConfig(
        input_size=64,
        token_width=64,
        residual_blocks=(2, 3),
        attention_blocks=2,
        heads=4,
        dilations=(1, 2, 5),
    )
    torch.manual_seed(0)
    own, plain = ImageEncoder(config), load("prior").make_plain_encoder(config)
    plain.load_state_dict(own.state_dict())
    images = torch.rand(2, 3, 64, 64)
    expected = own(images)
    assert torch.allclose(plain(images), expected, atol=1e-4 * expected.std().item())


def test_cost_at_full_size(load: Load) -> None:
    """What torch counts for the reference's encoder, and its parameters."""
    benchmark = load("prior")
    assert benchmark.encoder_flops(EncoderConfig()) / 2e9 == pytest.approx(635.9, abs=0.05)
    with torch.device("meta"):
        network = benchmark.make_plain_encoder(EncoderConfig())
    assert sum(parameter.numel() for parameter in network.parameters()) == 80_172_736


def test_the_plain_head_is_the_published_one(load: Load) -> None:
    """14 of its 45 channels are what a published checkpoint's decoder makes of the same features."""
    features = torch.randn(2, 96, 8, 8, generator=torch.Generator().manual_seed(0))
    decoder = published_decoder(torch.ones(8, 8, dtype=torch.bool), torch.ones(N_CHANNELS))
    expected = decoder(features).permute(0, 3, 1, 2)
    channels = load("plain_prior").head_channels(features)
    assert channels.shape == (2, 45, 8, 8)
    color = CHANNELS["color"]
    assert torch.allclose(channels[:, : color.start], expected[:, : color.start], atol=1e-5)
    assert torch.allclose((channels[:, color] - 0.5) / 0.28209479177387814, expected[:, color], atol=1e-5)
    assert torch.allclose(channels[:, 14:], features[:, 34:].unflatten(1, (31, 2)).mean(dim=2), atol=1e-6)


def test_the_plain_loop_learns(load: Load, cast: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a scene falls, with LPIPS in it, and everything that should move does."""
    benchmark, plain_prior = load("prior"), load("plain_prior")
    monkeypatch.setattr(plain_prior, "LEARNING_RATE", 1e-4)
    training = benchmark.plain_training(cast, plain_prior.random_vgg(0), 0)
    scene = benchmark.plain_scenes(cast, 0)[0]
    assert len(set(scene.timesteps)) == 1
    _, terms = training.loss(scene)
    assert set(terms) == set(plain_prior.WEIGHTS)
    assert terms["lpips"] > 0
    before = {name: value.detach().clone() for name, value in training.prior.named_parameters()}
    losses = [training.step(scene, flush=False) for _ in range(8)]
    assert losses[-1] < losses[0]
    moved = {name for name, value in training.prior.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in before if name.startswith("encoder.")} <= moved
    assert f"motion.{scene.person}.jaw_pose" in moved
    assert f"motion.{1 - scene.person}.jaw_pose" not in moved


def test_a_flush_collects_garbage_after_each_step(load: Load, cast: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark, plain_prior = load("prior"), load("plain_prior")
    training = benchmark.plain_training(cast, None, 0)
    scene = benchmark.plain_scenes(cast, 0)[0]
    collected: list[str] = []
    monkeypatch.setattr(plain_prior, "gc", SimpleNamespace(collect=lambda: collected.append("all")))
    training.step(scene, flush=False)
    assert collected == []
    training.step(scene, flush=True)
    assert collected == ["all"]


def test_plain_lpips_is_the_package_s_but_for_its_heads(load: Load, tmp_path: Path) -> None:
    plain_prior = load("plain_prior")
    state = plain_prior.random_vgg(0)
    torch.save(state, tmp_path / "vgg.pt")
    file = WeightFile(path=tmp_path / "vgg.pt", sha256=file_digest(tmp_path / "vgg.pt"))
    package = lpips.load_network("vgg", file, "vgg")
    with torch.no_grad():
        for name, weight in package.named_parameters():
            if name.startswith("lin"):
                weight.fill_(1 / weight.numel())
    images, targets = torch.rand(2, 2, 40, 33, 3, generator=torch.Generator().manual_seed(0))
    expected = lpips.distances(package, images, targets).mean().item()
    assert expected > 0
    assert plain_prior.PlainLpips(state)(images, targets).item() == pytest.approx(expected, rel=1e-3)


# the people -------------------------------------------------------------------------------------------------------


def test_painted_people_are_captures_of_their_maps(load: Load, cast: Any, painted: tuple[Path, Any]) -> None:
    """Different people, seen from everywhere, whom their maps describe; found again, and not painted anew."""
    folder, files = painted
    stores = [CaptureStore(path) for path in files.captures]
    assert [store.subject for store in stores] == ["101", "102", "103"]
    for store in stores:
        assert [len(store.split(name)) for name in ("train", "val", "test")] == [60, 4, 32]
        image, mask = store.image(0, 8), store.mask(0, 8)
        assert image.shape == (88, 64, 3)
        assert 0.1 < (mask > 127).mean() < 0.9
        assert image[mask == 0].min() == 255
    assert np.abs(stores[0].image(0, 8).astype(int) - stores[1].image(0, 8)).mean() > 5
    maps = load_maps(files.maps)
    binding = bind_texels(cast.head.uvs, cast.head.uv_faces, UV_SIZE)
    assert not maps[:, ~binding.mask].any()

    times = [path.stat().st_mtime_ns for path in files.captures]
    people = load("people")
    again = people.paint(folder, people.synthetic_config("64x88", 2, 0), 3, UV_SIZE, torch.device("cpu"))
    assert again == files
    assert [path.stat().st_mtime_ns for path in files.captures] == times


def test_scaling_at_toy_size(run: Run, painted: tuple[Path, Any]) -> None:
    folder, _ = painted
    settings = ["--people", "2", "--seed", "0", "--prior", json.dumps(PRIOR), "--no-lpips", "--devices", "2"]
    result = run("scaling", ["--work", str(folder), *settings, "--size", "64x88", "--images", "7", "--rounds", "2"])
    assert result["prior"]["sources"] == PRIOR["sources"]
    for name in ("loader", "resident"):
        one, both = (result["images_per_s"][name][count] for count in ("1", "2"))
        assert len(one) == len(both) == 2
        assert min(one + both) > 0
        assert result["ratio"][name] == pytest.approx(sum(both) / sum(one))

"""The benchmark of fitting, at toy size on the CPU; and that its plain loop computes what a fit computes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from osgap.capture.batches import Batch
from osgap.capture.store import CaptureStore
from osgap.fit.config import FitConfig, LearningRates, LossWeights
from osgap.fit.optimise import Fit
from osgap.head.assets import load_head
from osgap.head.triangles import triangle_frames
from osgap.metrics.image_metrics import ssim
from osgap.splat.attributes import CHANNELS

Load = Callable[[str], ModuleType]
Run = Callable[[str, Sequence[str]], dict[str, Any]]

REFERENCE = LossWeights(ssim=0.2, position=0.01, position_threshold=1.0, scale=1.0, scale_threshold=0.6, coverage=0.0)
FAST = LearningRates(position=0.1, position_final=0.1, color=0.1, opacity=0.3, scale=0.2, rotation=0.2)


def test_all_parts_at_toy_size(run: Run, work: Path, white_psnr: dict[str, float]) -> None:
    timing = ["--batches", "1", "2", "--images", "2", "--rounds", "3"]
    over_time = ["--visits", "16", "--plain-seconds", "1.5", "--evaluations", "3", "--evaluation-frames", "4"]
    settings = ["--uv-size", "32", "--fit", '{"images_per_step": 4}', "--seed", "0"]
    arguments = ["--work", str(work), *settings, *timing, *over_time, "--long", "2", "--short", "0.5"]
    arguments += ["--profile-visits", "8"]
    result = run("fit", arguments)

    assert result["person"]["images"] == {"train": 60, "val": 4, "test": 32}
    assert (result["person"]["width"], result["person"]["height"]) == (64, 88)
    assert result["fit"]["iterations"] == 4
    assert str(work.parent) not in json.dumps(result)
    assert result["machine"]["threads"] == 1
    check_throughput(result["throughput"])
    check_quality(result["quality"])

    written = result["command"]
    assert written["gaussians"] == result["person"]["gaussians"]
    assert written["images"] == 16
    assert set(written["seconds_of"]) == {"optimising", "measuring"}
    assert written["seconds"] > sum(written["seconds_of"].values())
    assert (written["metrics"]["val"]["frames"], written["metrics"]["test"]["frames"]) == (4, 32)
    for split, white in white_psnr.items():
        fitted = written["metrics"][split]["psnr"]
        assert fitted > white + 3
        assert fitted == pytest.approx(result["quality"]["fit"]["final"][split], abs=1)

    assert set(result["memory"]) == {"resident", "streamed", "plain"}
    for measured in result["memory"].values():
        assert measured["images_per_s"] > 0
        assert measured["allocated_mib"] is None  # on the CPU

    step = result["profile"]
    assert step["images_per_step"] == 4
    assert step["sum_ms"] == pytest.approx(sum(part["ms"] for part in step["parts"].values()))
    for name in ("_Rasterize", "_RasterizeBackward"):  # once in a step: calls are of one step, not of all
        assert step["parts"][name]["calls"] == pytest.approx(1 + 1 / 5), "in every fifth step the coverage is looked at"


def check_throughput(measured: dict[str, Any]) -> None:
    """Rates are the medians of their rounds, and ratios are those of the rates."""
    agreement = measured["agreement"]
    assert agreement["loss"] == pytest.approx(agreement["plain_loss"], rel=1e-4)
    assert set(agreement["gradient_errors"]) == set(CHANNELS)
    assert 0 < max(agreement["gradient_errors"].values()) < 1e-3
    plain = measured["plain"]["images_per_s"]
    assert list(measured["batches"]) == ["1", "2", "4"]
    for size, batched in measured["batches"].items():
        assert len(batched["rounds"]) == 3
        assert batched["images_per_s"] == pytest.approx(np.median(batched["rounds"]))
        assert measured["ratio"][size] == pytest.approx(batched["images_per_s"] / plain)
    assert measured["configured"]["images_per_step"] == 4
    assert measured["configured"]["ratio"] == measured["ratio"]["4"]


def check_quality(measured: dict[str, Any]) -> None:
    """Curves go on to the end of their schedules, and all runs are there."""
    assert measured["evaluated_frames"] == {"val": 4, "test": 4}
    assert measured["plain"]["seconds"] >= 1.5
    for name, images in {"fit": 16, "long": 32, "short": 8}.items():
        assert measured[name]["images"] == images
    for name in ("plain", "fit", "long", "short"):
        curve = measured[name]["curve"]
        for key in ("seconds", "images"):
            values = [point[key] for point in curve]
            assert values == sorted(values)
            assert measured[name][key] == values[-1]
        assert measured[name]["final"] == {split: curve[-1][split] for split in ("val", "test")}
    for split in ("val", "test"):
        gain = measured["long"]["final"][split] - measured["fit"]["final"][split]
        assert measured["long_gains"][split] == pytest.approx(gain)


def test_reached_is_the_first_moment_of_any_run(load: Load) -> None:
    reached = load("fit").reached
    plain = {"seconds": 300.0, "final": {"val": 25.0}}
    slow = {"curve": [{"seconds": 5.0, "val": 24.0}, {"seconds": 10.0, "val": 24.95}, {"seconds": 15.0, "val": 26.0}]}
    short = {"curve": [{"seconds": 1.0, "val": 24.0}, {"seconds": 6.0, "val": 24.9}]}
    found = reached("val", plain, {"fit": slow, "short": short}, 0.1)
    assert found == {"psnr": 24.9, "run": "short", "seconds": 6.0, "ratio": 50.0}
    assert reached("val", plain, {"fit": slow}, 0.1) == {"psnr": 24.9, "run": "fit", "seconds": 10.0, "ratio": 30.0}
    assert reached("val", plain, {"fit": slow}, -2.0)["ratio"] is None


def test_a_plain_loop_with_another_objective_is_refused(
    load: Load, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark, people = load("fit"), load("people")
    files = people.Capture(work / "101.h5", people.head_assets(work / "head"))
    sitter = benchmark.load(files, 32, torch.device("cpu"))
    frames = people.spread(sitter.splits["train"], 2)
    assert benchmark.agreement(sitter, FitConfig(uv_size=32), sitter.store, frames)["images"] == 2
    monkeypatch.setattr(benchmark.plain, "SCALE_WEIGHT", 0.99)
    with pytest.raises(SystemExit, match="differ on the same Gaussians"):
        benchmark.agreement(sitter, FitConfig(uv_size=32), sitter.store, frames)


# the plain loop ---------------------------------------------------------------------------------------------------


def test_losses_and_gradients_are_those_of_a_fit(load: Load, work: Path) -> None:
    """After some steps, when no Gaussian is round any more; image by image, and for a batch."""
    plain, benchmark, people = load("plain"), load("fit"), load("people")
    files = people.Capture(work / "101.h5", people.head_assets(work / "head"))
    sitter = benchmark.load(files, 32, torch.device("cpu"))
    config = FitConfig(uv_size=32, iterations=5, initial_opacity=0.5, learning_rates=FAST, losses=REFERENCE)
    fit = Fit(config, sitter.subject)
    frames = sitter.splits["train"][[0, 17, 40]]
    images = torch.from_numpy(sitter.store.images(frames))
    for step in range(5):
        fit.step(Batch(step, frames, images))

    avatar = plain.PlainAvatar(sitter.head, sitter.binding.faces, fit.attributes.detach(), fit.params)
    loop = plain.PlainFit(avatar, sitter.cameras, frames, images / 255, 0)
    for chosen in ([0], [1], [0, 1, 2]):
        own = fit.loss(Batch(0, frames[chosen], images[chosen]))
        (gradient,) = torch.autograd.grad(own, fit.attributes.channels)
        avatar.zero_grad()
        losses = [loop.loss(*frames[i].tolist(), images[i] / 255) for i in chosen]
        reference = torch.stack(losses).mean()
        reference.backward()
        assert own.item() == pytest.approx(reference.item(), rel=1e-5)
        for name, channels in CHANNELS.items():
            expected = getattr(avatar, name).grad
            assert (gradient[:, channels] - expected).abs().max() < 1e-3 * expected.abs().max(), name


def test_the_head_and_its_frames_are_the_package_s(load: Load, work: Path) -> None:
    plain = load("plain")
    head = load_head(load("people").head_assets(work / "head"))
    params = CaptureStore(work / "101.h5").params
    random = torch.Generator().manual_seed(0)
    motion = {
        name: (values[3] + 0.2 * torch.randn(values[3].shape, generator=random)).requires_grad_()
        for name, values in params.motion.items()
    }
    own = head.vertices(params.replace(**{name: values[None] for name, values in motion.items()}))[0]
    vertices = plain.posed_vertices(head, params.shape, params.static_offset, motion)
    assert torch.allclose(vertices, own, atol=1e-5)
    weights = torch.randn(own.shape, generator=random)
    expected = torch.autograd.grad((own * weights).sum(), list(motion.values()))
    gradients = torch.autograd.grad((vertices * weights).sum(), list(motion.values()))
    for gradient, reference in zip(gradients, expected, strict=True):
        assert (gradient - reference).abs().max() < 1e-3 * reference.abs().max()

    posed = own.detach()
    frames = triangle_frames(posed, head.faces)
    rotation, size, center = plain.face_frames(posed, head.faces)
    assert torch.allclose(size, frames.scale, atol=1e-6)
    assert torch.allclose(center, frames.center, atol=1e-6)
    regular = size[:, 0] > 1e-4  # the directions of a sliver's axes are a matter of rounding
    assert regular.float().mean() > 0.9
    assert torch.allclose(rotation[regular], frames.rotation[regular], atol=1e-3)
    quaternions = plain.unit_quaternions(rotation)[regular]
    cosines = (quaternions * frames.quaternion[regular]).sum(dim=-1).abs()  # the sign is free
    assert cosines.min() > 1 - 1e-5


def test_plain_ssim_is_the_package_s(load: Load) -> None:
    random = torch.Generator().manual_seed(0)
    image, target = torch.rand(2, 30, 23, 3, generator=random)
    expected = ssim(image.double(), target.double())
    assert load("plain").ssim(image, target).item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_plain_loop_learns(load: Load, work: Path) -> None:
    """Loss falls, every image is seen once before any is seen again, and the last step moves little."""
    plain, benchmark, people = load("plain"), load("fit"), load("people")
    files = people.Capture(work / "101.h5", people.head_assets(work / "head"))
    sitter = benchmark.load(files, 32, torch.device("cpu"))
    frames = people.spread(sitter.splits["train"], 4)
    loop = benchmark.plain_fit(sitter, benchmark.initial(sitter, FitConfig(uv_size=32)), sitter.store, frames, 0)
    seen: list[tuple[int, int]] = []
    inner = loop.loss

    def watched(timestep: int, camera: int, target: torch.Tensor) -> torch.Tensor:
        seen.append((timestep, camera))
        return inner(timestep, camera, target)

    loop.loss = watched
    losses = [loop.step(0.0) for _ in range(40)]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert all(sorted(seen[k : k + 4]) == sorted(map(tuple, frames.tolist())) for k in range(0, 40, 4))
    before = loop.avatar.position.detach().clone()
    loop.step(1.0)
    last = (loop.avatar.position.detach() - before).abs().max()
    assert 0 < last < 20 * plain.POSITION_RATES[1]

"""The stage `evaluate` from files to files, on avatars of known quality."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluation.people import SEQUENCES, SERIALS, World
from osgap.capture.config import SourceFrame
from osgap.evaluation.config import EvaluationConfig, LpipsWeights
from osgap.evaluation.methods import METHODS
from osgap.evaluation.stage import EvaluationInputs, EvaluationOutputs, run
from osgap.report.person import PersonFiles
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import file_digest
from osgap.runtime.weights import WeightFile


def _evaluate(world: World, person: PersonFiles, method: str, folder: Path, **options: Any) -> dict[str, Any]:
    config = options.pop("config", EvaluationConfig())
    outputs = EvaluationOutputs(folder / f"{method}.json")
    inputs = EvaluationInputs(person.capture, world.assets, person.avatars[method])
    run(config, inputs, outputs, subject=person.subject, seed=0, method=method, **options)
    return json.loads(outputs.metrics.read_text())


def test_numbers_follow_the_quality_of_the_avatars(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    results = [_evaluate(world, anna, method, tmp_path) for method in METHODS]
    for split in ("novel_view", "self_reenactment"):
        psnr = [result["splits"][split]["mean"]["psnr"] for result in results]
        ssim = [result["splits"][split]["mean"]["ssim"] for result in results]
        assert psnr == sorted(psnr)
        assert ssim == sorted(ssim)
        # The images are renderings of the fit, rounded to 8 bits: the error is uniform in half a grey level.
        limit = -10 * np.log10((1 / 255) ** 2 / 12)
        assert psnr[-1] > limit - 0.5
        assert psnr[0] < 25


def test_what_was_measured_is_said(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    result = _evaluate(world, anna, "one_shot", tmp_path)
    novel, held_out = (result["splits"][name] for name in ("novel_view", "self_reenactment"))
    assert (result["method"], result["subject"]) == ("one_shot", "anna")
    assert novel["cameras"] == [SERIALS[1]]
    assert novel["sequences"] == ["EXP-2-eyes"]
    assert novel["frames"] == SEQUENCES["EXP-2-eyes"]
    assert held_out["cameras"] == SERIALS
    assert held_out["sequences"] == ["EMO-1-shout+laugh"]
    assert held_out["frames"] == SEQUENCES["EMO-1-shout+laugh"] * len(SERIALS)
    assert result["source"]["camera"] != SERIALS[1]
    per_camera = [held_out["per_camera"][serial]["psnr"] for serial in SERIALS]
    assert np.mean(per_camera) == pytest.approx(held_out["mean"]["psnr"])  # as many frames from each camera
    assert held_out["per_sequence"]["EMO-1-shout+laugh"] == held_out["mean"]
    assert 0 <= result["coverage"]["worst"] <= 1
    assert 0 <= result["coverage"]["open"] <= 1
    assert result["coverage"]["pixels"] > 200 * 100
    assert "200 directions" in result["coverage"]["definition"]
    provenance = read_provenance(tmp_path / "one_shot.json")
    assert provenance is not None
    assert provenance["stage"] == "evaluate"
    assert "captures/anna.h5" in provenance["inputs"]


def test_no_weights_no_number(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    result = _evaluate(world, anna, "fit", tmp_path)
    for split in result["splits"].values():
        assert split["mean"]["lpips_alex"] is None
        assert split["mean"]["lpips_vgg"] is None
    assert set(result["missing"]) == {"lpips_alex", "lpips_vgg"}


@pytest.mark.slow
def test_lpips_is_measured_with_the_configured_weights(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(1)
    features = torchvision.models.alexnet().features.state_dict()
    torch.save({f"features.{name}": value for name, value in features.items()}, tmp_path / "alex.pth")
    file = WeightFile(path=tmp_path / "alex.pth", sha256=file_digest(tmp_path / "alex.pth"))
    config = EvaluationConfig(lpips=LpipsWeights(alex=file))
    results = [_evaluate(world, anna, method, tmp_path, config=config) for method in ("mean_avatar", "fit")]
    assert set(results[0]["missing"]) == {"lpips_vgg"}
    worse, better = (result["splits"]["novel_view"]["mean"]["lpips_alex"] for result in results)
    assert 0 < better < 0.01 * worse
    assert results[0]["splits"]["novel_view"]["mean"]["lpips_vgg"] is None
    # Where the file lies is nobody's business; what it holds is.
    assert str(tmp_path) not in (tmp_path / "fit.json").read_text()


def test_two_runs_write_the_same_bytes(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    for name in ("a", "b"):
        _evaluate(world, anna, "prior", tmp_path / name)
    assert (tmp_path / "a/prior.json").read_bytes() == (tmp_path / "b/prior.json").read_bytes()


def test_the_length_of_figures_is_nothing_to_the_numbers(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    for count in (1, 8):
        _evaluate(world, anna, "fit", tmp_path / f"{count}", config=EvaluationConfig(cross_frames=count))
    assert (tmp_path / "1/fit.json").read_bytes() == (tmp_path / "8/fit.json").read_bytes()


def test_somebody_elses_capture_is_refused(world: World, anna: PersonFiles, bert: PersonFiles, tmp_path: Path) -> None:
    mixed = PersonFiles("anna", bert.capture, anna.avatars)
    with pytest.raises(UserError, match="holds the capture of subject bert, but anna is asked for"):
        _evaluate(world, mixed, "fit", tmp_path)


def test_an_unknown_method_is_refused(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    inputs = EvaluationInputs(anna.capture, world.assets, anna.avatars["fit"])
    with pytest.raises(
        UserError,
        match="unknown method 'guess'; the methods are mean_avatar, prior, one_shot, few_shot, all_frames, fit",
    ):
        run(EvaluationConfig(), inputs, EvaluationOutputs(tmp_path / "x.json"), subject="anna", seed=0, method="guess")


def test_the_photograph_must_be_a_training_frame(world: World, anna: PersonFiles, tmp_path: Path) -> None:
    held_out = SourceFrame(sequence="EMO-1", timestep=0, camera=SERIALS[0])
    with pytest.raises(UserError, match="not a training frame"):
        _evaluate(world, anna, "one_shot", tmp_path, source=held_out)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_measures_the_same(
    world: World, anna: PersonFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    results = []
    for name in ("cuda", "cpu"):
        monkeypatch.setattr("osgap.evaluation.stage.lease_gpu", lambda name=name: nullcontext(torch.device(name)))
        results.append(_evaluate(world, anna, "one_shot", tmp_path / name)["splits"])
    for split, measured in results[0].items():
        for metric in ("psnr", "ssim"):
            assert measured["mean"][metric] == pytest.approx(results[1][split]["mean"][metric], rel=1e-4)

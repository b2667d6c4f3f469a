"""Calibration on two training people, and who reads what it found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from osgap.head.editions import KEY
from osgap.prior.calibration.stage import CalibrationInputs, CalibrationOutputs, run
from osgap.prior.config import OneShotConfig, PriorConfig, Supervision, people_to_calibrate_on
from osgap.prior.personalisation.strength import Strength, load_strength
from osgap.prior.training.stage import TrainInputs
from osgap.prior.training.stage import run as train
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from prior.runs import outputs, untrained_prior

CONFIG = OneShotConfig(steps=8, held_out=0.0)


@pytest.fixture(scope="module")
def prior(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_prior(world, tmp_path_factory.mktemp("prior") / "model.pt", 0.0)


def _run(world: Any, prior: Path, file: Path, supervision: Supervision, people: tuple[str, ...]) -> dict[str, Any]:
    torch.set_num_threads(1)
    inputs = CalibrationInputs(tuple(world.capture(person) for person in people), prior, world.assets)
    run(CONFIG, inputs, CalibrationOutputs(file), supervision=supervision, seed=3)
    return json.loads(file.read_text())


@pytest.mark.parametrize("supervision", ["one_shot", "few_shot"])
def test_people_gain_by_the_strength_that_is_found(
    world: Any, prior: Path, tmp_path: Path, supervision: Supervision
) -> None:
    """The prior says the mean of three, whose colours differ: any photograph helps."""
    found = _run(world, prior, tmp_path / "a.json", supervision, ("red", "blue"))
    assert set(found["gained"]) == {"red", "blue"}
    assert min(value for gained in found["gained"].values() for value in gained) >= 0
    assert max(value for gained in found["gained"].values() for value in gained) > 0.3
    strength = load_strength(tmp_path / "a.json", CONFIG.steps)
    assert strength.steps > 0
    provenance = read_provenance(tmp_path / "a.json")
    assert provenance is not None
    assert provenance["stage"] == "calibrate"
    _run(world, prior, tmp_path / "b.json", supervision, ("red", "blue"))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_nobody_and_everything_are_refused(world: Any, prior: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"calibration needs people: name some in subjects\.train, or set"):
        _run(world, prior, tmp_path / "a.json", "one_shot", ())
    with pytest.raises(UserError, match="all_frames has nothing to be calibrated on"):
        _run(world, prior, tmp_path / "a.json", "all_frames", ("red",))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such calibration; run `osgap calibrate`"),
        ("", "holds no strength"),
        ("{}", "holds no strength"),
        ('{"strength": {"steps": 3, "hair": 1}}', "holds no strength"),
        ('{"strength": {"steps": 9}}', "ends after 9 of 8 steps"),
    ],
)
def test_a_damaged_calibration_is_told_so(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "calibration.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_strength(file, 8)


def test_a_strength_is_read_as_it_was_found(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text('{"strength": {"steps": 3, "color": 0.5, "geometry": 0.25, "carried": 0.0}, "gained": {}}')
    assert load_strength(file, 8) == Strength(3, 0.5, 0.25, 0.0)


def test_somebody_tracked_with_another_edition_is_refused(
    world: Any, prior: Path, tmp_path: Path, tiny_prior: PriorConfig
) -> None:
    """By the training, too: coefficients of one edition make other faces on another's head."""
    other = tmp_path / "blue.h5"
    other.write_bytes(world.capture("blue").read_bytes())
    with h5py.File(other, "r+") as file:
        file.attrs[KEY] = json.dumps({"id": "0000000000000000", "name": "FLAME 2020"})
    refused = r"blue\.h5: was made with FLAME 2020 \(0000.* is another edition"
    inputs = CalibrationInputs((world.capture("red"), other), prior, world.assets)
    with pytest.raises(UserError, match=refused):
        run(CONFIG, inputs, CalibrationOutputs(tmp_path / "a.json"), supervision="one_shot", seed=0)
    people = TrainInputs((world.capture("red"), other), (world.maps("red"), world.maps("blue")), world.assets)
    with pytest.raises(UserError, match=refused):
        train(tiny_prior, people, outputs(tmp_path), seed=0)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(
    ("kept_out", "count", "expected"),
    [
        ([], 2, ["a", "d"]),
        ([], 9, list("abcdef")),
        (["e"], 3, ["e", "a", "c"]),
        (["e", "f"], 1, ["e"]),
        (["b", "d", "f"], 6, ["b", "d", "f"]),
        (["b", "d", "f"], 2, ["b", "d"]),
        ([], 0, []),
    ],
)
def test_who_was_not_learned_from_comes_first(kept_out: list[str], count: int, expected: list[str]) -> None:
    assert people_to_calibrate_on(list("abcdef"), kept_out, count) == expected

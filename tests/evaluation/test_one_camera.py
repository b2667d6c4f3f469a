"""A capture of one camera: what it holds out is moments; every stage after the import takes it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from evaluation.people import SEQUENCES, UV_SIZE, World
from osgap.evaluation.config import EvaluationConfig
from osgap.evaluation.splits import NOVEL_VIEW, held_out_camera, measurable
from osgap.evaluation.stage import EvaluationInputs, EvaluationOutputs
from osgap.evaluation.stage import run as evaluate
from osgap.fit.config import FitConfig
from osgap.fit.stage import FitInputs, FitOutputs
from osgap.fit.stage import run as fit
from osgap.head.editions import edition_of, recorded
from osgap.report.config import ReportConfig
from osgap.report.figures.stage import overview, person_figure
from osgap.report.person import Person, PersonFiles
from osgap.report.tables.results import MEAN, described, in_order, rows_of
from osgap.report.videos.stage import VideoInputs, VideoOutputs
from osgap.report.videos.stage import run as video
from osgap.runtime.artifacts import read_provenance


@pytest.fixture(scope="module")
def video_person(world: World) -> PersonFiles:
    first, total = SEQUENCES["EXP-2-eyes"], sum(SEQUENCES.values())
    splits = {
        "train": np.array([(t, 0) for t in range(first)]),
        "val": np.zeros((0, 2), int),
        "test": np.array([(t, 0) for t in range(first, total)]),
    }
    return world.person("vera", 7, splits, 1)


def test_moments_are_measured_and_views_are_not(
    world: World, anna: PersonFiles, video_person: PersonFiles, tmp_path: Path
) -> None:
    results = []
    for person in (anna, video_person):
        outputs = EvaluationOutputs(tmp_path / f"{person.subject}.json")
        inputs = EvaluationInputs(person.capture, world.assets, person.avatars["fit"])
        evaluate(EvaluationConfig(), inputs, outputs, subject=person.subject, seed=0, method="fit")
        results.append(json.loads(outputs.metrics.read_text()))
    splits = results[1]["splits"]
    assert splits["novel_view"]["frames"] == 0
    assert set(splits["novel_view"]["mean"].values()) == {None}
    assert splits["self_reenactment"]["frames"] == SEQUENCES["EMO-1-shout+laugh"]
    assert splits["self_reenactment"]["mean"]["psnr"] > 40
    both = in_order(results, "test")
    rows = {row.subject: row for row in rows_of(both, "novel_view")}
    assert rows["anna"].values["psnr"] is not None
    assert rows["vera"].values["psnr"] is None
    assert rows[MEAN].values["psnr"] is None  # an average over some of the people would mislead
    assert "Not measured, as their captures are of one camera: vera." in described(both, "novel_view", "method")
    assert described(in_order(results[1:], "test"), "novel_view", "method").startswith("Novel view: Not measured")
    assert "Not measured" not in described(both, "self_reenactment", "method")


def test_pictures_show_the_one_camera(world: World, video_person: PersonFiles, tmp_path: Path) -> None:
    person = Person.open(video_person.only("one_shot"), world.head)
    assert held_out_camera(person.store) == 0
    assert not measurable(person.store, NOVEL_VIEW)
    assert person.novel_view().shape == (0, 2)
    assert person_figure(ReportConfig(), person).ndim == 3
    assert overview(ReportConfig(), [person]).ndim == 3
    config = ReportConfig(video_seconds=0.2)
    inputs = VideoInputs(world.assets, video_person)
    made = VideoOutputs(tmp_path / "vera.mp4")
    video(config, inputs, made, subject="vera", seed=0)
    assert cv2.VideoCapture(str(tmp_path / "vera.mp4")).read()[0]


def test_a_fit_needs_no_held_out_camera(world: World, video_person: PersonFiles, tmp_path: Path) -> None:
    outputs = FitOutputs(tmp_path / "vera", tmp_path / "fit.json", tmp_path / "preview.png", tmp_path / "checkpoints")
    config = FitConfig(iterations=3, uv_size=UV_SIZE)
    fit(config, FitInputs(video_person.capture, world.assets), outputs, subject="vera", seed=0)
    metrics = json.loads(outputs.metrics.read_text())["metrics"]
    assert metrics["val"]["psnr"] is None
    assert metrics["test"]["psnr"] > 0
    assert cv2.imread(str(outputs.preview)) is not None
    recorded_edition = recorded(read_provenance(tmp_path / "vera" / "flame_param.npz"))
    assert recorded_edition == edition_of(world.head, world.assets)

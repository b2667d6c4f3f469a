"""Experiments own what they change and share all else, whatever they lay over the config."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osgap.prior.config import SUPERVISIONS
from osgap.runtime.errors import UserError
from osgap.workflow.checks import check_nodes
from osgap.workflow.config import load_config
from osgap.workflow.layout import Layout
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.sharing import keys_of

from .conftest import Checkout, make_checkout

BASE: dict[str, Any] = {
    "subjects": {"train": ["1", "2"], "test": ["8", "9"]},
    "flame": {"assets": {"model": "model.pkl", "masks": "masks.pkl", "template": "template.obj"}},
    "prior": {"steps": 30},
    "oneshot": {"supervision": ["one_shot", "few_shot"]},
}
PARTS = set(keys_of(load_config([BASE])))
"""All parts that an experiment may have for itself."""


def keys(**values: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of these keys, each with one of its values; the first is that of `BASE`."""
    return st.fixed_dictionaries({}, optional={key: st.sampled_from(known) for key, known in values.items()})


OVERLAYS = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.sampled_from([None, 0, 5]),
        "prior": keys(steps=[30, 10], learning_rate=[2e-4, 1e-3], losses=[{"l1": 0.8}, {"l1": 1.0}], workers=[8, 0]),
        "oneshot": keys(
            supervision=[["one_shot", "few_shot"], ["few_shot"], [*SUPERVISIONS]],
            few_shot_photos=[3, 5],
            frames_per_step=[4, 8],
            steps=[100, 20],
        ),
        "evaluation": keys(cross_frames=[8, 4]),
    },
)
LISTS = st.lists(OVERLAYS, max_size=5)


def pipeline(overlays: list[dict[str, Any]]) -> Pipeline:
    """A run with the experiments e0, e1, …"""
    return Pipeline(load_config([{**BASE, "experiments": {f"e{i}": overlay for i, overlay in enumerate(overlays)}}]))


def own(run: Pipeline) -> set[str]:
    """What an experiment has for itself."""
    return {part for part, place in run.layout.places.items() if place == f"experiments/{run.name}/"}


def files(run: Pipeline) -> list[Path]:
    """All that the report of an experiment is made of, and the report itself."""
    test = run.config.subjects.test
    avatars = [file for method in run.methods for subject in test for file in run.avatar_files(method, subject)]
    return [*run.report_files, *run.metric_files(test), *avatars]


# what is whose -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlay", "owned"),
    [
        ({}, set()),
        ({"seed": 0, "prior": {"steps": 30}, "oneshot": {}, "evaluation": {"cross_frames": 8}}, set()),
        ({"prior": {"workers": 3, "checkpoint_every": 7}, "oneshot": {"checkpoint_every": 3}}, set()),
        ({"prior": {"steps": 10}}, PARTS - {"metrics/fit"}),
        ({"prior": {"losses": {"ssim": 0.5}}}, PARTS - {"metrics/fit"}),
        ({"seed": 1}, PARTS - {"metrics/fit"}),
        ({"oneshot": {"smooth": 0.2}}, PARTS - {"prior", "metrics/mean_avatar", "metrics/fit"}),
        (
            {"oneshot": {"steps": 20}},
            PARTS - {"prior", "metrics/mean_avatar", "metrics/fit", "all_frames", "metrics/all_frames"},
        ),
        ({"oneshot": {"few_shot_photos": 5}}, {"few_shot", "metrics/few_shot", "report"}),
        ({"oneshot": {"frames_per_step": 8}}, {"all_frames", "metrics/all_frames"}),
        ({"oneshot": {"supervision": ["one_shot"]}}, {"report"}),
        ({"evaluation": {"cross_frames": 4}}, {"report"}),
        (
            {"evaluation": {"lpips": {"alex": {"path": "alex.pth", "sha256": "7be5be79"}}}},
            {part for part in PARTS if part.startswith("metrics/")} | {"report"},
        ),
    ],
)
def test_an_experiment_owns_what_its_overlay_changes(overlay: dict[str, Any], owned: set[str]) -> None:
    run = pipeline([overlay]).experiments["e0"]
    assert own(run) == owned
    assert set(run.layout.places) == owned, "the rest is the dataset's"
    for file in files(run):
        assert file.is_relative_to("results")
    prior = Path("results/experiments/e0" if "prior" in owned else "results")
    assert run.layout.prior == prior / "prior"
    assert run.layout.checkpoints("train") == prior / "checkpoints/train/all", "with what it is a checkpoint of"
    assert run.layout.log("train") == prior / "logs/train.log"
    assert run.layout.fit("1") == Path("results/avatars/1"), "fits are everybody's"


@given(LISTS)
@settings(max_examples=60, deadline=None)
def test_every_part_is_in_the_results_folder_or_with_one_who_owns_it(overlays: list[dict[str, Any]]) -> None:
    base = pipeline(overlays)
    seen: dict[str, Pipeline] = {"": base}
    for run in base.runs[: len(overlays)]:
        seen[f"experiments/{run.name}/"] = run
        assert set(run.layout.places) <= PARTS
        for part, place in run.layout.places.items():
            assert place in seen, "of this experiment, or of one that is listed before it"
            assert seen[place].layout.places[part] == place
            assert base.of(place) is seen[place]


@given(LISTS)
@settings(max_examples=60, deadline=None)
def test_what_is_shared_is_made_the_same_way(overlays: list[dict[str, Any]]) -> None:
    """Whoever's folder a file lies in, the job that makes it there is told what each of its users would be told."""
    base = pipeline(overlays)
    for run in base.runs:
        places = {part: run.layout.places.get(part, "") for part in PARTS}
        maker = {part: base.of(place) for part, place in places.items()}
        assert maker["prior"].settings("train") == run.settings("train")
        for name in SUPERVISIONS:
            assert maker[name].layout.prior == run.layout.prior
            assert maker[name].settings("oneshot", "8", supervision=name) == run.settings(
                "oneshot", "8", supervision=name
            )
        for method in run.methods:
            measured = maker[f"metrics/{method}"]
            assert measured.avatar_files(method, "8") == run.avatar_files(method, "8")
            told = [json.loads(user.settings("evaluate", "8")) for user in (measured, run)]
            if method == "fit":  # which no seed of an experiment changes
                told = [{key: value for key, value in each.items() if key != "seed"} for each in told]
            assert told[0] == told[1]
        report = maker["report"]
        assert report.metric_files(["8", "9"]) == run.metric_files(["8", "9"])
        for subject in ("8", "9"):
            assert report.shown_files(subject) == run.shown_files(subject)
            assert report.video_files(subject) == run.video_files(subject)
        for stage in ("tables", "figure", "video"):
            for key in ("report.expressions", "evaluation.cross_frames"):
                assert report.settings(stage, "8", keys=[key]) == run.settings(stage, "8", keys=[key])


@given(OVERLAYS, LISTS)
@settings(max_examples=40, deadline=None)
def test_equal_overlays_share_everything(overlay: dict[str, Any], others: list[dict[str, Any]]) -> None:
    first, *_, last = pipeline([overlay, *others, overlay]).experiments.values()
    assert last.layout.places == first.layout.places
    assert own(last) == set()


@given(LISTS, OVERLAYS)
@settings(max_examples=40, deadline=None)
def test_one_more_experiment_at_the_end_moves_nothing(overlays: list[dict[str, Any]], more: dict[str, Any]) -> None:
    before, after = pipeline(overlays), pipeline([*overlays, more])
    assert [*after.experiments][:-1] == [*before.experiments]
    for name, run in before.experiments.items():
        assert after.experiments[name].layout == run.layout
        assert files(after.experiments[name]) == files(run)


def test_an_experiment_shares_with_the_config_before_others_and_with_the_first_of_those() -> None:
    short, long = {"prior": {"steps": 10}}, {"prior": {"steps": 90}}
    runs = pipeline([short, {}, long, short, {**long, "oneshot": {"steps": 20}}]).experiments
    assert own(runs["e1"]) == set()
    assert set(runs["e1"].layout.places.values()) == set()
    assert set(runs["e3"].layout.places.values()) == {"experiments/e0/"}
    assert runs["e4"].layout.places["prior"] == "experiments/e2/"
    assert runs["e4"].layout.places["one_shot"] == "experiments/e4/"
    assert runs["e4"].layout.places["metrics/mean_avatar"] == "experiments/e2/"


# paths and rules ---------------------------------------------------------------------------------------------


@given(LISTS)
@settings(max_examples=40, deadline=None)
def test_the_wildcard_of_the_rules_finds_every_path(overlays: list[dict[str, Any]]) -> None:
    base = pipeline(overlays)
    for run in base.runs:
        for part, layout_of in {
            "prior": lambda layout: layout.prior / "model.pt",
            "one_shot": lambda layout: layout.oneshot("8") / "oneshot.json",
            "metrics/prior": lambda layout: layout.metrics("prior", "8"),
            "report": lambda layout: layout.table("novel_view", "csv"),
        }.items():
            path, pattern = str(layout_of(run.layout)), str(layout_of(base.pattern))
            place = run.layout.places.get(part, "")
            assert pattern.format(experiment=place) == path
            wildcard = re.escape(pattern).replace(re.escape("{experiment}"), f"(?P<place>{base.places})")
            found = re.fullmatch(wildcard, path)
            assert found is not None
            assert found["place"] == place


@given(LISTS)
@settings(max_examples=40, deadline=None)
def test_a_job_has_the_config_and_the_paths_of_its_experiment(overlays: list[dict[str, Any]]) -> None:
    base = pipeline(overlays)
    for run in base.runs:
        for stage, section in (("train", "prior"), ("oneshot", "oneshot"), ("evaluate", "evaluation")):
            job = load_config([base.operation, run.settings(stage)])
            told, meant = getattr(job, section).computation(), getattr(run.config, section).computation()
            if section == "evaluation":
                told, meant = told["lpips"], meant["lpips"]
            assert told == meant
            assert job.seed == run.config.seed
        assert Layout(base.config.results, run.layout.places) == run.layout


def test_everything_of_all_experiments_is_a_target_once() -> None:
    base = pipeline([{}, {"prior": {"steps": 10}}, {"prior": {"steps": 10}}])
    targets = base.targets
    assert len(targets) == len(set(targets))
    for run in base.experiments.values():
        assert set(run.report_files) <= set(targets)
    compared = {Path("results/experiments") / name for name in ("summary.json", "novel_view.csv", "novel_view.tex")}
    assert compared <= set(targets)
    assert not compared & set(pipeline([]).targets)
    assert pipeline([]).targets == Pipeline(load_config([BASE])).targets


# what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("experiments", "said"),
    [
        ({"e1": {"prior": {"stpes": 1}}}, r"experiments\.e1\.prior\.stpes: unknown key; did you mean `steps`\?"),
        (
            {"e1": {"prior": {"losses": {"ssmi": 1}}}},
            r"experiments\.e1\.prior\.losses\.ssmi: unknown key; did you mean `ssim`",
        ),
        ({"e1": {"oneshot": {"steps": "many"}}}, r'experiments\.e1\.oneshot\.steps: found "many"'),
        ({"e1": {"evaluation": {"cross_frames": 0}}}, r"experiments\.e1\.evaluation\.cross_frames: found 0"),
        ({"e1": {"fit": {"iterations": 1}}}, r"experiments\.e1\.fit: unknown key"),
        ({"e1": {"seed": -1}}, r"experiments\.e1\.seed: found -1"),
        ({"../e1": {}}, r"experiment '\.\./e1' names a folder"),
        ({"": {}}, r"experiment '' names a folder"),
        ({"provenance": {}}, "experiment 'provenance': the experiments' summary has its own; give it another name"),
    ],
)
def test_a_wrong_overlay_is_refused_by_name(experiments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config([{**BASE, "experiments": {"fine": {}, **experiments}}])


def test_an_experiment_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"experiment e7: the config has none of that name; its section .* has e0, e1"):
        pipeline([{}, {}]).run("e7")
    with pytest.raises(UserError, match=r"experiment e7: .* has none"):
        pipeline([]).run("e7")


# Snakemake ---------------------------------------------------------------------------------------------------

TWO = "experiments={full: {}, short: {prior: {steps: 6}}}"
THREE = "experiments={full: {}, short: {prior: {steps: 6}}, again: {seed: 1, prior: {steps: 6}}}"


@pytest.mark.slow
def test_two_experiments_are_one_set_of_fits_two_trainings_and_one_table(tmp_path: Path) -> None:
    checkout: Checkout = make_checkout(tmp_path / "checkout")
    one, two = checkout.planned(), checkout.planned("--config", TWO)
    assert "ablation" not in one
    assert two["ablation"] == 1
    for rule in ("synthetic_head", "synthetic_person", "download", "import_tracking", "fit", "bake"):
        assert two[rule] == one[rule], rule
    for rule in ("train", "calibrate", "oneshot", "tables", "overview", "person_figure", "cross_figure", "video"):
        assert two[rule] == 2 * one[rule], rule
    assert two["evaluate"] == 2 * one["evaluate"] - 1, "the test person's fit is measured once"
    more = checkout.planned("--config", THREE)
    added = {rule: more[rule] - count for rule, count in two.items() if more[rule] != count}
    again = ("train", "calibrate", "oneshot", "tables", "overview", "person_figure", "cross_figure", "video")
    assert added == {**{rule: one[rule] for rule in again}, "evaluate": one["evaluate"] - 1}


@pytest.mark.slow
def test_a_finished_run_becomes_an_experiment_and_only_the_other_is_made(checkout: Checkout) -> None:
    """What was made without experiments is what an experiment without changes shares."""
    assert checkout.planned("--config", TWO) == {
        "train": 1,
        "calibrate": 1,
        "oneshot": 1,
        "evaluate": 3,
        "tables": 1,
        "overview": 1,
        "person_figure": 1,
        "cross_figure": 1,
        "video": 1,
        "ablation": 1,
    }
    assert checkout.planned("--config", "experiments={full: {}}") == {"ablation": 1}


# what its training asks for ----------------------------------------------------------------------------------


def test_each_training_asks_for_what_its_own_config_needs() -> None:
    base = pipeline([{}, {"prior": {"devices": 4, "steps": 40}}])
    asked = base.resources("train")
    for name, run in base.experiments.items():
        wildcards = SimpleNamespace(experiment=f"experiments/{name}/")
        for attempt in (1, 2):
            own = {key: v(wildcards, attempt) if callable(v) else v for key, v in run.resources("train").items()}
            assert {key: value(wildcards, attempt) for key, value in asked.items()} == own
    assert asked["gpu"](SimpleNamespace(experiment="experiments/e1/"), 1) == 4
    assert asked["gpu"](SimpleNamespace(experiment=""), 1) == 1


@pytest.mark.parametrize("overlay", [{"prior": {"nodes": 2}}, {"prior": {"nodes": 2, "devices": 2}}])
def test_all_experiments_train_on_as_many_machines(overlay: dict[str, Any]) -> None:
    check_nodes(pipeline([{}, {"prior": {"devices": 4}}]))
    with pytest.raises(UserError, match=r"experiments\.e1\.prior: 2 machines"):
        check_nodes(pipeline([{}, overlay]))

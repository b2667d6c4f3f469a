"""What can be seen to be wrong stops the run before its first job; what a job is told is what it uses."""

from __future__ import annotations

import importlib
import json
import operator
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from osgap.capture.config import URL_VARIABLE
from osgap.prior.config import SUPERVISIONS, Supervision
from osgap.runtime.errors import UserError
from osgap.workflow.checks import check
from osgap.workflow.config import deep_merge, load_config
from osgap.workflow.launch import prepare
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.stages import STAGES

ROOT = Path(__file__).parents[2]
DEMO = [ROOT / "config.yaml", ROOT / "profiles/demo/demo.yaml"]


@pytest.fixture
def demo() -> Pipeline:
    return Pipeline(load_config(DEMO))


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A config of a real run whose files all exist."""
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("model", "masks", "template"):
        (tmp_path / name).write_text("")
    for subject in ("017", "024"):
        (tmp_path / "tracking" / subject).mkdir(parents=True)
        (tmp_path / "tracking" / subject / "transforms.json").write_text("{}")
    (tmp_path / "nersemble").mkdir()
    (tmp_path / "nersemble" / "metadata_sequences.csv").write_text("ID\n17\n24\n")
    return {
        "results": str(tmp_path / "results"),
        "subjects": {"train": ["017"], "test": ["024"]},
        "flame": {"assets": {name: str(tmp_path / name) for name in ("model", "masks", "template")}},
        "capture": {
            "tracking": str(tmp_path / "tracking" / "{subject}"),
            "url": (tmp_path / "nersemble").as_uri(),
        },
    }


def test_a_complete_config_passes(real: dict[str, Any]) -> None:
    check(Pipeline(load_config([real])))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"flame": {"assets": None}}, ["flame.assets", "make demo"]),
        ({"flame": {"assets": {"model": "/absent/flame2023.pkl"}}}, ["/absent/flame2023.pkl", "no such file"]),
        ({"capture": {"url": None}}, [URL_VARIABLE, "download: false"]),
        ({"capture": {"url": "file:///absent"}}, ["capture.url"]),
        ({"capture": {"tracking": "/absent/{subject}"}}, ["/absent/017", "/absent/024"]),
        ({"subjects": {"train": []}}, ["subjects.train", "empty"]),
        ({"subjects": {"test": []}}, ["subjects.test", "empty"]),
        ({"subjects": {"entries": {"099": {}}}}, ["099", "subjects.entries"]),
        ({"subjects": {"entries": {"024": {"participant": 17}}}}, ["024", "017", "same", "unseen"]),
        ({"subjects": {"entries": {"024": {"driver": "099"}}}}, ["subjects.entries.024.driver", "099", "name one"]),
        ({"subjects": {"entries": {"024": {"driver": "024"}}}}, ["subjects.entries.024.driver", "themselves"]),
        ({"experiments": {"a": {"prior": {"validation": ["099"]}}}}, ["experiment a", "prior.validation", "099"]),
        (
            {"experiments": {"a": {"prior": {"vgg": {"path": "/absent/vgg16.pth", "sha256": "397923af"}}}}},
            ["experiment a", "prior.vgg", "/absent/vgg16.pth", "no such file"],
        ),
        (
            {"prior": {"vgg": {"path": "/absent/vgg16.pth", "sha256": "397923af"}}},
            ["prior.vgg", "/absent/vgg16.pth", "no such file"],
        ),
        ({"prior": {"validation": ["024"]}}, ["prior.validation", "024", "subjects.train"]),
        ({"prior": {"validation": ["017"]}}, ["prior.validation", "all training people"]),
    ],
)
def test_problems_are_found_before_any_job(real: dict[str, Any], change: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check(Pipeline(load_config([deep_merge(real, change)])))
    for words in said:
        assert words in str(caught.value)


def test_all_problems_at_once(real: dict[str, Any]) -> None:
    change = {"flame": {"assets": None}, "capture": {"url": None, "tracking": "/absent"}}
    with pytest.raises(UserError) as caught:
        check(Pipeline(load_config([deep_merge(real, change)])))
    for words in ("flame.assets", URL_VARIABLE, "/absent"):
        assert words in str(caught.value)


def test_snakemake_stops_with_the_message(real: dict[str, Any], tmp_path: Path) -> None:
    real["subjects"]["test"] = ["017"]
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(real))
    command = [sys.executable, "-m", "snakemake", "--directory", str(tmp_path), "-s", str(ROOT / "Snakefile")]
    environment = {**os.environ, "HOME": str(tmp_path)}
    arguments = ["--configfile", str(ROOT / "config.yaml"), str(path), "--dry-run"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "subject 017 is in both subjects.train and subjects.test" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("stage", STAGES)
def test_jobs_are_told_what_they_use_and_nothing_else(demo: Pipeline, stage: str) -> None:
    told = json.loads(demo.settings(stage))
    spec = STAGES[stage]
    used = {name.partition(".")[0] for name in spec.sections}
    for section in ("fit", "prior", "oneshot", "evaluation", "report"):
        assert (section in told) <= (section in used), section
    assert "train" not in told.get("subjects", {}), "a new person must not concern the others"
    assert ("synthetic" in told) == ("synthetic" in used)
    again = Pipeline(load_config([demo.operation, demo.settings(stage)]))
    assert again.layout == demo.layout
    for name in spec.sections:
        expected = operator.attrgetter(name)(demo.config)
        if name == "capture":
            expected = expected.model_copy(update={"url": None})
        assert operator.attrgetter(name)(again.config) == expected, name


@pytest.mark.parametrize("stage", STAGES)
def test_the_work_of_a_stage_is_the_run_of_a_module_called_stage(stage: str) -> None:
    module = STAGES[stage].module
    assert module.rpartition(".")[2] == "stage"
    assert callable(importlib.import_module(module).run)


def test_the_looks_of_synthetic_people_concern_those_who_make_them(demo: Pipeline) -> None:
    others = Pipeline(load_config([*DEMO, {"synthetic": {"samples_per_axis": 3}}]))
    changed = {stage for stage in STAGES if others.settings(stage, "101") != demo.settings(stage, "101")}
    assert changed == {"synthetic-person"}


def test_an_entry_reaches_its_own_subject_only() -> None:
    entry = {"source": {"sequence": "EXP-5-mouth", "timestep": 1, "camera": "222200036"}}
    config = load_config([*DEMO, {"subjects": {"entries": {"201": entry}}}])
    pipeline = Pipeline(config)
    assert json.loads(pipeline.settings("oneshot", "201"))["subjects"] == {"entries": {"201": entry}}
    assert "subjects" not in json.loads(pipeline.settings("oneshot", "202"))
    for stage in ("synthetic-person", "download", "import", "fit"):
        assert "subjects" not in json.loads(pipeline.settings(stage, "201")), "a photograph is chosen after the import"
    assert pipeline.settings("fit", "201") == pipeline.settings("fit", "202")


def test_another_supervision_concerns_its_own_jobs_and_the_report() -> None:
    before = Pipeline(load_config(DEMO))
    after = Pipeline(load_config([*DEMO, {"oneshot": {"supervision": ["few_shot", "one_shot"], "few_shot_photos": 4}}]))

    def changed(stage: str, supervision: Supervision | None = None) -> bool:
        return before.settings(stage, "201", supervision=supervision) != after.settings(
            stage, "201", supervision=supervision
        )

    for stage in ("calibrate", "oneshot"):
        assert [supervision for supervision in SUPERVISIONS if changed(stage, supervision)] == ["few_shot"]
    others = set(STAGES) - {"calibrate", "oneshot"}
    assert {stage for stage in others if changed(stage)} == {"tables", "figure", "video"}
    told = json.loads(after.settings("tables"))
    assert told["oneshot"] == {"supervision": ["few_shot", "one_shot"]}
    job = load_config([after.operation, after.settings("oneshot", "201", supervision="few_shot")]).oneshot
    assert list(job.supervision) == ["few_shot"]
    assert job == after.config.oneshot.concerning("few_shot").model_copy(update={"supervision": job.supervision})
    assert job.few_shot_photos == 4
    assert after.config.oneshot.concerning("one_shot") == before.config.oneshot


@pytest.mark.parametrize(
    ("supervision", "methods"),
    [
        (["one_shot"], ["mean_avatar", "prior", "one_shot", "fit"]),
        (["few_shot"], ["mean_avatar", "prior", "few_shot", "fit"]),
        (["all_frames", "one_shot", "few_shot"], ["mean_avatar", "prior", "one_shot", "few_shot", "all_frames", "fit"]),
    ],
)
def test_the_run_has_the_methods_of_its_supervision(supervision: list[str], methods: list[str]) -> None:
    pipeline = Pipeline(load_config([*DEMO, {"oneshot": {"supervision": supervision}}]))
    assert pipeline.methods == methods
    assert [path.parent.name for path in pipeline.metric_files(["201"])] == methods
    shown = {path.parent for path in pipeline.shown_files("201")}
    assert {pipeline.avatar(method, "201") for method in methods[1:]} <= shown
    results = pipeline.layout.results
    folders = {"one_shot": "oneshot", "few_shot": "few_shot", "all_frames": "all_frames"}
    for kind, folder in folders.items():
        assert pipeline.avatar(kind, "201") == results / folder / "201"
        assert (results / folder / "201" in shown) == (kind in supervision)
    with pytest.raises(UserError, match="unknown method 'guess'; the methods are mean_avatar, prior, one_shot"):
        pipeline.avatar("guess", "201")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"supervision": ["two_shot"]}, "oneshot.supervision.0"),
        ({"supervision": []}, "oneshot.supervision"),
        ({"supervision": ["few_shot", "few_shot"]}, "few_shot stands more than once"),
        ({"tracking": {"hair": 1}}, "oneshot.tracking.hair"),
        ({"few_shot_photos": 1}, "oneshot.few_shot_photos"),
    ],
)
def test_wrong_supervision_stops_the_run(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config([*DEMO, {"oneshot": change}])


def test_the_secret_is_on_no_command_line(real: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv(URL_VARIABLE, "")
    real["capture"]["url"] = real["capture"]["url"] + "?token=s3cret"
    real["capture"]["download"] = True
    pipeline = Pipeline(load_config([real]))
    for stage in STAGES:
        assert "s3cret" not in pipeline.settings(stage, "017")


def test_the_secret_reaches_jobs_through_the_environment(real: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv(URL_VARIABLE, "")
    prepare(real, SimpleNamespace(persistence=None, is_main_process=True))
    assert os.environ[URL_VARIABLE] == real["capture"]["url"]


def test_a_jobs_own_snakemake_looks_for_nobodys_files(real: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv(URL_VARIABLE, "")
    real["capture"]["tracking"] = "nowhere/{subject}"
    with pytest.raises(UserError, match="nowhere/"):
        prepare(real, SimpleNamespace(persistence=None, is_main_process=True))
    prepare(real, SimpleNamespace(persistence=None, is_main_process=False))


def test_a_folder_is_a_data_url(real: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("nersemble", str(tmp_path / "nersemble")):
        check(Pipeline(load_config([deep_merge(real, {"capture": {"url": folder}})])))
    with pytest.raises(UserError, match=r"capture\.url.*local folder that does not exist"):
        check(Pipeline(load_config([deep_merge(real, {"capture": {"url": "absent"}})])))


@pytest.mark.parametrize(
    ("subject", "train", "driver"),
    [
        ("2", ["1"], "1"),
        ("201", ["101", "301", "202"], "202"),  # the next in alphabetical order
        ("401", ["301", "101"], "101"),  # of the last the first
        ("101", ["101", "301"], "301"),  # who trains as well
    ],
)
def test_drivers_are_the_next_training_person(subject: str, train: list[str], driver: str) -> None:
    for test in ([subject], [subject, "2010"], ["0", subject, "999"]):
        people = {"train": train, "test": [person for person in test if person not in train]}
        assert Pipeline(load_config([{"subjects": people}])).driver(subject) == driver


def test_a_driver_may_be_named(real: dict[str, Any]) -> None:
    people = {"subjects": {"train": ["017", "018"]}}
    named = {"subjects": {"entries": {"024": {"driver": "018"}}}}
    assert Pipeline(load_config([real, people])).driver("024") == "017"
    assert Pipeline(load_config([real, people, named])).driver("024") == "018"
    assert Pipeline(load_config([real, people, named])).driver("017") == "018"

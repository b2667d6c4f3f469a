"""The sweep over priors and ways of personalisation: who and what it makes, when, and what its tables say."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from osgap.runtime.errors import UserError
from osgap.workflow.config import load_config
from osgap.workflow.jobs import Job, jobs
from osgap.workflow.pipeline import Pipeline

Load = Callable[[str], ModuleType]

REPOSITORY = Path(__file__).resolve().parents[2]
STUDY = str(REPOSITORY / "profiles/study/study.yaml")
VARIANTS = {
    "priors": {"published": {}, "short": {"prior": {"steps": 2}}},
    "personalisations": {"default": {}, "gentle": {"oneshot": {"steps": 1}}},
}


@pytest.fixture(scope="module")
def modules(load: Load) -> dict[str, Any]:
    return {name: load(name) for name in ("workers", "sheets", "comparison", "sweep", "photographs")}


@pytest.fixture
def configured(modules: dict[str, Any], tmp_path: Path) -> Callable[..., tuple[Any, Any, Any]]:
    """What the command makes of options and variants."""

    def make(*arguments: str, variants: Mapping[str, Any] = VARIANTS) -> tuple[Any, Any, Any]:
        photographs = modules["photographs"]
        file = tmp_path / "variants.yaml"
        file.write_text(yaml.safe_dump(dict(variants)))
        command = ["--results", str(tmp_path / "results"), "--variants", str(file), *arguments]
        options = photographs._parser().parse_args(command)
        return photographs.configured(options, photographs._read_variants(options.variants))

    return make


# who and what -------------------------------------------------------------------------------------------------


def test_every_prior_with_every_personalisation_is_an_experiment(configured: Callable[..., Any]) -> None:
    common, variants, _ = configured("--config", STUDY, "--repeat", "2")
    pipeline = Pipeline(load_config(common.sources, common.set))
    assert [variant.name for variant in variants] == [
        *("published-default", "published-gentle", "short-default", "short-gentle"),
        *("published-default-run2", "published-gentle-run2", "short-default-run2", "short-gentle-run2"),
    ]
    assert [*pipeline.experiments] == [variant.name for variant in variants]
    short = pipeline.run("short-gentle-run2").config
    assert (short.prior.steps, short.oneshot.steps, short.seed) == (2, 1, 1)
    assert pipeline.run("published-default").layout == pipeline.run(None).layout  # what changes nothing has no folder
    trained = [job for job in jobs(pipeline) if job.stage == "train"]
    assert len(trained) == 4  # two priors, two seeds: personalisations share them


def test_people_are_cut_and_halves_are_apart(configured: Callable[..., Any]) -> None:
    listed = {"tune": {"study": ["301", "302"]}, "report": {"study": ["201", "202", "203"]}}
    arguments = ["--config", STUDY, "--people", "5", "1"]
    first = ["101", "102", "103", "104", "105"]
    for half, whom, kept_out in (("tune", ["301"], []), ("report", ["201"], ["301", "302"])):
        common, _, halves = configured(*arguments, "--half", half, variants={**VARIANTS, **listed})
        config = load_config(common.sources, common.set)
        assert config.subjects.train == [*first, *kept_out]
        assert config.subjects.test == whom
        assert config.prior.validation == tuple(kept_out)  # 141 and 142 are not among the five
        assert halves == {half: people["study"] for half, people in listed.items()}
    with pytest.raises(UserError, match="tune names nobody of study"):
        configured(*arguments, "--half", "tune")


def test_an_export_of_people_is_named_by_its_folder(configured: Callable[..., Any], tmp_path: Path) -> None:
    profile = REPOSITORY / "profiles/study/makehuman.yaml"
    common, _, _ = configured("--config", str(profile), "--exports", "people")
    pipeline = Pipeline(load_config(common.sources, common.set))
    assert pipeline.tracking_pattern("subject_003") == "people/subject_003"
    assert [str(path) for path in pipeline.head_files] == [
        f"people/model/head_{name}" for name in ("model.pkl", "masks.pkl", "template.obj")
    ]
    people = pipeline.config.subjects
    assert len(people.train) == 24
    chosen = yaml.safe_load((REPOSITORY / "benchmarks/photographs.yaml").read_text())
    assert chosen["report"]["makehuman"] == people.test
    assert not {*chosen["tune"]["makehuman"]} & {*people.all}


def test_what_is_no_variant_is_refused(configured: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="expected `priors`"):
        configured("--config", STUDY, variants={"priors": {}})
    common, _, _ = configured("--config", STUDY, variants={"priors": {"a": {"prior": {"stpes": 3}}}})
    with pytest.raises(UserError, match="did you mean `steps`"):
        load_config(common.sources, common.set)


# when ---------------------------------------------------------------------------------------------------------


def test_a_setting_makes_undone_what_depends_on_it_alone(configured: Callable[..., Any], modules: Any) -> None:
    def jobs_and_ledger(*arguments: str, any_code: bool = False) -> tuple[list[Job], Any]:
        common, _, _ = configured("--config", STUDY, "--people", "1", "1", *arguments)
        pipeline = Pipeline(load_config(common.sources, common.set))
        listed = [job for job in jobs(pipeline) if job.stage in modules["sweep"].STAGES_IN_ORDER]
        return listed, modules["sweep"].Ledger(pipeline, listed, any_code)

    listed, ledger = jobs_and_ledger()
    assert not any(ledger.is_done(job) for job in listed)
    for job in listed:
        for path in job.outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert not any(ledger.is_done(job) for job in listed)  # files alone are nobody's word
    for job in listed:
        ledger.add(job)
    listed, ledger = jobs_and_ledger()
    assert all(ledger.is_done(job) for job in listed)

    def undone(*arguments: str) -> set[str]:
        listed, ledger = jobs_and_ledger("--set", *arguments)
        return {job.stage for job in listed if not ledger.is_done(job)}

    assert undone("oneshot.steps=7") == {"calibrate", "oneshot", "evaluate"}
    assert undone("prior.warmup=7") == {"train", "calibrate", "oneshot", "evaluate"}
    assert undone("fit.iterations=7") == {"fit", "bake", "train", "calibrate", "oneshot", "evaluate"}
    assert undone("prior.workers=3") == set()
    listed[0].outputs[0].unlink()
    assert not ledger.is_done(listed[0])

    made = json.loads(ledger._file.read_text())
    ledger._file.write_text(json.dumps({name: {**keys, "code": "other"} for name, keys in made.items()}))
    for any_code in (False, True):
        listed, ledger = jobs_and_ledger(any_code=any_code)
        assert {ledger.is_done(job) for job in listed[1:]} == {any_code}


class FakeWorker:
    """Answers at once; fails where it is told to."""

    process = None
    fails: set[str] = set()
    began: list[str] = []

    def __init__(self, kind: str, card: str, threads: int) -> None:
        self.kind, self.since = kind, 0.0
        self.job: Job | None = None

    def begin(self, job: Job, common: Any, now: float) -> None:
        self.job = job
        self.began.append(job.name)
        self.connection = os.open(os.devnull, os.O_RDONLY)

    def answer(self) -> tuple[str, float, str]:
        os.close(self.connection)
        assert self.job is not None
        return ("failed" if self.job.name in self.fails else "done"), 1.0, "no reason"

    def stop(self) -> None:
        raise AssertionError

    def end(self) -> None:
        assert self.job is None


def test_what_failed_jobs_were_to_make_is_not_used(
    configured: Callable[..., Any], modules: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = modules["sweep"]
    common, _, _ = configured("--config", STUDY, "--people", "2", "1", variants={"priors": {"a": {}}})
    pipeline = Pipeline(load_config(common.sources, common.set))
    listed = [job for job in jobs(pipeline) if job.stage in sweep.STAGES_IN_ORDER]
    monkeypatch.setattr(sweep, "Worker", FakeWorker)
    monkeypatch.setattr(sweep, "wait", lambda *_: None)
    FakeWorker.fails, FakeWorker.began = {"fit 102"}, []
    for job in listed:  # of an earlier run, with other settings
        for path in job.outputs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    crew = sweep.Crew((), 2, 2)
    report = sweep.Sweep(listed, sweep.Ledger(pipeline, listed, False), crew, common, say=lambda _: None).run()
    assert report.failed == {"fit 102": "no reason"}
    assert {name.split()[0] for name in report.left} == {"bake", "train", "calibrate", "oneshot", "evaluate"}
    assert {"bake 101", "evaluate fit 201"} <= {*FakeWorker.began}
    order = [FakeWorker.began.index(name) for name in ("synthetic_head", "synthetic_person 101", "fit 101", "bake 101")]
    assert order == sorted(order)
    FakeWorker.fails, FakeWorker.began = set(), []
    ledger = sweep.Ledger(pipeline, listed, False)
    report = sweep.Sweep(listed, ledger, crew, common, stages=["fit"], say=lambda _: None).run()
    assert FakeWorker.began == ["fit 102"]
    assert not report.failed
    assert not report.left


# the tables ---------------------------------------------------------------------------------------------------


def result(front: float, all_views: float) -> dict[str, Any]:
    def split(psnr: float) -> dict[str, Any]:
        mean = {"psnr": psnr, "ssim": psnr / 100, "lpips_alex": None, "lpips_vgg": None}
        return {"mean": mean, "frames": 5, "per_camera": {"08": mean}, "coverage": {"least": 0.5}}

    splits = {"novel_view": split(front), "self_reenactment": split(all_views)}
    return {"splits": splits, "missing": {}, "definitions": {}, "method": "", "subject": ""}


def as_rows(text: str, title: str) -> list[dict[str, str]]:
    """The table of a Markdown text whose first column has a title, by columns."""
    (table,) = (part for part in text.split("\n\n") if part.startswith(f"| {title}"))
    cut = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    return [dict(zip(cut[0], row, strict=True)) for row in cut[2:]]


@pytest.fixture(scope="module")
def measured(modules: dict[str, Any]) -> tuple[list[Any], dict[tuple[Any, str, str], Any]]:
    """Two priors and two runs of the first; 20 people, of whom one loses a whole dB by the photograph."""
    variant = modules["comparison"].Variant
    variants = [variant("a", "x", 0, "a-x"), variant("b", "x", 0, "b-x"), variant("a", "x", 1, "a-x-run2")]
    found = {}
    for number, one in enumerate(variants):
        for person in range(20):
            who = f"{person:03d}"
            prior = 20 + person / 10 + {0: 0.0, 1: 2.0, 2: 0.1}[number]
            step = -1.0 if person == 7 else 0.5 + (0.25 if one.run else 0)
            found[one, "prior", who] = result(prior, prior - 1)
            found[one, "one_shot", who] = result(prior + step, prior - 1 + step / 2)
            found[one, "fit", who] = result(40, 41)
    return variants, found


def test_means_count_and_differ_as_they_should(modules: dict[str, Any], measured: Any) -> None:
    variants, found = measured
    text = modules["comparison"].tables(found, variants, "somebody")
    rows = {row["method"]: row for row in as_rows(text, "method")}
    assert [*rows] == [
        *("prior (a)", "prior (b)", "prior (a, run 2)"),
        *("`one_shot` (a, x)", "`one_shot` (b, x)", "`one_shot` (a, x, run 2)", "fit"),
    ]
    prior = np.mean([20 + person / 10 for person in range(20)])
    assert rows["prior (b)"]["front, PSNR"] == f"{prior + 2:.2f}"
    assert float(rows["prior (b)"]["all views, SSIM"]) == pytest.approx((prior + 1) / 100, abs=6e-4)
    assert rows["prior (b)"]["front, over the first prior"] == "+2.00"
    step = (19 * 0.5 - 1) / 20
    assert rows["`one_shot` (b, x)"]["front, over the first prior"] == f"{2 + step:+.2f}"
    assert rows["fit"]["people"] == "20"
    (other,) = as_rows(text, "prior, feed-forward")
    assert other["prior, feed-forward"] == "b - a"
    assert (other["front, PSNR"], other["all views, least"], other["front, SSIM"]) == ("+2.00", "+2.00", "+0.020")


def test_harm_is_counted_in_cells(modules: dict[str, Any], measured: Any) -> None:
    variants, found = measured
    text = modules["comparison"].tables(found, variants, "somebody")
    first, second = as_rows(text, "difference")
    assert first["difference, PSNR"] == "`one_shot` (a, x) - prior"
    changes = np.array([*[0.5] * 19, -1.0, *[0.25] * 19, -0.5])
    assert first["cells"] == "40"
    assert first["mean"] == f"{changes.mean():+.2f}"
    assert first["5th percentile"] == f"{np.percentile(changes, 5):+.2f}"
    assert (first["least"], first["below -0.3"], first["below -0.7"]) == ("-1.00", "2", "1")
    apart = (19 * 0.25 + 19 * 0.125) / 40
    assert first["between two runs: of the mean"] == f"{apart:.2f}"
    assert first["of a cell, 95 %"] == "0.25"
    assert second["between two runs: of the mean"] == ""  # there is one
    person = next(row for row in as_rows(text, "a-x, PSNR") if "007" in row.values())
    assert person["`one_shot` - prior"] == "-1.00 / -0.50"
    assert person["`few_shot` - `one_shot`"] == ""


def test_numbers_are_kept_with_whatever_else_was_measured(modules: dict[str, Any], measured: Any) -> None:
    variants, found = measured
    kept = modules["comparison"].records(found, {"007": "tune"})
    rows = [*csv.DictReader(modules["comparison"].as_csv(kept).splitlines())]
    assert len(rows) == len(found) * 2
    (row,) = (r for r in rows if [*r.values()][:7] == ["a", "x", "2", "one_shot", "007", "tune", "all views"])
    assert float(row["psnr"]) == pytest.approx(20.7 + 0.1 - 1 - 0.5)
    assert (row["coverage.least"], row["frames"], row["lpips_vgg"]) == ("0.5", "5", "")
    assert kept[0]["psnr_per_camera"] == {"08": 20.0}
    empty = modules["comparison"].tables({}, variants, "nobody")
    assert "Nothing has been measured yet" in empty


# all of it ----------------------------------------------------------------------------------------------------

TINY = [
    *("--config", str(REPOSITORY / "profiles/demo/demo.yaml"), "--people", "1", "1", "--side-by-side", "1"),
    *("--cores", "1", "--set", "synthetic={width: 64, height: 88, timesteps_per_sequence: 2}"),
    *("--set", "fit={uv_size: 32, iterations: 4}", "--set", "prior={steps: 3, warmup: 1, sources: 1, targets: 1}"),
    # Avatars of so few steps cannot be closed, and trying to takes longest.
    *("--set", "oneshot={steps: 2}", "--set", "fit.losses.coverage=0", "--set", "oneshot.losses.coverage=0"),
]


@pytest.mark.slow
def test_a_sweep_is_killed_continued_and_as_the_commands_have_it(modules: Any, tmp_path: Path) -> None:
    variants, results = tmp_path / "variants.yaml", tmp_path / "results"
    variants.write_text(yaml.safe_dump({**VARIANTS, "priors": {"published": {}}}))
    command = [sys.executable, "benchmarks/photographs.py", *TINY]
    command += ["--variants", str(variants), "--results", str(results)]

    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([*command, *arguments], cwd=REPOSITORY, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as killed:
        assert killed.stderr is not None
        for line in killed.stderr:
            if "synthetic_head" in line:
                killed.send_signal(signal.SIGTERM)
    assert killed.returncode == 75
    status, text, said = run()
    assert status == 0, said
    assert {row["people"] for row in as_rows(text, "method")} == {"1"}
    assert [row["method"] for row in as_rows(text, "method")][-1] == "fit"
    assert run()[:2] == (0, text)
    status, again, _ = run("--only", "report-tables")
    assert (status, again) == (0, text)

    folder = results / "study"
    for name in ("published-default", "published-gentle"):
        assert (folder / f"sheets/{name}/201.png").stat().st_size > 1000
    rows = [*csv.DictReader((folder / "report.csv").read_text().splitlines())]
    assert {row["personalisation"] for row in rows} == {"default", "gentle"}
    kept = json.loads((folder / "report.json").read_text())
    assert "evaluate" in kept["runs"][-2]["stages"]
    assert kept["runs"][-1]["stages"] == {}
    assert str(tmp_path) not in json.dumps(kept["runs"])

    # The very file that the command of the rule writes.
    file = results / "experiments/published-gentle/metrics/one_shot/201.json"
    content = file.read_bytes()
    file.unlink()
    options = modules["photographs"]._parser().parse_args(command[2:])
    common, _, _ = modules["photographs"].configured(options, yaml.safe_load(variants.read_text()))
    told = [word for source in common.config for word in ("--config", source)]
    told += [word for setting in common.set for word in ("--set", setting)]
    osgap = [sys.executable, "-m", "osgap.cli", "evaluate", "one_shot", "201", "--experiment", "published-gentle"]
    subprocess.run([*osgap, *told], cwd=REPOSITORY, check=True)
    assert file.read_bytes() == content


@pytest.mark.slow
def test_its_processes_end_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/photographs.py", *TINY, "--results", str(tmp_path / "results")]
    sign = f"SIGN={tmp_path}"
    environment = {**os.environ, "SIGN": str(tmp_path)}
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, env=environment) as killed:
        assert killed.stderr is not None
        for line in killed.stderr:
            if "synthetic_head" in line:
                assert len(_with(sign)) > 1
                killed.kill()
                break
    deadline = time.monotonic() + 60
    while (left := _with(sign)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left


def _with(sign: str) -> list[str]:
    """Processes with that in their environment."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{sign}\0".encode() in environment.read_bytes():
                found.append(environment.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_makehuman_people_are_imported(shared: Path, tmp_path: Path) -> None:
    people = shared / "captures_cc0"
    variants = tmp_path / "variants.yaml"
    variants.write_text(yaml.safe_dump({"priors": {"a": {}}, "report": {"makehuman": ["subject_001"]}}))
    command = [sys.executable, "benchmarks/photographs.py", "--config", "profiles/study/makehuman.yaml"]
    command += ["--exports", str(people), "--variants", str(variants), "--results", str(tmp_path / "results")]
    command += ["--people", "1", "1", "--stages", "import", "--cores", "1"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "results/captures").glob("*.h5")) == [
        *("subject_000.h5", "subject_001.h5")
    ]

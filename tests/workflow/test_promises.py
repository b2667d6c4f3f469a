"""What the DAG promises: nothing twice, only what an edit touches, the same bytes after deletion and after a kill."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from osgap.runtime.artifacts import read_provenance
from osgap.runtime.code import digest_of
from osgap.runtime.provenance import file_digest
from osgap.workflow.config import load_config
from osgap.workflow.jobs import jobs
from osgap.workflow.pipeline import Pipeline

from .conftest import ARGUMENTS, Checkout

pytestmark = pytest.mark.slow

REPORT_RULES = {"tables", "overview", "person_figure", "cross_figure", "video"}
COMPARED = ("*.npz", "*.csv", "*.md", "*.tex", "*.ply", "*.pt", "*.json", "*.h5", "*.png", "*.mp4")


def digests(results: Path) -> dict[str, str]:
    """Digest of everything that the run made, but for logs, what is left of checkpoints and who ran it."""
    files = [f for pattern in COMPARED for f in results.rglob(pattern) if f.name != "run.json"]
    return {str(f.relative_to(results)): file_digest(f) for f in files}


def test_everything_that_is_promised_exists(finished: Checkout) -> None:
    results = finished.results
    summary = json.loads((results / "metrics" / "summary.json").read_text())
    for method in ("mean_avatar", "prior", "one_shot", "fit"):
        for split in ("novel_view", "self_reenactment"):
            values = summary[method][split]
            assert 5 < values["psnr"] < 60
            assert 0 < values["ssim"] <= 1
            assert values["lpips_alex"] is None, "no weights, no number"
    for name in (
        "tables/novel_view.csv", "tables/self_reenactment.tex", "figures/overview.png", "figures/cross_201.png",
        "videos/201.mp4", "avatars/101/point_cloud.ply", "avatars/101/flame_param.npz", "uv_gt/101.npz",
        "oneshot/201/point_cloud.ply", "prior/model.pt",
    ):  # fmt: skip
        assert (results / name).stat().st_size > 0, name


def test_artifacts_say_where_they_come_from(finished: Checkout) -> None:
    for name, stage in {
        "captures/101.h5": "import",
        "avatars/101/point_cloud.ply": "fit",
        "avatars/101/flame_param.npz": "fit",
        "uv_gt/101.npz": "bake",
        "prior/model.pt": "train",
        "oneshot/201/point_cloud.ply": "oneshot",
        "metrics/fit/201.json": "evaluate",
        "metrics/summary.json": "tables",
        "figures/overview.png": "figure",
    }.items():
        provenance = read_provenance(finished.results / name)
        assert provenance is not None, name
        assert provenance["stage"] == stage, name
        assert provenance["code"], name


def test_jobs_read_what_their_rules_give_them(finished: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job knows only a part of the config: what it makes of that must be what the rule made of all of it."""
    monkeypatch.chdir(finished.root)
    pipeline = Pipeline(load_config(["config.yaml", *ARGUMENTS[3:]]))
    compared = {"fit", "bake", "train", "calibrate", "oneshot", "evaluate"}
    for job in jobs(pipeline):
        if job.rule in compared:
            provenance = read_provenance(job.outputs[0])
            assert provenance is not None
            read = {name.rsplit("/")[-1] for name in provenance["inputs"]}
            assert {path.name for path in job.inputs} <= read, job.name


def test_no_checkpoint_and_no_temporary_is_left(finished: Checkout) -> None:
    left = [p for p in (finished.results / "checkpoints").rglob("*") if p.is_file() and p.name != "lock"]
    assert not left
    assert not list(finished.results.rglob(".*tmp*"))


def test_a_second_run_has_nothing_to_do_within_ten_seconds(finished: Checkout) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = finished.snakemake()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "nothing to be done" in done.stdout.lower()
    # Processor time: what else the machine is doing must not fail the test.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10


def test_an_edit_of_the_evaluation_reruns_evaluation_and_report(checkout: Checkout) -> None:
    checkout.edit("osgap/evaluation/measure.py")
    planned = checkout.planned()
    assert planned == {"evaluate": 4, "tables": 1}, "pictures do not measure"


def test_an_edit_of_the_head_reruns_all_that_uses_it(checkout: Checkout) -> None:
    checkout.edit("osgap/head/model.py")
    planned = checkout.planned()
    assert {"synthetic_person", "import_tracking", "fit", "bake", "train", "oneshot", "evaluate"} <= set(planned)
    assert set(planned) >= REPORT_RULES
    assert "synthetic_head" not in planned, "the synthetic head is made of formulas alone"


def test_other_words_about_the_head_rerun_nothing(checkout: Checkout) -> None:
    model = checkout.root / "osgap/head/model.py"
    text = model.read_text()
    for old, new in (
        ('"""The head model: ', '"""What moves a head: '),  # of the module
        ('    """A head model in FLAME\'s format; ', '    """A head, as FLAME has it; '),  # of a class
        ('    """`[V, 3]` mean head."""', '    """The mean head, `[V, 3]`."""'),  # of an attribute
        ("  # keeps the axis of a zero rotation, and", "\n\n# Keeps the axis of a zero rotation, and"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    model.write_text(text)
    assert checkout.planned() == {}


def test_another_constant_of_the_head_reruns_all_that_uses_it(checkout: Checkout) -> None:
    model = checkout.root / "osgap/head/model.py"
    text = model.read_text()
    assert text.count("_TINY_ANGLE_SQUARED = 1e-16") == 1
    model.write_text(text.replace("_TINY_ANGLE_SQUARED = 1e-16", "_TINY_ANGLE_SQUARED = 2e-16"))
    assert set(checkout.planned()) >= {"import_tracking", "fit", "bake", "train", "oneshot", "evaluate", *REPORT_RULES}


def test_what_is_accepted_stands_until_it_is_taken_back(checkout: Checkout) -> None:
    config = [f"--config={name}" for name in ("config.yaml", "profiles/demo/demo.yaml", "profiles/demo/reduced.yaml")]

    def accept(*arguments: str) -> str:
        return checkout.run("osgap.cli", "accept", *arguments, *config).stdout

    before = digests(checkout.results)
    checkout.edit("osgap/head/model.py")
    planned = checkout.planned()
    listed = accept()
    assert "fit: 3 outputs made by other code than the present\n    code osgap.head.model changed" in listed
    assert checkout.planned() == planned, "listing accepts nothing"
    stages = listed.splitlines()[-1].removeprefix("To let all of it stand: osgap accept ").split()
    assert {"import", "fit", "train", "video"} <= set(stages)

    accept(*(stage for stage in stages if stage != "figure"))
    assert set(checkout.planned()) == {"overview", "person_figure", "cross_figure"}
    accept("figure")
    assert checkout.planned() == {}
    text = checkout.run("osgap.cli", "why", *ARGUMENTS).stdout
    assert "up to date" in text
    assert "accepted for fit" in text

    # Snakemake makes one output anew, in the place of an accepted one, and one that is missing.
    (checkout.results / "tables" / "novel_view.csv").unlink()
    (checkout.results / "figures" / "overview.png").unlink()
    checkout.snakemake("--forcerun", "person_figure")
    assert checkout.planned() == {}
    for name, accepted in (("figures/overview.png", 1), ("figures/person_201.png", 1), ("metrics/summary.json", 0)):
        provenance = read_provenance(checkout.results / name)
        assert provenance is not None
        assert len(provenance.get("accepted", ())) == accepted, f"{name}: tables do not use the head"
    # Accepted again on top of it: other code, outputs of two codes.
    checkout.edit("osgap/head/model.py", "\nEDITED_AGAIN = True\n")
    assert checkout.planned() == planned
    accept(*stages)
    assert checkout.planned() == {}

    assert "no longer accepted" in accept("--undo")
    assert checkout.planned() == planned
    (checkout.root / "osgap/head/model.py").write_text(
        (checkout.root / "osgap/head/model.py").read_text().replace("\nEDITED_AGAIN = True\n", "")
    )
    assert checkout.planned() == {}, "what was accepted of that code holds"
    accept("--undo", "figure")
    # What was made since was made by this very code.
    assert checkout.planned() == {"cross_figure": planned["cross_figure"]}
    changed = {name for name, digest in digests(checkout.results).items() if before.get(name) != digest}
    made = {"figures/overview.png", "figures/person_201.png", "accepted.json"}
    assert changed == made


def test_a_damaged_record_of_acceptances_stops_the_run(checkout: Checkout) -> None:
    (checkout.results / "accepted.json").write_text("{")
    done = checkout.snakemake("--dry-run", check=False)
    assert done.returncode
    assert "accepted.json: not what `osgap accept` writes" in done.stdout
    assert "Traceback" not in done.stdout


def test_an_edit_of_the_command_line_reruns_nothing(checkout: Checkout) -> None:
    checkout.edit("osgap/cli/stages.py")
    checkout.edit("README.md")
    assert checkout.planned() == {}


def test_one_subjects_entry_changes_its_branch(checkout: Checkout) -> None:
    source = {"sequence": "EXP-2-eyes", "timestep": 1, "camera": "222200036"}
    config = yaml.safe_load((checkout.root / "profiles/demo/reduced.yaml").read_text())
    config["subjects"]["entries"] = {"201": {"source": source}}
    (checkout.root / "profiles/demo/reduced.yaml").write_text(yaml.safe_dump(config))
    planned = checkout.planned()
    assert not {"synthetic_person", "import_tracking", "fit", "train"} & set(planned), "a photograph is of a capture"
    assert planned["oneshot"] == 1


def test_one_stages_config_changes_what_follows_it(checkout: Checkout) -> None:
    planned = checkout.planned("--config", "oneshot={steps: 9}")
    assert set(planned) == {"calibrate", "oneshot", "evaluate", *REPORT_RULES}
    planned = checkout.planned("--config", "report={figure_scale: 3}")
    assert planned == {"person_figure": 1, "cross_figure": 1, "overview": 1}


def test_a_new_train_subject_adds_its_branch(checkout: Checkout) -> None:
    config = yaml.safe_load((checkout.root / "profiles/demo/reduced.yaml").read_text())
    config["subjects"]["train"].append("103")
    (checkout.root / "profiles/demo/reduced.yaml").write_text(yaml.safe_dump(config))
    planned = checkout.planned()
    for rule in ("synthetic_person", "import_tracking", "fit", "bake", "train"):
        assert planned[rule] == 1, rule


def test_why_names_keys_and_modules(checkout: Checkout) -> None:
    arguments = ["--profile", "profiles/demo", "--configfile", "profiles/demo/demo.yaml", "profiles/demo/reduced.yaml"]
    assert "up to date" in checkout.run("osgap.cli", "why", *arguments).stdout
    checkout.edit("osgap/evaluation/measure.py")
    text = checkout.run("osgap.cli", "why", *arguments, "--config", "oneshot={steps: 9}").stdout
    assert "code osgap.evaluation.measure changed" in text
    assert "config oneshot.steps: 12 -> 9" in text


def test_deleting_results_and_rebuilding_gives_the_same_bytes(checkout: Checkout, tmp_path: Path) -> None:
    before = digests(checkout.results)
    checkout.results.rename(tmp_path / "before")
    checkout.snakemake()
    after = digests(checkout.results)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []


@pytest.mark.parametrize(
    ("stage", "subject", "outputs"),
    [
        ("fit", "101", ["avatars/101"]),
        ("train", None, ["prior"]),
        ("oneshot", "201", ["oneshot/201"]),
    ],
)
def test_a_killed_stage_goes_on_to_the_same_bytes(
    checkout: Checkout, stage: str, subject: str | None, outputs: list[str]
) -> None:
    before = digests(checkout.results)
    checkpoint, arguments = kill(checkout, stage, subject, outputs)
    checkout.run(*arguments)
    assert not checkpoint.exists()
    assert [n for n, d in digests(checkout.results).items() if before[n] != d] == []


def test_a_killed_stage_goes_on_through_an_acceptance(checkout: Checkout) -> None:
    avatar = checkout.results / "avatars" / "101"
    with np.load(avatar / "flame_param.npz") as loaded:
        before = dict(loaded)
    provenance = read_provenance(avatar / "fit.json")
    assert provenance is not None
    checkpoint, arguments = kill(checkout, "fit", "101", ["avatars"])  # no other fit says by what code it was made
    checkout.edit("osgap/fit/optimise.py")
    said = checkout.run("osgap.cli", "accept", "fit", *arguments[5:]).stdout
    assert said == "fit: 1 checkpoint accepted as made by the present code\n"
    assert "going on from a checkpoint of accepted earlier code" in checkout.run(*arguments).stdout
    assert not checkpoint.exists()
    with np.load(avatar / "flame_param.npz") as loaded:
        assert before.keys() == loaded.keys()
        assert all(np.array_equal(before[name], loaded[name]) for name in before)
    again = read_provenance(avatar / "fit.json")
    assert again is not None
    assert again["resumed"] == again["accepted"] == [digest_of(provenance["code"])]
    assert again["code"] != provenance["code"]


def kill(checkout: Checkout, stage: str, subject: str | None, outputs: list[str]) -> tuple[Path, list[str]]:
    """Remove a stage's outputs and kill it as soon as it has a checkpoint: the checkpoint, and the command."""
    arguments = [
        "osgap.cli", stage, *([subject] if subject else []), "--threads", "2" if stage == "train" else "1",
        "--config", "config.yaml", "--config", "profiles/demo/demo.yaml", "--config", "profiles/demo/reduced.yaml",
    ]  # fmt: skip
    for folder in outputs:
        for file in (checkout.results / folder).rglob("*"):
            if file.is_file():
                file.unlink()
    checkpoint = checkout.results / "checkpoints" / stage / (subject or "all") / "latest.pt"
    job = subprocess.Popen(
        checkout.command(*arguments), cwd=checkout.root, env=checkout.environment, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not checkpoint.exists():
        assert job.poll() is None, "the stage ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert checkpoint.exists()
    return checkpoint, arguments

"""The list of a run's jobs is Snakemake's own, to the last path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from osgap.workflow.config import load_config
from osgap.workflow.jobs import Job, jobs
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.resources import NEEDS
from osgap.workflow.stages import STAGES

ROOT = Path(__file__).parents[2]
DEMO = ["profiles/demo/demo.yaml", "profiles/demo/reduced.yaml"]

LISTING = """
import json, sys
from osgap.workflow import planned
from snakemake_interface_logger_plugins.common import LogEvent

def emit(self, record):
    known = vars(record)
    if known.get("event") == LogEvent.JOB_INFO:
        names = ("rule_name", "wildcards", "output", "input", "log")
        self._write({name: dict(known[name]) if name == "wildcards" else known[name] for name in names})

planned.LogHandler.emit = emit
planned.main(sys.argv[1], sys.argv[2:])
"""

EXPERIMENTS = {
    "plain": {},
    "wide": {"prior": {"sources": 2}},
    "long": {"oneshot": {"steps": 16}},
    "everything": {"oneshot": {"supervision": ["few_shot", "all_frames"]}, "seed": 3},
}


def snakemakes(folder: Path, config: Path) -> list[dict[str, Any]]:
    """Jobs of a dry run from nothing, as Snakemake describes them."""
    listed = folder / "jobs.jsonl"
    arguments = ["--profile", "profiles/demo", "--configfile", *DEMO, str(config)]
    done = subprocess.run(
        [sys.executable, "-c", LISTING, str(listed), *arguments, "--forceall", "--nolock"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    return [line for line in lines if line.get("output")]  # `all` has none, and other lines are about no job


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"experiments": EXPERIMENTS},
        {
            "oneshot": {"supervision": ["few_shot", "one_shot"]},
            "subjects": {"test": ["201", "202"], "entries": {"201": {"driver": "102"}}},
            "interop": {"avatars": "{folder}/adopted/{subject}", "uv_gt": "{folder}/maps/{subject}.npz"},
        },
    ],
    ids=["reduced demo", "experiments", "few photographs, a driver, adopted people"],
)
def test_the_jobs_are_snakemakes(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "adopted" / "101").mkdir(parents=True)
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "102.npz").touch()
    text = json.dumps({"results": str(tmp_path / "results"), **change}).replace("{folder}", str(tmp_path))
    config = tmp_path / "change.yaml"
    config.write_text(text)
    expected = snakemakes(tmp_path, config)
    found = jobs(Pipeline(load_config([ROOT / "config.yaml", *(ROOT / name for name in DEMO), config])))

    def described(job: Job) -> tuple[Any, ...]:
        return job.rule, job.wildcards, {*map(str, job.outputs)}, [str(job.log)]

    def key(item: tuple[Any, ...]) -> str:
        return f"{item[0]} {item[1]}"

    theirs = [(job["rule_name"], job["wildcards"], {*job["output"]}, job["log"]) for job in expected]
    assert sorted(map(described, found), key=key) == sorted(theirs, key=key)
    assert [list(job.wildcards) for job in sorted(found, key=lambda job: key(described(job)))] == [
        list(item[1]) for item in sorted(theirs, key=key)
    ]
    made = {path for job in theirs for path in job[2]}
    needs = {job["output"][0]: made & {*job["input"]} for job in expected}
    assert {str(job.outputs[0]): {*map(str, job.inputs)} for job in found} == {
        next(str(mine.outputs[0]) for mine in found if output in map(str, mine.outputs)): inputs
        for output, inputs in needs.items()
    }


def demo(tmp_path: Path, **changes: Any) -> Pipeline:
    sources: list[Any] = [ROOT / "config.yaml", *(ROOT / name for name in DEMO), {"results": str(tmp_path), **changes}]
    return Pipeline(load_config(sources))


def test_each_job_follows_those_that_it_needs(tmp_path: Path) -> None:
    found = jobs(demo(tmp_path, experiments=EXPERIMENTS))
    there: set[Path] = set()
    for job in found:
        assert {*job.inputs} <= there, job.name
        there |= {*job.outputs}
        assert job.stage in STAGES
        assert job.rule in NEEDS
    assert len({job.name for job in found}) == len(found)
    assert len({job.log for job in found}) == len(found)


def test_an_experiment_has_what_it_needs_and_no_more(tmp_path: Path) -> None:
    pipeline = demo(tmp_path, experiments=EXPERIMENTS)
    everything = {job.name for job in jobs(pipeline)}
    of_long = jobs(pipeline, "long")
    assert {job.name for job in of_long} < everything
    assert {job.experiment for job in of_long if job.rule == "oneshot"} == {"long"}
    assert {job.experiment for job in of_long if job.rule == "train"} == {None}
    assert "fit 201" in {job.name for job in of_long}


def test_a_job_is_done_when_all_of_its_files_are_there(tmp_path: Path) -> None:
    job = next(job for job in jobs(demo(tmp_path)) if job.rule == "fit")
    for path in job.outputs:
        assert not job.done
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert job.done


def test_hundreds_of_people_are_listed_at_once(tmp_path: Path) -> None:
    people = [f"{number:03}" for number in range(445)]
    pipeline = demo(tmp_path, subjects={"train": people[:400], "test": people[400:]})
    start = time.process_time()
    found = jobs(pipeline)
    assert time.process_time() - start < 2
    assert sum(job.done for job in found) == 0
    assert len(found) > 2_000

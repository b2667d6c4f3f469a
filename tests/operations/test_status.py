"""How far a run is, from its files and Slurm's queue."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from osgap.operations.costs import read_costs
from osgap.operations.forecast import Machine
from osgap.operations.run import open_run
from osgap.operations.screen import show_status
from osgap.operations.status import Status, status
from osgap.runtime.errors import UserError

from .conftest import ERROR, OUT_OF_MEMORY, ROOT, MakeWorld, World

PREPARED = ["import_tracking 101", "import_tracking 102"]


def look(world: World, experiment: str | None = None) -> Status:
    return status(world.open(experiment), Machine(2, None))


def states(found: Status) -> dict[str, str]:
    return {item.job.name: item.state for item in found.states}


# whose run -------------------------------------------------------------------------------------------------------


def test_the_config_is_what_the_run_wrote_of_itself(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its paths are those of the folder that Snakemake worked in; the run is found from anywhere."""
    monkeypatch.chdir(tmp_path / "slurm-commands")
    run = open_run("../results")
    assert run.pipeline.config.subjects == world.pipeline.config.subjects
    assert run.pipeline.layout.capture("101") == Path("../results/captures/101.h5")
    assert [job.name for job in run.jobs] == [job.name for job in world.jobs]
    assert run.alive is True


def test_a_run_without_a_record_needs_its_config(world: World) -> None:
    (world.results / "run.json").unlink()
    with pytest.raises(UserError, match=r"no run.json, .*give its config with --config"):
        world.open()
    sources = [str(ROOT / "config.yaml"), str(ROOT / "profiles/demo/demo.yaml")]
    assert len(open_run(str(world.results), sources).jobs) == len(world.jobs)


@pytest.mark.parametrize("text", ["{", "[]", '{"config": {"fitt": {}}}'])
def test_a_damaged_record_is_said(text: str, world: World) -> None:
    (world.results / "run.json").write_text(text)
    with pytest.raises(UserError, match=r"run\.json"):
        world.open()


def test_a_folder_or_experiment_that_is_not_there(world: World) -> None:
    with pytest.raises(UserError, match="no such results folder"):
        open_run(str(world.results / "absent"))
    with pytest.raises(UserError, match="experiment other: the config has none of that name"):
        open_run(f"{world.results}:other")


def test_whether_snakemake_is_at_work(world: World) -> None:
    world.record(alive=False)
    assert world.open().alive is False
    world.record(host="elsewhere")
    assert world.open().alive is None


# states ----------------------------------------------------------------------------------------------------------


def test_a_run_that_has_not_begun(world: World) -> None:
    found = look(world)
    assert {*states(found).values()} == {"waiting"}
    assert found.left_s > 0


def test_done_running_queued_failed_waiting(world: World) -> None:
    world.finish([*PREPARED, "import_tracking 103", "fit 104"])
    world.queue(
        "11|RUNNING|None|0:30|rule_fit_wildcards_101",
        "12|PENDING|Resources|0:00|rule_fit_wildcards_102",
        "13|PENDING|Priority|0:00|rule_something_else",
        "14|RUNNING|None|1:00|(null)",
    )
    world.say("fit 101", "osgap fit: Slurm job 11 on gpu01\nfitting: 600 of 750, 0:00:40 left\n")
    world.slurm_log("rule_fit/103", 10, OUT_OF_MEMORY + ERROR.format(rule="fit"))
    found = look(world)
    of = {item.job.name: item for item in found.states}
    assert of["fit 104"].state == of["import_tracking 101"].state == "done"
    assert (of["fit 101"].state, of["fit 101"].progress, of["fit 101"].slurm_id) == (
        "running",
        "fitting: 600 of 750",
        "11",
    )
    assert of["fit 101"].rest_s == pytest.approx(40, abs=5)
    assert (of["fit 102"].state, of["fit 102"].why, of["fit 102"].slurm_id) == ("queued", "Resources", "12")
    assert (of["fit 103"].state, of["fit 103"].slurm_id) == ("failed", "10")
    assert of["fit 103"].why.startswith("out of memory: asked for 8,000 MB")
    assert of["bake 104"].state == of["train"].state == "waiting"
    assert found.counts()["fit"] == {"done": 1, "running": 1, "queued": 1, "failed": 1, "waiting": 6}


def test_a_job_of_another_run_in_the_same_queue(world: World) -> None:
    elsewhere = f"11|RUNNING|None|0:30|main|N/A|{world.results}/elsewhere|4f2a|rule_fit_wildcards_101"
    world.slurm.answer("squeue", elsewhere)
    assert states(look(world))["fit 101"] == "waiting"


def test_a_retry_in_the_queue_has_not_failed(world: World) -> None:
    world.slurm_log("rule_fit/101", 10, OUT_OF_MEMORY)
    world.queue("12|PENDING|BeginTime|0:00|rule_fit_wildcards_101")
    assert states(look(world))["fit 101"] == "queued"


def test_of_two_submissions_the_one_that_runs_counts(world: World) -> None:
    """A killed Snakemake's goes on; the next one's waits for its checkpoint, or for a node."""
    running, waiting = "11|RUNNING|None|0:30|rule_fit_wildcards_101", "12|PENDING|None|0:00|rule_fit_wildcards_101"
    world.queue(waiting, running, waiting)
    (found,) = (item for item in look(world).states if item.job.name == "fit 101")
    assert (found.state, found.slurm_id) == ("running", "11")


def test_without_progress_the_rest_is_what_others_took(world: World) -> None:
    """From when its inputs were there: a group's time is not its last job's."""
    world.finish(["fit 101"])
    world.queue("11|RUNNING|None|2:00:00|rule_bake_wildcards_101", "12|RUNNING|None|2:00:00|rule_bake_wildcards_102")
    found = {item.job.name: item.rest_s for item in look(world).states if item.state == "running"}
    assert found["bake 101"] == pytest.approx(read_costs().of("bake", False).seconds({}, 1), abs=3)
    world.finish(["fit 102"])
    long_ago = time.time() - 3600
    for path in world.job("bake 102").inputs:
        os.utime(path, (long_ago, long_ago))
    found = {item.job.name: item.rest_s for item in look(world).states if item.state == "running"}
    assert found["bake 102"] is None
    assert look(world).left_s > 0


def test_a_group_runs_one_job_after_the_other(world: World) -> None:
    world.finish(PREPARED)
    world.queue("21|RUNNING|None|0:30|rule_person_bake_fit", "22|PENDING|Resources|0:00|rule_person_bake_fit")
    world.slurm_log("group_person_bake_fit", 21, targets="fit:subject=101 bake:subject=101")
    script = "#!/bin/sh\n… --target-jobs 'fit:subject=102' 'bake:subject=102' --allowed-rules 'fit' 'bake'"
    world.slurm.answer("scontrol", script, when='[ "$*" = "write batch_script 22 -" ]')
    found = states(look(world))
    assert (found["fit 101"], found["bake 101"]) == ("running", "waiting")
    assert (found["fit 102"], found["bake 102"]) == ("queued", "queued")


def test_jobs_without_slurm(world: World) -> None:
    """Their Snakemake works on this machine: a log without outputs is a job at work, unless it says that it failed."""
    world.finish([*PREPARED, "import_tracking 103"])
    world.say("fit 101", "fitting: 600 of 750, 0:00:40 left\n", age_s=600)
    world.say("fit 102", "osgap: captures/102.h5: damaged\n")
    world.say("fit 103", "of an earlier run\n", age_s=7200)
    found = {item.job.name: item for item in look(world).states}
    assert found["fit 101"].state == "running"
    assert (found["fit 102"].state, found["fit 102"].why) == ("failed", "captures/102.h5: damaged")
    assert found["fit 103"].state == "failed"
    world.record(alive=False)
    assert states(look(world))["fit 101"] == "failed"
    world.record(host="elsewhere")  # then only a log that was written to just now
    assert states(look(world))["fit 101"] == "failed"
    world.say("fit 101", "fitting: 700 of 750, 0:00:20 left\n", age_s=30)
    assert states(look(world))["fit 101"] == "running"


def test_an_experiments_jobs(make_world: MakeWorld) -> None:
    world = make_world(experiments={"wide": {"prior": {"steps": 800}}, "plain": {}})
    world.finish(["train"])
    found = states(look(world, "wide"))
    assert found["train (wide)"] == "waiting"
    assert "train" not in found
    assert states(look(world))["train"] == "done"


def test_what_runs_is_left_until_it_ends(world: World) -> None:
    world.finish([job.name for job in world.jobs if job.stage != "video"])
    world.queue("11|RUNNING|None|0:30|rule_video_wildcards__201", "12|RUNNING|None|0:30|rule_video_wildcards__202")
    world.say("video 201", "frames: 1 of 2, 0:00:40 left\n")
    world.say("video 202", "frames: 1 of 2, 0:20:00 left\n")
    assert look(world).left_s == pytest.approx(1200, abs=5)
    world.finish(["video 201", "video 202"])
    assert look(world).left_s == 0


# what is printed -------------------------------------------------------------------------------------------------


def test_the_screen(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.finish(PREPARED)
    world.queue("11|RUNNING|None|0:30|rule_fit_wildcards_101", "12|PENDING|QOSMaxJobs|0:00|rule_fit_wildcards_102")
    world.say("fit 101", "fitting: 600 of 750, 0:00:40 left\n")
    show_status(look(world))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["stage", "done", "running", "queued", "failed", "waiting"]
    assert "  fit 101  [Slurm job 11]  fitting: 600 of 750  about 40 s left" in lines
    assert "  fit 102  [Slurm job 12]  QOSMaxJobs" in lines
    assert lines[-1].startswith(f"{world.results}: 7 of 69 jobs are done; about ")
    world.finish(job.name for job in world.jobs)
    show_status(look(world))
    assert f"{world.results}: all 69 jobs are done." in capsys.readouterr().out


def test_a_run_that_nobody_runs_says_so(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.record(alive=False)
    show_status(look(world))
    assert "No snakemake is at work: the same command again goes on." in capsys.readouterr().out


def test_the_commands(world: World) -> None:
    world.finish(PREPARED)
    world.queue("12|PENDING|Resources|0:00|rule_fit_wildcards_102")

    def osgap(*arguments: str) -> str:
        command = [sys.executable, "-m", "osgap.cli", *arguments]
        done = subprocess.run(command, cwd=world.results.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = json.loads(osgap("status", "results", "--json", "--gpus", "1"))
    assert found["run"] == "results"
    assert found["snakemake"] == "running"
    assert found["stages"]["import"] == {"done": 2, "running": 0, "queued": 0, "failed": 0, "waiting": 8}
    (job,) = found["jobs"]
    assert (job["name"], job["why"], job["log"]) == ("fit 102", "Resources", "results/logs/fit/102.log")
    assert osgap("logs", "fit", "102", "--run", "results").startswith("fit 102: Slurm job 12 is pending (Resources)")
    shutil.rmtree(world.results)
    command = [sys.executable, "-m", "osgap.cli", "status", "results"]
    done = subprocess.run(command, cwd=world.results.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("osgap: results: no such results folder")

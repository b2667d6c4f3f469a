"""What a run takes follows from measured seconds; nothing is forgotten, nothing is done before what it needs."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from osgap.operations.costs import FILE, Cost, Costs, read_costs
from osgap.operations.forecast import Load, Machine, load_of, machine_here, schedule
from osgap.operations.plan import plan
from osgap.operations.screen import duration, show_plan, size
from osgap.operations.space import space_needed
from osgap.operations.submissions import submissions
from osgap.operations.work import UNITS, work_of
from osgap.runtime.errors import UserError
from osgap.workflow.config import load_config
from osgap.workflow.jobs import Job, jobs
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.profile import PROFILE, Profile, read_profile
from osgap.workflow.stages import STAGES

from .conftest import ROOT, MakeWorld, World

FULL = {
    "flame": {"assets": {"model": "a", "masks": "b", "template": "c"}},
    "capture": {"tracking": "elsewhere/{subject}"},
}


def full(tmp_path: Path, train: int = 400, test: int = 45, **changes: Any) -> Pipeline:
    """The full config with many people."""
    people = [f"{number:03}" for number in range(train + test)]
    subjects = {"train": people[:train], "test": people[train:]}
    sources: list[Any] = [ROOT / "config.yaml", {**FULL, "results": str(tmp_path), "subjects": subjects}, changes]
    return Pipeline(load_config(sources))


# seconds -----------------------------------------------------------------------------------------------------------


def test_every_stage_has_seconds_with_a_source(world: World) -> None:
    costs = read_costs()
    assert {*costs.stages} == {*STAGES}
    for stage, devices in costs.stages.items():
        assert "cpu" in devices, stage
        for cost in devices.values():
            assert cost.start > 0
            assert {*cost.per} <= {*UNITS}
            assert len(cost.source) > 10, stage
            known = [word for word in cost.source.split() if word.startswith("benchmarks/")]
            assert all((ROOT / word.rstrip(",;")).exists() for word in known), cost.source
    for job in world.jobs:
        work = work_of(world.pipeline, job)
        for cost in costs.stages[job.stage].values():
            assert {*work} == {*cost.per}, job.stage
        assert all(amount > 0 for amount in work.values())


def test_work_grows_with_what_the_config_asks_for(tmp_path: Path) -> None:
    pipeline = full(tmp_path, 2, 1)
    more = {
        "fit": full(tmp_path, 2, 1, fit={"iterations": 12_000}),
        "train": full(tmp_path, 2, 1, prior={"steps": 200_000}),
        "oneshot": full(tmp_path, 2, 1, oneshot={"steps": 200}),
        "video": full(tmp_path, 2, 1, report={"video_seconds": 8.0}),
    }
    for stage, doubled in more.items():
        (before,) = {json.dumps(work_of(pipeline, job)) for job in jobs(pipeline) if job.stage == stage}
        (after,) = {json.dumps(work_of(doubled, job)) for job in jobs(doubled) if job.stage == stage}
        assert json.loads(after) == {unit: 2 * amount for unit, amount in json.loads(before).items()}, stage
    half = full(tmp_path, 2, 1, capture={"width": 275})
    for job in jobs(pipeline):
        for unit, amount in work_of(pipeline, job).items():
            if unit.endswith("megapixels"):
                assert work_of(half, job)[unit] == pytest.approx(amount / 4, rel=0.01), job.stage


def test_the_seconds_are_those_that_were_measured(tmp_path: Path) -> None:
    """Of the commands whose time docs/performance.md has, at the size that it has."""
    pipeline = full(tmp_path, 1, 1)
    seconds = {job.stage: load_of(pipeline, job, read_costs(), Machine(1)).seconds for job in jobs(pipeline)}
    fitted = json.loads((ROOT / "benchmarks/results/h200-fit.json").read_text())["command"]["seconds"]
    assert seconds["fit"] == pytest.approx(fitted, rel=0.05)
    personal = json.loads((ROOT / "benchmarks/results/h200-prior-oneshot.json").read_text())["oneshot"]["command"]
    assert seconds["oneshot"] == pytest.approx(personal["seconds"], rel=0.1)
    rate = json.loads((ROOT / "benchmarks/results/h200-prior-train.json").read_text())["train"]["loader"]
    assert seconds["train"] == pytest.approx(1_600_000 / rate["images_per_s"], rel=0.05)


def test_jobs_take_what_they_were_measured_to_take() -> None:
    """Processor seconds of one job of each kind at the demo's size, on one thread; starts differ from run to run."""
    measured = {
        job["stage"]: job for job in json.loads((ROOT / "benchmarks/results/cpu-stages.json").read_text())["jobs"]
    }
    costs = read_costs()
    for stage in ("synthetic-person", "fit", "bake", "train", "oneshot", "evaluate"):
        taken, cost = measured[stage], costs.of(stage, False)
        work = {unit: taken["work"][unit] for unit in cost.per}
        assert cost.seconds(work, 1) == pytest.approx(taken["cpu_seconds"], rel=0.3)


def test_a_gpu_where_there_is_one(world: World) -> None:
    job = next(job for job in world.jobs if job.rule == "fit")
    on_gpu = dataclasses.replace(read_costs().of("fit", True), start=1.0, per={"visited_megapixels": 0.0})
    on_cpu = dataclasses.replace(on_gpu, start=2.0)
    costs = Costs({**read_costs().stages, "fit": {"cuda": on_gpu, "cpu": on_cpu}}, 3.4, "")
    assert load_of(full(Path("x"), 1, 1), job, costs, Machine(1)).gpus == 1
    assert load_of(full(Path("x"), 1, 1), job, costs, Machine(1)).seconds == 1
    assert load_of(full(Path("x"), 1, 1), job, costs, Machine(0)).seconds == 2
    assert load_of(world.pipeline, job, costs, Machine(1)).gpus == 0  # the demo computes on the CPU


def test_a_training_with_fewer_cards_takes_longer(tmp_path: Path) -> None:
    pipeline = full(tmp_path, 1, 1, prior={"devices": 4})
    job = next(job for job in jobs(pipeline) if job.rule == "train")
    loads = {gpus: load_of(pipeline, job, read_costs(), Machine(gpus)) for gpus in (1, 2, 4, 8)}
    assert [load.gpus for load in loads.values()] == [1, 2, 4, 4]
    assert loads[1].seconds == pytest.approx(2 * loads[2].seconds) == pytest.approx(4 * loads[8].seconds)


def test_a_training_on_several_nodes_has_all_of_their_cards(tmp_path: Path) -> None:
    one, two = (full(tmp_path, 1, 1, prior={"devices": 4, "nodes": nodes}) for nodes in (1, 2))
    job = next(job for job in jobs(one) if job.rule == "train")
    loads = [load_of(pipeline, job, read_costs(), Machine(8)) for pipeline in (one, two)]
    assert [load.gpus for load in loads] == [4, 8]
    assert [load.cpus for load in loads] == [32, 64]
    assert loads[0].seconds == loads[1].seconds  # sources per step are per card


def test_more_threads_make_faster_what_was_measured_on_fewer() -> None:
    cost = Cost(start=10, per={"results": 2}, source="", threads=2)
    assert cost.seconds({"results": 3}, threads=2) == 16
    assert cost.seconds({"results": 3}, threads=1) == 22
    assert dataclasses.replace(cost, threads=0).seconds({"results": 3}, threads=1) == 16


# scheduling --------------------------------------------------------------------------------------------------------


def load(seconds: float, gpus: int = 0, cpus: int = 1, at_once: int = 200) -> Load:
    return Load(seconds, cpus, gpus, at_once)


def chain(*names: str) -> list[Job]:
    """Jobs that need each other, one after the other."""
    return [
        Job(name, name, (Path(name),), Path("log"), {}, (Path(before),) if before else ())
        for before, name in zip((None, *names), names, strict=False)
    ]


def test_what_needs_another_waits_for_it() -> None:
    found = schedule(chain("a", "b", "c"), {"a": load(1), "b": load(2), "c": load(3)}, Machine(0))
    assert found == {"a": 1, "b": 3, "c": 6}


def test_cards_are_shared_out() -> None:
    fits = [Job("fit", "fit", (Path(n),), Path("log"), {"subject": n}) for n in "abcdef"]
    loads = {job.name: load(10, gpus=1) for job in fits}
    assert max(schedule(fits, loads, Machine(1)).values()) == 60
    assert max(schedule(fits, loads, Machine(4)).values()) == 20
    assert max(schedule(fits, {name: load(10, cpus=2) for name in loads}, Machine(0, cpus=6)).values()) == 20
    assert max(schedule(fits, {name: load(10, at_once=1) for name in loads}, Machine(0)).values()) == 60


def test_a_job_that_runs_ends_when_it_says() -> None:
    found = schedule(chain("a", "b"), {"a": load(100), "b": load(5)}, Machine(0), running={"a": 7})
    assert found == {"a": 7, "b": 12}
    assert schedule(chain("a", "b"), {"a": load(100), "b": load(5)}, Machine(0), running={"b": 1})["b"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_schedules_hold_what_they_promise(seed: int, world: World) -> None:
    """No job before those that it needs, never more cards or cores than there are, none forgotten."""
    draw = random.Random(seed)
    machine = Machine(gpus=draw.randint(1, 4), cpus=draw.randint(4, 9))
    loads = {
        job.name: load(draw.uniform(1, 50), draw.randint(0, machine.gpus), draw.randint(1, 4)) for job in world.jobs
    }
    ends = schedule(world.jobs, loads, machine)
    assert {*ends} == {job.name for job in world.jobs}
    starts = {name: end - loads[name].seconds for name, end in ends.items()}
    makers = {path: job.name for job in world.jobs for path in job.outputs}
    for job in world.jobs:
        assert all(ends[makers[path]] <= starts[job.name] + 1e-6 for path in job.inputs)
    for moment in starts.values():
        at_work = [loads[name] for name in ends if starts[name] <= moment + 1e-6 < ends[name]]
        assert sum(item.gpus for item in at_work) <= machine.gpus
        assert sum(item.cpus for item in at_work) <= (machine.cpus or 0)


def test_the_machine_is_the_cluster_where_there_is_one(fake_slurm: Any) -> None:
    assert machine_here(3).gpus == 3
    assert machine_here(3).cpus is None
    assert machine_here().cpus is not None
    fake_slurm.answer(
        "sinfo", "n1|a|1|1|1|idle|gpu:2\nn1|b|1|1|1|idle|gpu:2\nn2|a|1|1|1|mixed|gpu:x:4\nn3|a|1|1|1|down*|gpu:8"
    )
    assert machine_here() == Machine(6, None)


# the whole ---------------------------------------------------------------------------------------------------------


def test_what_is_there_is_not_counted(make_world: MakeWorld) -> None:
    world = make_world()
    before = plan(world.pipeline, Machine(0, 2))
    assert before.total.left == before.total.jobs == len(world.jobs)
    world.finish(["fit 101", "fit 201", "bake 101"])
    after = plan(world.pipeline, Machine(0, 2))
    rows = {row.stage: row for row in after.rows}
    assert (rows["fit"].left, rows["fit"].jobs) == (8, 10)
    assert (rows["bake"].left, rows["synthetic-head"].left) == (7, 0)
    assert after.total.cpu_hours < before.total.cpu_hours
    assert after.total.disk_bytes == pytest.approx(sum(space_needed(world.pipeline).values()))
    world.finish(job.name for job in world.jobs)
    done = plan(world.pipeline, Machine(0, 2))
    assert (done.total.left, done.total.ends_after_s, done.submissions, done.overhead) == (0, 0, 0, 0)


def test_experiments_are_counted_with_what_they_share(make_world: MakeWorld) -> None:
    world = make_world(experiments={"plain": {}, "long": {"prior": {"steps": 800}}})
    rows = {row.stage: row for row in plan(world.pipeline, Machine(0, 2)).rows}
    assert (rows["fit"].jobs, rows["train"].jobs, rows["ablation"].jobs) == (10, 2, 1)
    alone = {row.stage: row for row in plan(world.pipeline, Machine(0, 2), experiment="long").rows}
    assert alone["train"].jobs == 1
    assert "ablation" not in alone
    assert alone["train"].cpu_hours > rows["train"].cpu_hours / 2


def test_hundreds_of_people_in_seconds(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(full(tmp_path / "results").config.model_dump_json(exclude_defaults=True))
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "osgap.cli", "plan", "--json", "--gpus", "8", "--config", str(config)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 20  # seconds of a busy machine; two on an idle one
    found = json.loads(done.stdout)
    rows = {row["stage"]: row for row in found["stages"]}
    assert rows["fit"]["jobs"] == 445
    assert 6 < rows["fit"]["gpu_hours"] < 8
    assert found["slurm"]["submissions"] <= 1_700
    assert found["total"]["ends_after_s"] > rows["train"]["ends_after_s"] > rows["fit"]["gpu_hours"] * 3600 / 8


def test_a_group_is_one_submission(world: World) -> None:
    left = world.jobs
    alone = submissions(left, Profile())
    assert alone.total() == len(left)
    grouped = submissions(left, read_profile(ROOT / PROFILE))
    assert grouped["person"] == 10  # a fit with its maps
    assert grouped["report"] == 1  # six pictures of two people
    assert grouped["capture"] == 10  # a download with its import
    assert grouped.total() == len(left) - 10 - 8 - 5
    assert submissions(left, Profile({"fit": "g"}, {"g": 4}))["g"] == 3


def test_profiles_are_read_as_snakemake_reads_them(tmp_path: Path) -> None:
    assert read_profile(tmp_path / "absent.yaml") == Profile()
    file = tmp_path / "config.yaml"
    file.write_text("groups: {fit: a, bake: a}\ngroup-components: {a: 3}\n")
    assert read_profile(file) == Profile({"fit": "a", "bake": "a"}, {"a": 3}, 40)
    file.write_text("groups: [fit=a]\nslurm-init-seconds-before-status-checks: 7\n")
    assert read_profile(file) == Profile({"fit": "a"}, {}, 7)
    file.write_text("groups: [fit]\n")
    with pytest.raises(UserError, match="not a profile of Snakemake's"):
        read_profile(file)


def test_the_table(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(plan(world.pipeline, Machine(2)))
    shown = capsys.readouterr().out
    header, *rows = shown.splitlines()
    assert header.split() == ["stage", "jobs", "to", "do", "of", "GPU-hours", "CPU-hours", "disk", "done", "after"]
    assert rows[0].split()[:3] == ["synthetic-head", "1", "1"]
    assert "2 GPUs" in rows[-1]
    assert "Slurm" not in shown  # where there is none
    world.slurm.silence("sbatch")
    show_plan(plan(world.pipeline, Machine(2)))
    assert "On Slurm: 69 submissions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.6, "4 s"), (90, "2 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_for_people() -> None:
    assert [size(4e7), size(1.3e9), size(1.8e12)] == ["40 MB", "1.3 GB", "1.8 TB"]


def test_the_costs_are_plain_yaml() -> None:
    assert yaml.safe_load(FILE.read_text())["snakemake"]["submission"] == read_costs().submission

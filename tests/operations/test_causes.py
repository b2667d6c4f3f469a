"""A job that failed is named with its cause, and with what to do about it."""

from __future__ import annotations

import time

import pytest

from osgap.operations.causes import causes, failures, sentence
from osgap.operations.logs import find_job, logs_of_job, shown
from osgap.operations.slurm_logs import comment_of, logs_of, target_of, targets_in
from osgap.runtime.errors import UserError
from osgap.runtime.slurm_endings import Ending

from .conftest import ERROR, OUT_OF_MEMORY, TIME_LIMIT, MakeWorld, World

GROUP = "group_person_bake_fit"
TARGETS = "fit:subject=101 bake:subject=101"


# whose log it is -------------------------------------------------------------------------------------------------


def test_folders_and_comments_are_the_executors(make_world: MakeWorld) -> None:
    """As snakemake-executor-plugin-slurm 2.8 makes them: `_`.join of all wildcards, the experiment's too."""
    world = make_world(experiments={"wide": {"prior": {"steps": 800}}, "plain": {}})
    assert comment_of(world.job("fit 101")) == "rule_fit_wildcards_101"
    assert comment_of(world.job("train")) == "rule_train"
    assert comment_of(world.job("train (wide)")) == "rule_train_wildcards_experiments_wide_"
    assert comment_of(world.job("evaluate one_shot 201")) == "rule_evaluate_wildcards__one_shot_201"
    assert comment_of(world.job("evaluate fit 201")) == "rule_evaluate_wildcards__fit_201"
    path = world.slurm_log("rule_train/experiments_wide_", 5)
    (log,) = logs_of(world.results / "logs/slurm", world.jobs)["train (wide)"]
    assert (log.job_id, log.path, log.grouped) == ("5", path, False)


@pytest.mark.parametrize(
    "text",
    [
        "… --target-jobs fit:subject=101 oneshot:experiment=,folder=oneshot,subject=201 --allowed-rules fit oneshot …",
        "… --target-jobs 'fit:subject=101' 'oneshot:experiment=,folder=oneshot,subject=201' --allowed-rules 'fit' …",
        "… --target-jobs 'fit:subject=101' 'oneshot:subject=201,folder=oneshot,experiment=' --allowed-rules fit",
    ],
)
def test_the_jobs_of_a_group_stand_in_its_command(text: str, world: World) -> None:
    assert targets_in(text) == [target_of(world.job("fit 101")), target_of(world.job("oneshot oneshot 201"))]


def test_no_command_names_no_jobs() -> None:
    assert targets_in("nothing of the kind") == []


# causes ----------------------------------------------------------------------------------------------------------


def test_a_job_over_its_memory(world: World) -> None:
    world.slurm_log("rule_fit/101", 3, OUT_OF_MEMORY + ERROR.format(rule="fit"))
    (failure,) = failures(world.open(), [job for job in world.jobs if not job.done])
    assert failure.job.name == "fit 101"
    assert failure.cause == "out of memory: asked for 8,000 MB; ask for more with --set-resources fit:mem_mb=16000"


def test_the_newest_of_several_attempts_counts(world: World) -> None:
    world.slurm_log("rule_fit/101", 3, OUT_OF_MEMORY, age_s=100)
    world.slurm_log("rule_fit/101", 4, TIME_LIMIT, age_s=50)
    (failure,) = failures(world.open(), world.jobs)
    assert failure.slurm is not None
    assert failure.slurm.job_id == "4"
    assert failure.cause.startswith(
        "over its time limit of 720 minutes; when the same snakemake command runs again, it"
    )
    assert failure.cause.endswith("--set-resources fit:runtime=1440")


def test_of_a_group_the_job_that_failed_is_named_alone(world: World) -> None:
    """The one before it is done, the one after it never began."""
    log = world.slurm_log(GROUP, 7, OUT_OF_MEMORY + ERROR.format(rule="fit"), targets=TARGETS)
    world.slurm_log(GROUP, 8, OUT_OF_MEMORY + ERROR.format(rule="fit"), targets=TARGETS.replace("101", "999"))
    (failure,) = failures(world.open(), world.jobs)
    assert (failure.job.name, failure.logs) == ("fit 101", [log])


def test_a_group_that_ended_at_once_ended_in_the_first_job_that_is_not_done(world: World) -> None:
    """As when its node fails: nothing says which rule it was."""
    world.finish(["import_tracking 101"])
    killed = "slurmstepd: error: *** JOB 7 ON gpu01 CANCELLED AT 2026-11-30T05:07:09 DUE TO NODE FAILURE ***\n"
    world.slurm_log(GROUP, 7, killed, targets=TARGETS)
    (failure,) = failures(world.open(), [job for job in world.jobs if not job.done])
    assert failure.job.name == "fit 101"
    assert failure.cause.startswith("its node failed; ")


def test_what_the_stage_says_is_the_cause_where_slurm_knows_none(world: World) -> None:
    world.slurm.answer("scontrol", "JobId=3 JobState=FAILED ExitCode=1:0", when='[ "$2" = show ]')
    log = world.say("fit 101", "osgap fit: Slurm job 3 on gpu01\nosgap: captures/101.h5: damaged; import it again\n")
    slurm = world.slurm_log("rule_fit/101", 3, ERROR.format(rule="fit"))
    lines = causes(world.results, time.time() - 100)
    assert lines == [
        "fit 101 (Slurm job 3): captures/101.h5: damaged; import it again",
        f"    see {log} and {slurm}",
        "    | osgap fit: Slurm job 3 on gpu01",
        "    | osgap: captures/101.h5: damaged; import it again",
    ]


def test_an_earlier_attempts_words_are_not_the_last_ones(world: World) -> None:
    world.say("fit 101", "osgap fit: Slurm job 2 on gpu01\nosgap: an earlier problem\n")
    world.slurm_log("rule_fit/101", 3, ERROR.format(rule="fit"))
    (failure,) = failures(world.open(), world.jobs)
    assert "earlier" not in failure.cause


def test_what_is_older_or_done_is_none_of_it(world: World) -> None:
    world.slurm_log("rule_fit/101", 3, OUT_OF_MEMORY, age_s=1000)
    world.slurm_log("rule_fit/102", 4, OUT_OF_MEMORY)
    world.finish(["fit 102"])
    assert causes(world.results, time.time() - 100) == []
    assert len(causes(world.results, 0)) == 2


def test_of_many_failures_the_first_are_shown(make_world: MakeWorld) -> None:
    people = [str(number) for number in range(300, 330)]
    world = make_world(subjects={"train": people})
    for person in people:
        world.slurm_log(f"rule_fit/{person}", int(person), OUT_OF_MEMORY)
    lines = causes(world.results, 0)
    assert len([line for line in lines if ": out of memory" in line]) == 20
    assert lines[-1] == f"and 10 more: `osgap status {world.results}` counts them"
    assert not world.slurm.calls.exists()  # thousands of jobs would ask thousands of times


def test_without_slurm_the_stages_log_is_all_there_is(world: World) -> None:
    log = world.say("bake 101", "Traceback (most recent call last):\nValueError: broken\n")
    assert causes(world.results, 0)[:2] == ["bake 101: ValueError: broken", f"    see {log}"]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Ending("1", "memory", memory_mb=4000, peak_mb=9000), "asked for 4,000 MB, used 9,000 MB; ask for more with"),
        (Ending("1", "memory", memory_mb=4000, peak_mb=9000), "--set-resources fit:mem_mb=18000"),
        (Ending("1", "memory"), "--set-resources fit:mem_mb=16000"),
        (Ending("1", "time"), "--set-resources fit:runtime=MINUTES"),
        (Ending("1", "preempted"), "preempted by another job; when the same snakemake command runs again, it goes on"),
        (Ending("1", "node", node="gpu01"), "its node gpu01 failed; when"),
        (Ending("1", "cancelled", by="somebody"), "cancelled by somebody; when"),
        (Ending("1", "cancelled"), "cancelled; when"),
        (Ending("1", "failed", exit_code=3), "failed with exit status 3 without a word"),
        (Ending("1", "unknown"), "failed without a word in its log"),
        (Ending("1", "completed"), "slow file system"),
    ],
)  # fmt: skip
def test_sentences(found: Ending, said: str, world: World) -> None:
    text = sentence(found, world.job("fit 101"))
    assert said in text
    assert "\n" not in text


def test_a_stage_without_checkpoints_begins_anew(world: World) -> None:
    assert "it begins anew" in sentence(Ending("1", "preempted"), world.job("bake 101"))


# osgap logs ------------------------------------------------------------------------------------------------------


def test_jobs_are_found_by_rule_or_stage(make_world: MakeWorld) -> None:
    world = make_world(experiments={"wide": {"prior": {"steps": 800}}, "plain": {}})
    run = world.open()
    for words, name in (
        (["fit", "101"], "fit 101"),
        (["import", "101"], "import_tracking 101"),
        (["import_tracking", "101"], "import_tracking 101"),
        (["person_figure", "201"], "person_figure 201"),
        (["overview"], "overview"),
    ):
        assert find_job(run, words).name == name
    with pytest.raises(UserError, match=r"figure 201 fits several jobs; there is person_figure 201, cross_figure 201"):
        find_job(run, ["figure", "201"])
    assert find_job(run, ["train"]).name == "train"
    assert find_job(run, ["evaluate", "one_shot", "201"]).name == "evaluate one_shot 201"
    wide = world.open("wide")
    assert find_job(wide, ["train"]).name == "train (wide)"
    assert find_job(wide, ["evaluate", "one_shot", "201"]).name == "evaluate one_shot 201 (wide)"
    assert find_job(wide, ["oneshot", "201"]).name == "oneshot oneshot 201 (wide)"
    assert find_job(wide, ["fit", "101"]).name == "fit 101"  # shared
    assert find_job(wide, ["evaluate", "fit", "201"]).name == "evaluate fit 201"


def test_what_is_not_there_is_said_with_what_is(world: World) -> None:
    with pytest.raises(
        UserError, match=r"no job of this run is called 'fitt'; its rules are synthetic_head, .*fit, bake"
    ):
        find_job(world.open(), ["fitt", "101"])
    with pytest.raises(UserError, match=r"fit 999 fits no job; there is fit 101, fit 102, .* and 2 more"):
        find_job(world.open(), ["fit", "999"])


def test_the_cause_stands_above_the_logs(world: World) -> None:
    log = world.say("fit 101", "one\ntwo\nthree\n")
    first = world.slurm_log("rule_fit/101", 3, "the first\n", age_s=50)
    second = world.slurm_log("rule_fit/101", 4, OUT_OF_MEMORY)
    run = world.open()
    text = shown(logs_of_job(run, run.jobs[[job.name for job in run.jobs].index("fit 101")]), lines=2)
    lines = text.splitlines()
    assert lines[0].startswith("fit 101: out of memory: asked for 8,000 MB")
    assert lines[1:5] == ["", f"== {log}", "two", "three"]
    assert lines[6] == f"== {first}"
    assert lines[10] == f"== {second}"
    assert lines[12] == "srun: error: node1: task 0: Killed"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("begun", "has not begun"),
        ("done", "done: all of its files are there"),
        ("queued", "Slurm job 9 is pending (Resources)"),
        ("at work", "at work: fitting: 1 of 2"),
    ],
)
def test_jobs_that_have_not_failed(state: str, said: str, world: World) -> None:
    if state == "done":
        world.finish(["fit 101"])
    if state == "queued":
        world.queue("9|PENDING|Resources|0:00|rule_fit_wildcards_101")
    if state == "at work":
        world.say("fit 101", "fitting: 1 of 2, 0:00:01 left\n")
    run = world.open()
    found = logs_of_job(run, find_job(run, ["fit", "101"]))
    assert found.summary == said
    assert shown(found, 5).startswith(f"fit 101: {said}")

"""What Slurm's commands print is understood, whatever it is; a machine without them has nothing to say."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osgap.runtime import slurm
from osgap.runtime.slurm_endings import Ending, Endings, ending, in_light_of, megabytes, tail

CONFIG = """Configuration data as of 2026-11-30T05:00:00
AccountingStorageBackupHost = (null)
AccountingStorageType   = accounting_storage/none
AccountingStoreFlags    = (null)
KillWait                = 30 sec
MinJobAge               = 300 sec
SLURM_CONF              = /etc/slurm/slurm.conf
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at node1 is UP
"""


def test_without_slurm_there_is_nothing_to_say(fake_slurm: Any, tmp_path: Path) -> None:
    assert slurm.commands() == frozenset()
    assert not slurm.expected()
    assert slurm.settings() is None
    assert slurm.nodes() == []
    assert slurm.queue() is None
    assert not slurm.found_without_environment()
    assert ending("7", tmp_path / "absent.log") == Ending("7", "unknown")


def test_a_controller_that_is_down_has_nothing_to_say(fake_slurm: Any) -> None:
    fake_slurm.silence(*slurm.COMMANDS)
    assert slurm.commands() == set(slurm.COMMANDS)
    assert slurm.expected()
    assert slurm.settings() is None
    assert slurm.queue() is None
    assert ending("7").kind == "unknown"


def test_a_command_that_hangs_is_left(fake_slurm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_slurm.answer("squeue", "", when="/bin/sleep 5")
    monkeypatch.setattr(slurm, "_TIMEOUT_S", 0.2)
    assert slurm.queue() is None


def test_the_variable_alone_says_that_this_is_a_cluster(fake_slurm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/somewhere/slurm.conf")
    assert slurm.expected()


def test_settings(fake_slurm: Any) -> None:
    fake_slurm.answer("scontrol", CONFIG, when='[ "$*" = "show config" ]')
    assert slurm.settings() == slurm.Settings("22.05.8", "/etc/slurm/slurm.conf", False, 300, 30)


def test_accounting_is_slurmdbd(fake_slurm: Any) -> None:
    fake_slurm.answer("scontrol", CONFIG.replace("storage/none", "storage/slurmdbd").replace("300 sec", "2"))
    found = slurm.settings()
    assert found is not None
    assert found.accounting
    assert found.min_job_age_s == 2


def test_whether_the_cluster_is_found_by_the_variable_alone(fake_slurm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_slurm.answer("scontrol", CONFIG, when='[ -n "$SLURM_CONF" ]')
    monkeypatch.setenv("SLURM_CONF", "/somewhere/slurm.conf")
    assert slurm.settings() is not None
    assert not slurm.found_without_environment()
    fake_slurm.answer("scontrol", CONFIG)
    assert slurm.found_without_environment()


def test_nodes(fake_slurm: Any) -> None:
    fake_slurm.answer(
        "sinfo",
        """gpu01|main*|512000|64|2-00:00:00|mixed|gpu:h200:2(S:0-1),shard:h200:16
gpu01|long|512000|64|infinite|mixed|gpu:h200:2(S:0,1),shard:h200:16
cpu01|main*|64000|16|2-00:00:00|down*|(null)
nonsense""",
    )
    first, second, third = slurm.nodes()
    assert first == slurm.Node("gpu01", "main", True, {"h200": 2}, 512000, 64, 172800, "mixed")
    assert (second.partition, second.default, second.time_limit_s, second.gpus) == ("long", False, None, {"h200": 2})
    assert (third.gpus, third.state) == ({}, "down")
    assert slurm.with_gpus([first, second, third]) == [first, second]
    (call,) = fake_slurm.calls.read_text().splitlines()
    assert call.startswith("sinfo ")


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", {}),
        ("", {}),
        ("gpu:2", {"": 2}),
        ("gpu:h200:2(S:0-1)", {"h200": 2}),
        ("gpu:a100:4(S:0,2),gpu:v100:2(S:1),nvme:1", {"a100": 4, "v100": 2}),
        ("gpu:nvidia_a100-sxm4-40gb_1g.5gb:7", {"nvidia_a100-sxm4-40gb_1g.5gb": 7}),
        ("shard:16", {}),
        ("gpu", {"": 1}),
        ("gpu:h200", {"h200": 1}),
    ],
)
def test_generic_resources(gres: str, gpus: dict[str, int]) -> None:
    assert slurm.gpus_of(gres) == gpus


def test_the_queue(fake_slurm: Any) -> None:
    fake_slurm.answer(
        "squeue",
        """12|RUNNING|None|1-02:03:04|main|2026-11-30T04:00:00|/data/run|4f2a|rule_fit_wildcards_101
13|PENDING|Resources|0:00|main|N/A|/data/run|4f2a|rule_train
14|PENDING|Priority|0:00|main|2026-11-30T09:00:00|/home/me|bash|(null)
15|PENDING|Dependency|0:00|main|N/A|/data/run|odd|a comment | with a bar
short|line""",
    )
    first, second, third, fourth = slurm.queue() or []
    assert first == slurm.QueuedJob(
        "12",
        "RUNNING",
        "",
        93784,
        "main",
        datetime(2026, 11, 30, 4),
        Path("/data/run"),
        "4f2a",
        "rule_fit_wildcards_101",
    )
    assert (second.state, second.reason, second.start) == ("PENDING", "Resources", None)
    assert third.comment == ""
    assert fourth.comment == "a comment | with a bar"
    assert f"--user {os.getuid()}" in fake_slurm.calls.read_text()


@given(st.integers(0, 10**7))
def test_times(total: int) -> None:
    days, rest = divmod(total, 86400)
    hours, minutes, seconds = rest // 3600, rest // 60 % 60, rest % 60
    assert slurm.seconds(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == total
    if not days:
        assert slurm.seconds(f"{hours}:{minutes:02}:{seconds:02}") == total
        if not hours:
            assert slurm.seconds(f"{minutes}:{seconds:02}") == total


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 5400), ("2-0", 172800), ("1-12:30", 131400), ("infinite", None), ("INVALID", None)]
)
def test_other_times(text: str, seconds: int | None) -> None:
    assert slurm.seconds(text) == seconds


# how a job ended -----------------------------------------------------------------------------------------------

ASKED = "    resources: mem_mb=8000, mem_mib=7630, disk_mb=1000, tmpdir=/tmp, runtime=720, gpu=1\n"
LOGS = {
    "memory": [
        "slurmstepd: error: Detected 1 oom_kill event in StepId=12.batch. Some of the step tasks have been OOM Killed.",
        "slurmstepd: error: Detected 1 oom-kill event(s) in step 12.0 cgroup.",
        "slurmstepd: error: Exceeded job memory limit at some point.",
        "slurmstepd: error: Job 12 exceeded memory limit (9000000000 > 8388608000), being killed",
        "slurmstepd: error: StepId=12.0 exceeded memory limit (9000000000 > 8388608000)",
        "srun: error: gpu01: task 0: Out Of Memory",
        "slurmstepd: error: Exceeded job memory limit\nslurmstepd: error: *** JOB 12 ON gpu01 CANCELLED AT now ***",
    ],
    "time": ["slurmstepd: error: *** JOB 12 ON gpu01 CANCELLED AT 2026-11-30T05:07:09 DUE TO TIME LIMIT ***"],
    "preempted": ["slurmstepd: error: *** JOB 12 ON gpu01 CANCELLED AT 2026-11-30T05:07:09 DUE TO PREEMPTION ***"],
    "node": [
        "slurmstepd: error: *** JOB 12 ON gpu01 CANCELLED AT 2026-11-30T05:07:09 DUE TO NODE FAILURE, SEE SLURMCTLD "
        "LOG FOR DETAILS ***"
    ],
    "cancelled": [
        "slurmstepd: error: *** JOB 12 ON gpu01 CANCELLED AT 2026-11-30T05:07:09 ***",
        "slurmstepd: error: *** STEP 12.0 ON gpu01 CANCELLED AT 2026-11-30T05:07:09 ***",
    ],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in LOGS.items() for text in texts])
def test_the_log_says_why(kind: str, text: str, fake_slurm: Any, tmp_path: Path) -> None:
    fake_slurm.silence("sacct", "scontrol")
    log = tmp_path / "12.log"
    log.write_text(f"rule fit:\n{ASKED}\n{text}\n")
    found = ending("12", log)
    assert (found.kind, found.memory_mb, found.runtime_min) == (kind, 8000, 720)


def test_what_the_accounting_says(fake_slurm: Any) -> None:
    fake_slurm.answer(
        "sacct",
        """12|NODE_FAIL|1:0||8000M|720|gpu01
12|OUT_OF_MEMORY|0:125||8000M|720|gpu02
12.batch|OUT_OF_MEMORY|0:125|1024K|||gpu02
12.0|OUT_OF_MEMORY|0:125|8100000K|||gpu02
120|COMPLETED|0:0||1M|1|gpu02""",
    )
    assert ending("12") == Ending("12", "memory", "OUT_OF_MEMORY", 0, 8000, 7910, 720, "gpu02")


def test_many_jobs_are_asked_about_at_once(fake_slurm: Any, tmp_path: Path) -> None:
    fake_slurm.answer("sacct", "1|FAILED|1:0||1M|1|a\n1.0|FAILED|1:0|2048K|||a\n2|CANCELLED|0:0||1M|1|b")
    fake_slurm.answer("scontrol", "JobId=2 JobState=FAILED ExitCode=0:0\nJobId=3 JobState=NODE_FAIL ExitCode=0:0")
    endings = Endings(str(number) for number in range(600))
    found = {job_id: endings.of(job_id, tmp_path / "absent").kind for job_id in ("1", "2", "3", "4")}
    assert found == {"1": "failed", "2": "cancelled", "3": "node", "4": "unknown"}
    assert endings.of("1").peak_mb == 2
    calls = [line.split()[0] for line in fake_slurm.calls.read_text().splitlines()]
    assert sorted(calls) == ["sacct", "sacct", "scontrol"]


def test_who_cancelled(fake_slurm: Any) -> None:
    fake_slurm.answer("sacct", f"12|CANCELLED by {os.getuid()}|0:15||8000M|720|gpu02")
    found = ending("12")
    assert found.kind == "cancelled"
    assert found.by
    assert found.by != f"user {os.getuid()}" or os.getuid() not in (0,)


def test_the_controller_where_there_is_no_accounting(fake_slurm: Any) -> None:
    fake_slurm.answer("sacct", "")  # "Slurm accounting storage is disabled", and exit status 0
    fake_slurm.answer(
        "scontrol",
        "JobId=12 JobName=4f2a UserId=me(1000) Priority=1 JobState=TIMEOUT Reason=TimeLimit Dependency=(null) "
        "Requeue=1 Restarts=1 ExitCode=0:15 RunTime=00:01:20 TimeLimit=1-00:00:00 NodeList=gpu01 MinMemoryNode=2G",
    )
    assert ending("12") == Ending("12", "time", "TIMEOUT", 0, 2048, None, 1440, "gpu01")
    assert "scontrol --oneliner show job 12" in fake_slurm.calls.read_text()


def test_failed_to_the_controller_killed_for_memory_by_the_log(fake_slurm: Any, tmp_path: Path) -> None:
    fake_slurm.answer("scontrol", "JobId=12 JobState=FAILED ExitCode=1:0 TimeLimit=00:10:00 NodeList=(null)")
    log = tmp_path / "12.log"
    log.write_text("slurmstepd: error: Job 12 exceeded memory limit (1100000000 > 1048576000), being killed\n")
    found = ending("12", log)
    assert (found.kind, found.peak_mb) == ("memory", 1049)
    assert not fake_slurm.calls.exists()  # the log has said it
    log.write_text("nothing of the kind\n")
    found = ending("12", log)
    assert (found.kind, found.exit_code, found.runtime_min, found.node) == ("failed", 1, 10, "")


def test_of_a_requeued_job_the_last_time_counts(fake_slurm: Any, tmp_path: Path) -> None:
    """Where the cluster lets its log go on (JobFileAppend)."""
    start = "  Command: snakemake --target-jobs fit:subject=101 --executor slurm-jobstep --jobs 1 --mode remote\n"
    log = tmp_path / "12.log"
    log.write_text(f"{start}{LOGS['preempted'][0]}\n{start}{LOGS['time'][0]}\n")
    assert ending("12", log).kind == "time"
    log.write_text(f"{start}{LOGS['memory'][0]}\n{start}rule fit:\n{ASKED}")
    assert ending("12", log).kind == "unknown"


@pytest.mark.parametrize("kind", ["completed", "time", "preempted"])
def test_what_slurm_is_sure_of_no_log_changes(kind: Any) -> None:
    assert in_light_of(Ending("12", kind), LOGS["cancelled"][0]).kind == kind


def test_a_log_without_end_is_read_at_both_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("first\n" + "x" * 10_000 + "\nlast\n")
    text = tail(log, 1000)
    assert text.startswith("first\n")
    assert text.endswith("\nlast\n")
    assert len(text) <= 1001
    assert tail(tmp_path / "absent") == ""


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8000M", 8000),
        ("8Gn", 8192),
        ("4096Kc", 4),
        ("2048", 2),
        ("1.5G", 1536),
        ("0", None),
        ("", None),
        ("16?", None),
    ],
)
def test_sizes(text: str, size: int | None) -> None:
    assert megabytes(text) == size

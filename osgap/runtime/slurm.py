"""What Slurm says: its settings, nodes and queue, from its own commands.

Nothing here raises on a machine without Slurm, or where it does not answer: then there is nothing to say. How a job
ended is in `osgap.runtime.slurm_endings`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

CONFIGURATION = "SLURM_CONF"
"""Environment variable with the path of Slurm's configuration."""

COMMANDS = ("sbatch", "squeue", "scontrol", "sacct", "sinfo", "srun", "scancel")

_TIMEOUT_S = 20.0
_NOTHING = ("", "(null)", "N/A", "n/a", "None", "Unknown", "UNLIMITED", "infinite")


@dataclass(frozen=True)
class Settings:
    """Of the cluster, from `scontrol show config`."""

    version: str
    configuration: str
    """Path of the configuration that was read."""
    accounting: bool
    """Whether finished jobs are kept in a database (slurmdbd), so that `sacct` knows them."""
    min_job_age_s: int | None
    """How long the controller, and so `squeue` and `scontrol`, remembers a finished job [seconds]."""
    kill_wait_s: int | None
    """Time between SIGTERM and SIGKILL [seconds]."""


@dataclass(frozen=True)
class Node:
    """A node as one of its partitions offers it."""

    name: str
    partition: str
    default: bool
    """Whether jobs go to this partition that name none."""
    gpus: dict[str, int]
    """Model, or empty where the cluster names none, -> number."""
    memory_mb: int
    cpus: int
    time_limit_s: int | None
    """Of the partition [seconds]; None without one."""
    state: str

    @property
    def gpu_count(self) -> int:
        """Of all models."""
        return sum(self.gpus.values())


@dataclass(frozen=True)
class QueuedJob:
    """A job of this user that waits or runs."""

    id: str
    state: str
    """As `squeue` says it: `PENDING`, `RUNNING`, `COMPLETING`, …"""
    reason: str
    """Why it waits, in Slurm's word (`Priority`, `Resources`); empty for one that runs."""
    elapsed_s: int
    partition: str
    start: datetime | None
    """When Slurm expects to start it, or has; in the cluster's time."""
    folder: Path
    """The working directory that it was submitted in."""
    name: str
    """What Snakemake calls its run; all jobs of one Snakemake have the same."""
    comment: str
    """What Snakemake says of the job: `rule_fit_wildcards_101`."""

    @property
    def running(self) -> bool:
        """Whether it has begun, and has not ended."""
        return self.state in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED")


def commands() -> frozenset[str]:
    """Which of Slurm's commands are on PATH."""
    return frozenset(name for name in COMMANDS if shutil.which(name))


def expected() -> bool:
    """Whether anything says that this machine belongs to a cluster."""
    return CONFIGURATION in os.environ or bool(commands())


def ask(*command: str, environment: Mapping[str, str] | None = None) -> str | None:
    """What a command of Slurm's prints; None where it is not there, fails, or does not answer in time."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, env=environment, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


def settings(environment: Mapping[str, str] | None = None) -> Settings | None:
    """The cluster's settings; None where its controller does not answer."""
    text = ask("scontrol", "show", "config", environment=environment)
    if text is None:
        return None
    values = dict(re.findall(r"^(\w+)\s*= ?(.*?)\s*$", text, re.MULTILINE))
    return Settings(
        version=values.get("SLURM_VERSION", ""),
        configuration=values.get("SLURM_CONF", ""),
        accounting=values.get("AccountingStorageType", "").endswith("/slurmdbd"),
        min_job_age_s=_number(values.get("MinJobAge", "")),
        kill_wait_s=_number(values.get("KillWait", "")),
    )


def found_without_environment() -> bool:
    """Whether Slurm's commands find the cluster without SLURM_CONF, as `srun` must within a job of Snakemake's."""
    environment = {name: value for name, value in os.environ.items() if name != CONFIGURATION}
    return settings(environment) is not None


def nodes() -> list[Node]:
    """Every node of every partition, in Slurm's order."""
    text = ask("sinfo", "--noheader", "--Node", "--format", "%N|%P|%m|%c|%l|%T|%G") or ""
    return [node for line in text.splitlines() if (node := _node(line.strip())) is not None]


def _node(line: str) -> Node | None:
    fields = line.split("|", 6)
    if len(fields) != 7:
        return None
    name, partition, memory, cpus, limit, state, gres = fields
    return Node(
        name=name,
        partition=partition.rstrip("*"),
        default=partition.endswith("*"),
        gpus=gpus_of(gres),
        memory_mb=_number(memory) or 0,
        cpus=_number(cpus) or 0,
        time_limit_s=seconds(limit),
        state=state.rstrip("*~#!%$@+^-"),
    )


def gpus_of(gres: str) -> dict[str, int]:
    """Model -> number of GPUs in a list of generic resources: `gpu:h200:2(S:0-1),shard:8` has two `h200`."""
    found: dict[str, int] = {}
    for item in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *words = item.strip().split(":")
        if name != "gpu":
            continue
        count = words.pop() if words and words[-1].isdecimal() else "1"
        model = ":".join(words)
        found[model] = found.get(model, 0) + int(count)
    return found


def queue() -> list[QueuedJob] | None:
    """This user's jobs that wait or run, in Slurm's order; None where `squeue` does not answer."""
    form = "%i|%T|%r|%M|%P|%S|%Z|%j|%k"
    text = ask("squeue", "--noheader", "--user", str(os.getuid()), "--format", form)
    if text is None:
        return None
    return [job for line in text.splitlines() if (job := _queued(line.strip())) is not None]


def jobs_logging_below(folder: Path) -> list[str]:
    """Ids of this user's jobs, waiting or running, whose output Slurm writes below a folder."""
    queued = {job.id for job in queue() or ()}
    if not queued:
        return []
    text = ask("scontrol", "--oneliner", "show", "job") or ""
    pairs = (re.search(r"\bJobId=(\d+)\b.*\bStdOut=(\S+)", line) for line in text.splitlines())
    found = [match[1] for match in pairs if match and Path(match[2]).is_relative_to(folder.resolve())]
    return [job_id for job_id in found if job_id in queued]


def cancel(job_ids: Sequence[str]) -> bool:
    """Whether Slurm was told to end jobs: those that wait at once, those that run after a SIGTERM and `KillWait`."""
    return ask("scancel", *job_ids) is not None


def _queued(line: str) -> QueuedJob | None:
    fields = line.split("|", 8)
    if len(fields) != 9:
        return None
    number, state, reason, elapsed, partition, start, folder, name, comment = fields
    return QueuedJob(
        id=number,
        state=state,
        reason=_word(reason),
        elapsed_s=seconds(elapsed) or 0,
        partition=partition,
        start=_time(start),
        folder=Path(folder),
        name=name,
        comment=_word(comment),
    )


def seconds(text: str) -> int | None:
    """Slurm's way of writing a time: `1-02:03:04`, `2:03:04`, `3:04`, `90` (minutes); None for no limit."""
    days, dash, rest = text.strip().rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in parts) or (dash and not days.isdecimal()):
        return None
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, rest_s = (*numbers, 0, 0)[:3]
    else:
        hours, minutes, rest_s = {1: (0, *numbers, 0), 2: (0, *numbers), 3: tuple(numbers)}[min(len(numbers), 3)]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest_s


def described(gpus: Mapping[str, int]) -> str:
    """For people: `2 h200`, `4 without a model's name`."""
    return ", ".join(f"{count} {model or 'GPUs (no model named)'}" for model, count in gpus.items()) or "no GPU"


def with_gpus(found: Sequence[Node]) -> list[Node]:
    """Those that have any."""
    return [node for node in found if node.gpu_count]


def _number(text: str) -> int | None:
    match = re.match(r"\d+", text.strip())
    return int(match[0]) if match else None


def _word(text: str) -> str:
    return "" if text in _NOTHING else text


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None

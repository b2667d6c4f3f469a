"""Runs of the reduced demo whose jobs Slurm starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from workflow.conftest import Checkout

from .cluster import Cluster
from .daemons import until

COMMAND = (
    "--profile", "slurm",
    "--configfile", "profiles/demo/demo.yaml", "profiles/demo/reduced.yaml",
    # The threads of `profiles/demo`: other sums of other threads would be other bytes.
    "--set-threads", "fit=1", "oneshot=1", "evaluate=1", "train=2", "synthetic_person=1",
    # A cluster on this machine answers at once.
    "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5",
)  # fmt: skip

STARTED: list[subprocess.Popen] = []
"""Every Snakemake, so that a test that fails leaves none behind."""


class HasEnvironment(Protocol):
    """A cluster, or what stands for it."""

    def environment(self, outside: Mapping[str, str]) -> dict[str, str]:
        """`outside`, with Slurm's commands talking to it."""


@dataclass(frozen=True)
class SlurmRun:
    """`snakemake --profile slurm` in a checkout.

    Args:
        checkout: whose results are made.
        cluster: that has started, or what stands for it.
        output: what Snakemake says is appended to it.
        arguments: beside `COMMAND`, which may be left out.
    """

    checkout: Checkout
    cluster: HasEnvironment
    output: Path
    arguments: tuple[str, ...] = ()

    @property
    def slurm(self) -> Cluster:
        """The cluster, where it is a real one."""
        assert isinstance(self.cluster, Cluster)
        return self.cluster

    @property
    def said(self) -> str:
        return self.output.read_text()

    def start(self, *arguments: str) -> subprocess.Popen:
        """Of a process group of its own, as in a terminal."""
        with self.output.open("a") as out:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("impatient.py")), *COMMAND, *self.arguments, *arguments],
                cwd=self.checkout.root, env=self.cluster.environment(self.checkout.environment),
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        STARTED.append(process)
        return process

    def finish(self, *arguments: str, patience: float = 900) -> str:
        """Run to the end and return what was said in this run.

        Raises:
            AssertionError: it failed.
        """
        before = len(self.said) if self.output.exists() else 0
        process = self.start(*arguments)
        try:
            status = process.wait(patience)
        except subprocess.TimeoutExpired:
            kill(process)
            status = None
        said = self.said[before:]
        assert status == 0, f"ended with {status}:\n{said}"
        return said

    def job(self, comment: str, state: str = "RUNNING", patience: float = 300) -> dict[str, str]:
        """The first job whose comment (rule and wildcards) begins so and that is in this state.

        Raises:
            AssertionError: there is none within `patience` seconds.
        """
        found: list[dict[str, str]] = []

        def is_there() -> bool:
            found[:] = [
                job for job in self.slurm.jobs()
                if job.get("Comment", "").startswith(comment) and job["JobState"] == state
            ]  # fmt: skip
            return bool(found)

        assert until(is_there, patience), f"no {comment} became {state}:\n{self.said}"
        return found[0]


def kill(process: subprocess.Popen, by: signal.Signals = signal.SIGKILL) -> None:
    """Snakemake and what it has started here; not the jobs, which are Slurm's."""
    os.killpg(process.pid, by)
    process.wait()

"""Runs that look as if they had been under way for a while, without a single computation."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from osgap.operations.run import Run, open_run
from osgap.workflow.config import load_config
from osgap.workflow.jobs import Job, jobs
from osgap.workflow.pipeline import Pipeline

ROOT = Path(__file__).parents[2]

# As Snakemake's Slurm plugin 2.8 writes them, shortened.
HEAD = """
SNAKEMAKE
=========
  Date: 2026-11-30 05:18:31
  Command: …/snakemake/__main__.py --snakefile …/Snakefile --target-jobs {targets} --allowed-rules x --mode remote

rule {rule}:
    log: logs/x.log
    jobid: 0
    resources: tmpdir=<TBD>, disk_mb=50000, mem_mb={memory}, mem=150 MB, mem_mib=144, runtime={minutes}
srun: cluster configuration lacks support for cpu binding
"""
OUT_OF_MEMORY = """slurmstepd-node1: error: StepId=3.0 exceeded memory limit (198610944 > 157286400), being killed
srun: Job step aborted: Waiting up to 7 seconds for job step to finish.
slurmstepd-node1: error: *** STEP 3.0 ON node1 CANCELLED AT 2026-11-30T05:18:53 ***
slurmstepd-node1: error: Exceeded job memory limit
srun: error: node1: task 0: Killed
"""
TIME_LIMIT = "slurmstepd-node1: error: *** STEP 4.0 ON node1 CANCELLED AT 2026-11-30T05:19:22 DUE TO TIME LIMIT ***\n"
ERROR = """[Mon Nov 30 05:18:53 2026]
Error in rule {rule}:
    message: None
    jobid: 0
WorkflowError:
At least one job did not complete successfully.
"""


@dataclass
class World:
    """A results folder, and Slurm beside it."""

    results: Path
    pipeline: Pipeline
    slurm: Any
    jobs: list[Job] = field(default_factory=list)

    def job(self, name: str) -> Job:
        (found,) = (job for job in self.jobs if job.name == name)
        return found

    def finish(self, names: Iterable[str]) -> None:
        """Let jobs have been done, and all that they need."""
        makers = {path: job for job in self.jobs for path in job.outputs}
        waiting = [self.job(name) for name in names]
        while waiting:
            job = waiting.pop()
            for path in job.outputs:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            waiting += [makers[path] for path in job.inputs if not makers[path].done]

    def say(self, name: str, text: str, age_s: float = 0.0) -> Path:
        """Write a stage's log."""
        return written(self.job(name).log, text, age_s)

    def slurm_log(self, folder: str, job_id: int, text: str = "", age_s: float = 0.0, **head: Any) -> Path:
        """Write one of Slurm's."""
        values = {"targets": "x:", "rule": "fit", "memory": 8000, "minutes": 720, **head}
        return written(self.results / "logs/slurm" / folder / f"{job_id}.log", HEAD.format(**values) + text, age_s)

    def queue(self, *lines: str) -> None:
        """Let `squeue` say this: `ID|STATE|REASON|TIME|COMMENT`."""
        shown = []
        for line in lines:
            job_id, state, reason, elapsed, comment = line.split("|")
            shown.append(f"{job_id}|{state}|{reason}|{elapsed}|main|N/A|{self.results.parent}|4f2a|{comment}")
        self.slurm.answer("squeue", "\n".join(shown))

    def record(self, *, alive: bool = True, **process: Any) -> None:
        """Write what Snakemake writes of itself: with the process of these tests, or one that is gone."""
        config = json.loads(self.pipeline.config.model_dump_json())
        content = {"config": {**config, "results": "results"}, "versions": {}, "arguments": []}
        content["process"] = {"host": socket.gethostname(), "pid": os.getpid() if alive else 2**22 + 1, **process}
        text = json.dumps(content).replace(f"{self.results}/", "results/")
        written(self.results / "run.json", text, age_s=3600)

    def open(self, experiment: str | None = None) -> Run:
        return open_run(str(self.results), experiment=experiment)


def written(path: Path, text: str, age_s: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    changed = time.time() - age_s
    os.utime(path, (changed, changed))
    return path


MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path, fake_slurm: Any) -> MakeWorld:
    """The demo's people in an empty results folder."""

    def make(**changes: Any) -> World:
        results = tmp_path / "results"
        results.mkdir()
        sources = [ROOT / "config.yaml", ROOT / "profiles/demo/demo.yaml"]
        pipeline = Pipeline(load_config([*sources, {"results": str(results), **changes}]))
        world = World(results, pipeline, fake_slurm, jobs(pipeline))
        world.record()
        return world

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()

"""The jobs of a run in a few lasting processes instead of one process each: what a sweep on a machine with GPUs needs.

Which jobs there are, their files and their order is `osgap.workflow.jobs`; what a job does is the command that its rule
calls (`osgap.cli.stages`), with the same config, so that the results folder is as Snakemake leaves it. Three kinds of
processes wait for jobs: those that need a card (several side by side on each, because single people leave most of it
idle), one per card that trains, and one per core for what needs no card. The processes that share a card are told so as
a leaseholder tells those that it starts (`osgap.runtime.gpus`).

Done is what has all its files, and was made by the same settings and code from what was made by the same settings and
code; `study/made.json` in the results folder keeps that, by digests, so that nothing large is read.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.workers import DONE, SHEET, STOPPED, Worker
from osgap.runtime.artifacts import write_json
from osgap.runtime.code import code_digest, syntax_digest
from osgap.runtime.provenance import file_digest
from osgap.workflow.stages import STAGES

if TYPE_CHECKING:
    from osgap.cli.common import Common
    from osgap.workflow.jobs import Job
    from osgap.workflow.pipeline import Pipeline

STAGES_IN_ORDER = (
    *("synthetic-head", "synthetic-person", "download", "import"),
    *("fit", "bake", "train", "calibrate", "oneshot", "evaluate", SHEET),
)

_CARD, _TRAINING, _CORE = "card", "training", "core"
_KINDS = {"train": _TRAINING, **dict.fromkeys(("fit", "calibrate", "oneshot", "evaluate", SHEET), _CARD)}
_POLL_SECONDS = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Crew:
    """How many processes wait for jobs, and what each may use."""

    cards: tuple[str, ...]
    """As `CUDA_VISIBLE_DEVICES` takes them; none on a machine without."""
    side_by_side: int
    """Jobs at once on each card, or on the CPU."""
    cores: int
    """Of the machine [cores]."""

    def workers(self) -> list[Worker]:
        """The processes, none of them started."""
        share = max(1, self.cores // self.side_by_side)
        places = self.cards or ("",)
        return [
            *(Worker(_CORE, "", 1) for _ in range(self.cores)),
            *(Worker(_CARD, card, share) for _ in range(self.side_by_side) for card in places),
            *(Worker(_TRAINING, card, self.cores // len(places)) for card in places),
        ]


# what is done already -----------------------------------------------------------------------------------------


class Ledger:
    """By which settings and code each job's files were made.

    Args:
        any_code: whether settings alone decide.
    """

    def __init__(self, pipeline: Pipeline, jobs: Sequence[Job], any_code: bool) -> None:
        self._file = folder_of(pipeline) / "made.json"
        self._any_code = any_code
        self._made: dict[str, dict[str, str]] = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self._keys: dict[str, dict[str, str]] = {}
        made_by = {path: job for job in jobs for path in job.outputs}
        digest = functools.cache(file_digest)
        for job in jobs:  # in order: what a job needs is before it
            before = sorted({made_by[path].name for path in job.inputs if path in made_by})
            given = {path.name: digest(path) for path in _given(pipeline, job)}
            settings = [_settings(pipeline, job), given, [self._keys[name]["settings"] for name in before]]
            code = [_code(job.stage), [self._keys[name]["code"] for name in before]]
            self._keys[job.name] = {"settings": _digest(settings), "code": _digest(code)}

    def is_done(self, job: Job) -> bool:
        """Whether the job's files are what it would make."""
        made, key = self._made.get(job.name), self._keys[job.name]
        return (
            job.done and made is not None and (made == key or (self._any_code and made["settings"] == key["settings"]))
        )

    def add(self, job: Job) -> None:
        """Remember that a job is done."""
        self._made[job.name] = self._keys[job.name]
        write_json(self._file, self._made)


def folder_of(pipeline: Pipeline) -> Path:
    """Where all that only the sweep writes lies."""
    return pipeline.layout.results / "study"


def _given(pipeline: Pipeline, job: Job) -> list[Path]:
    """Files that a job reads and no job makes, whose content nothing else stands for."""
    if job.stage == "synthetic-head":
        return []
    head = [] if pipeline.config.synthetic is not None else pipeline.head_files
    if job.stage == "import" and job.subject is not None and not pipeline.makes(pipeline.tracking_pattern(job.subject)):
        return [*head, *pipeline.tracking_files(job.subject)]
    return head


def _settings(pipeline: Pipeline, job: Job) -> str:
    """As the parameter `settings` of the job's rule."""
    run = pipeline.run(job.experiment)
    if job.stage == SHEET:
        return json.dumps([run.config.report.figure_scale, run.methods])
    people = () if job.subject is None else (job.subject,)
    supervision = run.personalised[job.wildcards["folder"]] if job.stage in ("calibrate", "oneshot") else None
    return run.settings(job.stage, *people, supervision=supervision)


def _code(stage: str) -> str:
    if stage == SHEET:
        return syntax_digest(Path(__file__).with_name("sheets.py").read_bytes())
    return code_digest(STAGES[stage].module)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


# the loop -----------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What came of the jobs."""

    jobs: list[dict[str, Any]] = field(default_factory=list)
    """Of each that ran: name, stage, seconds since the beginning at its start and end, kind of process."""
    found: int = 0
    """How many were done already."""
    total: int = 0
    """How many were to run."""
    failed: dict[str, str] = field(default_factory=dict)
    """Job -> why."""
    left: list[str] = field(default_factory=list)
    """Jobs that did not run: the time was over, or what they need is not there."""
    seconds: float = 0.0
    """Of all together [s]."""


@dataclass(frozen=True)
class Sweep:
    """What `run` is told.

    Attributes:
        jobs: each after those that it needs.
        stages: whose jobs run; what others would have to make first is left.
        common: config and overrides, as the command line of every stage is told them.
        limit: seconds after which no job begins, and those that run are told to save their state [s].
        say: takes a line of progress.
    """

    jobs: Sequence[Job]
    ledger: Ledger
    crew: Crew
    common: Common
    stages: Collection[str] = STAGES_IN_ORDER
    limit: float | None = None
    say: Callable[[str], object] = print

    def run(self) -> Report:
        """Run all that is not done, each job as soon as what it needs is there and a process is free."""
        undone = [job for job in self.jobs if not self.ledger.is_done(job)]
        waiting = [job for job in undone if job.stage in self.stages]
        report = Report(found=len(self.jobs) - len(undone), total=len(waiting))
        begin = time.perf_counter()
        unmade = {path for job in undone for path in job.outputs}
        workers = self.crew.workers()
        try:
            with _told_to_stop() as told:
                while True:
                    report.seconds = time.perf_counter() - begin
                    stopping = told() or (self.limit is not None and report.seconds > self.limit)
                    if not stopping:
                        waiting = _hand_out(waiting, unmade, workers, self.common, report.seconds)
                    busy = [worker for worker in workers if worker.job is not None]
                    if not busy:
                        break
                    if stopping:
                        for worker in busy:
                            worker.stop()
                    wait([worker.connection for worker in busy], _POLL_SECONDS)
                    report.seconds = time.perf_counter() - begin
                    for worker in busy:
                        self._take(worker, unmade, report)
        finally:
            for worker in workers:
                worker.end()
        report.left += [job.name for job in waiting]
        return report

    def _take(self, worker: Worker, unmade: set[Path], report: Report) -> None:
        """What a process has to say of its job, if anything."""
        if (answer := worker.answer()) is None or (job := worker.job) is None:
            return
        status, seconds, message = answer
        worker.job = None
        said = f"[{report.seconds:6.1f} s] {job.name}:"
        if status == DONE:
            self.ledger.add(job)
            unmade.difference_update(job.outputs)
            ran = {"job": job.name, "stage": job.stage, "kind": worker.kind, "own": seconds}
            report.jobs.append({**ran, "start": worker.since, "end": report.seconds})
            self.say(f"{said} {seconds:.1f} s ({len(report.jobs)} of {report.total})")
        elif status == STOPPED:
            report.left.append(job.name)
            self.say(f"{said} stopped after {seconds:.1f} s; the same command goes on")
        else:
            report.failed[job.name] = message
            self.say(f"{said} FAILED after {seconds:.1f} s; see {job.log}\n{message}")


@contextlib.contextmanager
def _told_to_stop() -> Iterator[Any]:
    """Yield a function that says whether SIGTERM or SIGINT has come."""
    received: list[int] = []
    before = {number: signal.signal(number, lambda got, _: received.append(got)) for number in _SIGNALS}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hand_out(
    waiting: Sequence[Job], unmade: Collection[Path], workers: Sequence[Worker], common: Common, now: float
) -> list[Job]:
    """Give jobs whose files are there to processes that are free; returns the others.

    Args:
        unmade: files that jobs are still to make, or failed to: what is there of them is of before.
    """
    left = []
    for job in waiting:
        kind = _KINDS.get(job.stage, _CORE)
        free = (worker for worker in workers if worker.kind == kind and worker.job is None)
        # Those that have started first: a process needs seconds to load its libraries.
        worker = min(free, key=lambda worker: worker.process is None, default=None)
        if worker is None or any(path in unmade for path in job.inputs):
            left.append(job)
        else:
            worker.begin(job, common, now)
    return left

"""A process that does one job of the workflow after the other, for `benchmarks.sweep`.

Starting Python, loading torch and opening a card take more seconds than most jobs of a small person. Here the libraries
are loaded once, in a server of which all processes are copies, and each opens its card once.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from osgap.cli.common import Common
from osgap.runtime.allocation import LEASED, VISIBLE
from osgap.runtime.errors import UserError
from osgap.workflow.stages import STAGES

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from osgap.workflow.jobs import Job

SHEET = "sheet"
"""The one stage that is no stage of the workflow: a person's pictures, see `benchmarks.sheets`."""

_ROOT = Path(__file__).parents[1]
_PRELOADED = [stage.module for stage in STAGES.values()] + ["benchmarks.sheets", "numba", "torch"]

DONE, FAILED, STOPPED = "done", "failed", "stopped"
"""What can become of a job."""


def load_ahead() -> None:
    """Let the server begin to load libraries, of which all processes are copies."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    with _environment():
        forkserver.ensure_running()


class Worker:
    """A process that does one job after the other; it starts with its first.

    Args:
        kind: of jobs.
        card: that it sees; empty for none.
        threads: of numerical libraries [threads].
    """

    def __init__(self, kind: str, card: str, threads: int) -> None:
        self.kind, self._card, self._threads = kind, card, max(1, threads)
        self.process: BaseProcess | None = None
        self.connection: Connection
        self.job: Job | None = None
        self.since = 0.0
        self._told = False

    def begin(self, job: Job, common: Common, now: float) -> None:
        """Hand over a job."""
        if self.process is None:
            self._start()
        self.job, self.since, self._told = job, now, False
        self.connection.send((job.stage, job.wildcards, job.outputs[0], job.log, _of(job, common)))

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self._card, self._threads))
        self.process.start()
        theirs.close()

    def answer(self) -> tuple[str, float, str] | None:
        """What has become of the job; None while it runs."""
        assert self.process is not None
        if not self.connection.poll():
            return None
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code, self.process = self.process.exitcode, None
            return (STOPPED if self._told else FAILED), 0.0, f"its process ended with exit code {code}"

    def stop(self) -> None:
        """Let the job save its state and end."""
        if not self._told and self.process is not None:
            self._told = True
            self.process.terminate()

    def end(self) -> None:
        """Let the process end when it has nothing to do; it is killed in the middle of a job."""
        if self.process is None:
            return
        self.connection.close()
        if self.job is not None:
            self.process.kill()
        self.process.join()


def _of(job: Job, common: Common) -> Common:
    return Common(common.config, common.set, experiment=job.experiment, threads=1 if "synthetic" in job.stage else None)


def _environment() -> AbstractContextManager[Any]:
    """What the server finds that loads the libraries once, and of which all processes are copies."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    # No pool of threads may be there when it is copied; torch and numba start theirs when they are used.
    return mock.patch.dict(os.environ, {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"})


def serve(connection: Connection, card: str, threads: int) -> None:
    """What such a process does: one job after the other, until nobody has another.

    Args:
        card: that it sees, and that whoever has started it holds; empty for none.
        threads: of torch and numba [threads].
    """
    import torch
    from numba.core import config as numba_config

    # CUDA reads them when it is first used, and numba when it is told to: a pool of more threads than it may use would
    # wait for the others by spinning.
    os.environ.update({VISIBLE: card, LEASED: card, "NUMBA_NUM_THREADS": str(threads)})
    numba_config.reload_config()
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as `osgap` does
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it will say
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with contextlib.suppress(EOFError, ConnectionError, SystemExit):
        while True:
            stage, wildcards, output, log, common = connection.recv()
            start = time.perf_counter()
            status, message = _attempt(stage, wildcards, output, log, common)
            connection.send((status, time.perf_counter() - start, message))


def _end_with_parent() -> None:
    """Do as a scheduler would once the process that hands out jobs is killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _attempt(stage: str, wildcards: Mapping[str, str], output: Path, log: Path, common: Common) -> tuple[str, str]:
    try:
        with _logging_to(log):
            try:
                perform(stage, wildcards, output, common)
            except Exception as error:
                traceback.print_exc()
                told = isinstance(error, (UserError, OSError))
                return FAILED, str(error) if told else traceback.format_exc()
    except SystemExit:
        return STOPPED, ""
    return DONE, ""


@contextlib.contextmanager
def _logging_to(log: Path) -> Iterator[None]:
    """Standard error into a job's log, as its rule has it: also what libraries write there by themselves."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(2)
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)


def perform(stage: str, wildcards: Mapping[str, str], output: Path, common: Common) -> None:
    """One job in this process: what its rule calls."""
    from osgap.cli import stages

    subject = wildcards.get("subject", "")
    if stage == SHEET:
        from benchmarks import sheets

        sheets.draw(common.pipeline(), subject, output)
    elif stage == "import":
        stages.import_tracking(subject, common)
    elif stage == "train":
        stages.train(common=common)
    elif stage == "calibrate":
        stages.calibrate("few_shot" if wildcards["folder"] == "few_shot" else "one_shot", common=common)
    elif stage == "oneshot":
        stages.oneshot(subject, common.pipeline().personalised[wildcards["folder"]], common=common)
    elif stage == "evaluate":
        stages.evaluate(wildcards["method"], subject, common)
    else:
        command = getattr(stages, stage.replace("-", "_"))
        command(*([subject] if subject else []), common)

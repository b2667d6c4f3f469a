"""A check of jobs that gets no answer loses none; what a check says of the others stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from osgap.workflow.unanswered import keep_unanswered


class Job:
    """A job, and what becomes of it at each check: `runs`, `succeeds`, `fails`, or nothing is said of it."""

    def __init__(self, fates: list[str]) -> None:
        self.fates = fates


class Executor:
    """Asks for the state of its jobs as Snakemake's does."""

    def __init__(self) -> None:
        self.reported: list[Job] = []

    def report_job_success(self, job: Job) -> None:
        self.reported.append(job)

    def report_job_error(self, job: Job, msg: str, aux_logs: list[str]) -> None:
        self.reported.append(job)

    async def check_active_jobs(self, jobs: list[Job]) -> AsyncIterator[Job]:
        for job in jobs:
            fate = job.fates.pop(0) if job.fates else "succeeds"
            if fate == "succeeds":
                self.report_job_success(job)
            elif fate == "fails":
                self.report_job_error(job, msg="FAILED", aux_logs=[])
            elif fate == "runs":
                yield job


FATES = st.lists(st.sampled_from(["runs", "nothing is said", "succeeds", "fails"]), max_size=4)


@given(st.lists(FATES, min_size=1, max_size=5))
def test_every_job_is_reported_once(fates: list[list[str]]) -> None:
    executor = Executor()
    keep_unanswered(executor)
    jobs = active = [Job(fate) for fate in fates]

    async def check() -> list[Job]:
        return [job async for job in executor.check_active_jobs(active)]

    for _ in range(6):
        active = asyncio.run(check())
    assert not active
    assert sorted(map(id, executor.reported)) == sorted(map(id, jobs))

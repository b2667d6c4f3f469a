"""Jobs that Snakemake's Slurm executor would forget, because Slurm did not answer when it asked for their state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any


def keep_unanswered(executor: Any) -> None:
    """Let the executor ask again for jobs about which a check said nothing.

    A check gives back the jobs that still run and reports those that have ended. One that gets no answer does neither:
    the executor (2.8) then knows none of them any more, and Snakemake waits for ever, however well they end.

    Args:
        executor: of Snakemake's plugin for Slurm.
    """
    check, ended = executor.check_active_jobs, set[int]()

    def noting(report: Any) -> Any:
        def report_and_note(job: Any, *arguments: Any, **named: Any) -> None:
            ended.add(id(job))
            report(job, *arguments, **named)

        return report_and_note

    async def check_and_keep(jobs: Sequence[Any]) -> AsyncIterator[Any]:
        ended.clear()
        given_back = set()
        async for job in check(jobs):
            given_back.add(id(job))
            yield job
        for job in jobs:
            if id(job) not in given_back | ended:
                yield job

    executor.report_job_success = noting(executor.report_job_success)
    executor.report_job_error = noting(executor.report_job_error)
    executor.check_active_jobs = check_and_keep

"""Plans and states on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from osgap.operations.plan import Plan, Row
from osgap.operations.status import STATES, JobState, Status
from osgap.runtime import slurm

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_SHOWN = 12
"""Jobs of one kind, before `and N more`."""


def show_plan(plan: Plan, console: Console | None = None) -> None:
    """Print a row for each stage, and what the whole run takes."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    table = _table("stage", "jobs to do", "of", "GPU-hours", "CPU-hours", "disk", "done after")
    for row in plan.rows:
        table.add_row(*_cells(row))
    table.add_section()
    table.add_row(*_cells(plan.total))
    console.print(table)
    cores = "as many CPU cores as jobs ask for" if plan.machine.cpus is None else f"{plan.machine.cpus} CPU cores"
    console.print(
        Text(f"Reckoned on {count(plan.machine.gpus, 'GPU')} and {cores}, from osgap/operations/costs.yaml."),
        soft_wrap=True,
    )
    if plan.submissions and slurm.expected():
        said = f"On Slurm: {count(plan.submissions, 'submission')}, for which Snakemake itself takes"
        console.print(Text(f"{said} {plan.overhead:.1%} of the CPU-hours."), soft_wrap=True)


def show_status(status: Status, console: Console | None = None) -> None:
    """Print a row for each stage, then the jobs that run, wait in the queue or have failed."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    table = _table("stage", *STATES)
    for stage, counts in status.counts().items():
        table.add_row(stage, *(f"{counts[state]:,}" if counts[state] else "" for state in STATES))
    console.print(table)
    for found, title in (
        (status.of("running"), "Running"),
        (status.of("queued"), "In the queue"),
        (status.of("failed"), "Failed"),
    ):
        for line in _listed(found, title):
            console.print(Text(line), soft_wrap=True)
    console.print(Text(_summary(status), "bold"), soft_wrap=True)


def _summary(status: Status) -> str:
    done, total = len(status.of("done")), len(status.states)
    if done == total:
        return f"{status.run.name}: all {total:,} jobs are done."
    parts = [f"{status.run.name}: {done:,} of {total:,} jobs are done; about {duration(status.left_s)} left"]
    parts.append(f"on {count(status.machine.gpus, 'GPU')}.")
    if status.run.alive is False and not status.of("running") and not status.of("queued"):
        parts.append("No snakemake is at work: the same command again goes on.")
    if status.of("failed"):
        parts.append("`osgap logs RULE SUBJECT` shows the logs of one that failed.")
    return " ".join(parts)


def _listed(found: Sequence[JobState], title: str) -> list[str]:
    if not found:
        return []
    submitted: dict[str, list[JobState]] = {}  # jobs of a group wait together
    for item in found:
        submitted.setdefault(item.slurm_id if item.state == "queued" and item.slurm_id else item.job.name, []).append(
            item
        )
    lines = [f"{title}:", *(_line(items) for items in list(submitted.values())[:_SHOWN])]
    if len(submitted) > _SHOWN:
        lines.append(f"  and {len(submitted) - _SHOWN:,} more")
    return lines


def _line(items: Sequence[JobState]) -> str:
    first = items[0]
    words = [f"  {', '.join(item.job.name for item in items)}"]
    if first.slurm_id is not None:
        words.append(f"[Slurm job {first.slurm_id}]")
    words += filter(None, [first.progress, first.why])
    if first.state == "running":
        words.append("longer than expected" if first.rest_s is None else f"about {duration(first.rest_s)} left")
    if first.start is not None:
        words.append(f"expected to start {_when(first.start)}")
    return "  ".join(words)


def _cells(row: Row) -> list[str]:
    return [
        row.stage,
        f"{row.left:,}",
        f"{row.jobs:,}",
        _hours(row.gpu_hours),
        _hours(row.cpu_hours),
        size(row.disk_bytes) if row.disk_bytes else "",
        duration(row.ends_after_s) if row.left else "",
    ]


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    return table


def count(number: int, thing: str) -> str:
    """`1 GPU`, `8 GPUs`."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """For people: `40 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def size(number: float) -> str:
    """Of a number of bytes, for people: `40 MB`, `1.3 GB`, `1.8 TB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number / 1e6:.0f} MB"


def _hours(hours: float) -> str:
    return "" if not hours else f"{hours:.1f}" if hours >= 0.1 else f"{hours:.2f}" if hours >= 0.01 else "<0.01"


def _when(time: datetime) -> str:
    """A time of today or later."""
    today = datetime.now().date()
    return (
        f"{time:%H:%M}"
        if time.date() == today
        else f"{time:%a %d %b %H:%M}"
        if time.date() - today < timedelta(300)
        else f"{time}"
    )

"""The doctor's report on one screen, or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from osgap.doctor.findings import Report

if TYPE_CHECKING:
    from rich.console import Console

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "missing": ("✗", "bold red")}
_TITLES = {"machine": "Machine", "config": "This config"}


def show(report: Report, console: Console | None = None) -> None:
    """Print the report: a line for each finding, and below it the sentence that fixes it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    for about, title in _TITLES.items():
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column(width=1)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1, overflow="fold")
        for finding in report.findings:
            if finding.about == about:
                mark, style = _MARKS[finding.status]
                found = Text(finding.found)  # not markup: a path may contain [brackets]
                if finding.fix:
                    found.append(f"\n→ {finding.fix}", style)
                table.add_row(Text(mark, style), Text(finding.name), found)
        console.print(Text(title, "bold"))
        console.print(table)
    missing = sum(finding.status == "missing" for finding in report.findings)
    if report.ready:
        console.print(Text("Ready.", "bold green"))
    else:
        things = "one thing is" if missing == 1 else f"{missing} things are"
        console.print(Text(f"Not ready: {things} missing.", "bold red"))


def to_json(report: Report) -> str:
    """The report as text: JSON of `Report.as_dict`."""
    return json.dumps(report.as_dict(), indent=2, ensure_ascii=False)

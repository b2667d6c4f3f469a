"""How a run is named: `RESULTS`, or `RESULTS:EXPERIMENT` for one experiment of it."""

from __future__ import annotations

from pathlib import Path

from osgap.runtime.errors import UserError

EXPERIMENTS = "experiments"
"""Folder below the results folder, with one folder per experiment."""


def parse(text: str) -> tuple[Path, str | None]:
    """The results folder and the experiment that a name stands for; None for the run as a whole.

    Raises:
        UserError: there is no such folder, or no such experiment in it; says which there are.
    """
    results, experiment = split(text)
    if not results.is_dir():
        raise UserError(f"{results}: no such results folder{_others(results)}; name a run as RESULTS[:EXPERIMENT]")
    if experiment is not None and not (results / EXPERIMENTS / experiment).is_dir():
        known = experiments(results)
        there = f"its experiments are {', '.join(known)}" if known else "it has no experiments"
        raise UserError(f"{text}: {results} has no experiment {experiment!r}; {there}")
    return results, experiment


def split(text: str) -> tuple[Path, str | None]:
    """The two parts of a name, whether or not they are there.

    A folder whose own name has a colon is found when it is there.

    Raises:
        UserError: a part is empty.
    """
    folder, colon, experiment = text.rpartition(":")
    if not colon or Path(text).is_dir():
        folder, experiment = text, ""
    if not folder or (colon and not experiment and not Path(text).is_dir()):
        raise UserError(f"{text!r} names no run; write RESULTS or RESULTS:EXPERIMENT, such as results:large")
    return Path(folder), experiment or None


def experiments(results: Path) -> list[str]:
    """Names of the experiments that have a folder."""
    folder = results / EXPERIMENTS
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _others(results: Path) -> str:
    """Folders beside it that are results of runs."""
    parent = results.parent
    found = sorted(str(path.parent) for path in parent.glob("*/run.json")) if parent.is_dir() else []
    return f" ({'there is ' if len(found) == 1 else 'there are '}{', '.join(found)})" if found else ""

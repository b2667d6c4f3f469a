"""Packages that are others than those by which something was begun or made: the config's `upgrades`.

A version is no part of what identifies a computation. What is to be done about another one is the user's choice: go on
with it and say so (`warn`), compute anew (`rerun`), or go on (`accept`). A stage's `run` is told nothing of the choice,
so the command line makes it for the process, and a notebook can:

    with using("rerun"):
        stage.run(...)
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Literal

Upgrades = Literal["warn", "rerun", "accept"]

_OWN = "osgap"  # whose upgrade is a change of its code, or none
_VERSIONED = (_OWN, "torch", "numpy", "numba", "opencv-python-headless", "h5py")
_ABSENT = "(not installed)"

_upgrades: ContextVar[Upgrades] = ContextVar("upgrades", default="warn")


@contextlib.contextmanager
def using(upgrades: Upgrades) -> Iterator[None]:
    """Let stages that run inside the `with` treat upgrades in this way."""
    token = _upgrades.set(upgrades)
    try:
        yield
    finally:
        _upgrades.reset(token)


def use(upgrades: Upgrades) -> None:
    """The same for the rest of the process."""
    _upgrades.set(upgrades)


def upgrades() -> Upgrades:
    """How upgrades are treated here and now."""
    return _upgrades.get()


def current_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a stage computes."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def earlier_versions(before: Iterable[Mapping[str, str]], now: Mapping[str, str]) -> dict[str, list[str]]:
    """Each package that is another now than at some time before -> the versions that it had, sorted."""
    every = [dict(versions) for versions in before]
    names = sorted({name for versions in [*every, now] for name in versions} - {_OWN})
    had = {name: {versions.get(name, _ABSENT) for versions in every} - {now.get(name, _ABSENT)} for name in names}
    return {name: sorted(found) for name, found in had.items() if found}


def describe_upgrade(earlier: Mapping[str, Iterable[str]], now: Mapping[str, str]) -> str:
    """`torch 2.11.0 -> 2.12.0, numpy 2.2.1 -> 2.3.0`."""
    return ", ".join(f"{name} {' and '.join(had)} -> {now.get(name, _ABSENT)}" for name, had in earlier.items())

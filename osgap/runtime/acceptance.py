"""Code that a user has accepted as computing the same as code before it (`osgap accept`).

`RESULTS/accepted.json` says, for each stage, which digests of its code (`osgap.runtime.code.code_digest`) stand for
which present one. Rules look through it (`osgap.workflow.pipeline.Pipeline.code`), and so do checkpoints. A stage's
`run` is told no results folder, so the command line says where to look, and a notebook can:

    with looking_through("results/accepted.json"):
        stage.run(...)
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path

from osgap.runtime.artifacts import write_json
from osgap.runtime.errors import UserError


@dataclass(frozen=True)
class Acceptance:
    """What was made by `old` stands as made by `new`."""

    old: str
    new: str
    modules: tuple[str, ...] = ()
    """Which modules differ, where that is known."""


Acceptances = Mapping[str, tuple[Acceptance, ...]]
"""Of each stage. A stage whose acceptances were all taken back stays, with none."""

_current: ContextVar[Acceptances] = ContextVar("acceptances", default={})  # noqa: B039 (nobody changes it)


@contextlib.contextmanager
def looking_through(file: Path | str) -> Iterator[None]:
    """Let stages that run inside the `with` go on from what `file` accepts; no file, no acceptances.

    Raises:
        UserError: `file` is damaged.
    """
    token = _current.set(read_acceptances(Path(file)))
    try:
        yield
    finally:
        _current.reset(token)


def look_through(file: Path | str) -> None:
    """The same for the rest of the process.

    Raises:
        UserError: `file` is damaged.
    """
    _current.set(read_acceptances(Path(file)))


def accepted_for(stage: str, digest: str) -> tuple[str, ...]:
    """Digests that stand for the code `digest` of a stage here and now, sorted."""
    return standing(_current.get(), stage, digest)


def standing(acceptances: Acceptances, stage: str, digest: str) -> tuple[str, ...]:
    """Digests that stand for the code `digest` of a stage, sorted."""
    return tuple(sorted({each.old for each in acceptances.get(stage, ()) if each.new == digest}))


def read_acceptances(file: Path) -> Acceptances:
    """What the file says; nothing where it is absent.

    Raises:
        UserError: it is not what `osgap accept` writes.
    """
    try:
        content = json.loads(file.read_text())
        return {stage: tuple(_acceptance(each) for each in listed) for stage, listed in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{file}: not what `osgap accept` writes ({type(error).__name__}: {error}); put a copy back, or delete it, "
            f"which takes back all that was accepted"
        ) from error


def write_acceptances(file: Path, acceptances: Mapping[str, Iterable[Acceptance]]) -> None:
    """Write the file anew, whole or not at all."""
    write_json(file, {stage: [asdict(each) for each in listed] for stage, listed in acceptances.items()})


def _acceptance(content: Mapping[str, object]) -> Acceptance:
    old, new, modules = content["old"], content["new"], content.get("modules", [])
    if not (isinstance(old, str) and isinstance(new, str) and isinstance(modules, list)):
        raise TypeError("`old` and `new` are digests, `modules` is a list")
    return Acceptance(old, new, tuple(map(str, modules)))

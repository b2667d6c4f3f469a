"""Breaks one input of a small valid world, runs the real command line on it, and says what must hold then."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import re
import resource
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from osgap.cli import main
from osgap.runtime.errors import UserError

ADVICE = re.compile(
    r"\b(add|bake|change|check|correct|delete|download|export|fetch|fit|get|give|import|leave|make|name|"
    r"raise|remove|run|save|set|should|track|train|update|use)\b",
    re.IGNORECASE,
)
"""A message tells what to do with one of these words, outside of the paths that it names."""

_LONGEST = 1200  # characters of a message that a person still reads

# What may be printed before the message: a C library's word on a damaged file, notes on good ones, and what an import
# finds doubtful in random pictures.
_NOTES = re.compile(
    r"^(libpng error: .*|030: .*|.*: only here, left out: .*|.*: viewers know FLAME's topology only.*)\n", re.MULTILINE
)

# A stage that was stopped leaves its lock.
_MAY_STAY = re.compile(r"results/checkpoints/[^/]+/[^/]+/lock")


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line did."""

    code: int
    out: str
    err: str
    warned: tuple[str, ...] = ()
    """Python's warnings, which a user would see as well."""


class World:
    """A copy of the valid world in a folder of its own."""

    def __init__(self, folder: Path, read: Callable[[], tuple[str, str]], settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = copy.deepcopy(dict(settings))
        """The config, in which `WORLD` stands for the folder."""
        self._read = read

    def __truediv__(self, path: str) -> Path:
        return self.folder / path

    @property
    def arguments(self) -> list[str]:
        """The config as options of the command line."""
        return ["--config", json.dumps(self.settings).replace("WORLD", str(self.folder))]

    def run(self, *arguments: str) -> Outcome:
        """Run `osgap ARGUMENTS` in this process, through its entry point."""
        return self._run([*arguments, *self.arguments])

    def _run(self, arguments: list[str]) -> Outcome:
        self._read()
        root = logging.getLogger()
        kept = root.handlers[:], root.level, sys.argv, tempfile.tempdir
        root.handlers.clear()  # pytest's, which would keep the command line from having its own
        tempfile.tempdir = str(self.folder)  # what is left there is seen
        sys.argv = ["osgap", *arguments]
        code = 0
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("default")
                for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                    warnings.simplefilter("ignore", hidden)  # as Python does by default
                main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:  # Python prints it and exits with 1
            traceback.print_exc()
            code = 1
        finally:
            root.handlers[:], sys.argv, tempfile.tempdir = kept[0], kept[2], kept[3]
            root.setLevel(kept[1])
        return Outcome(code, *self._read(), tuple(f"{item.filename}: {item.message}" for item in warned))

    def run_apart(self, *arguments: str, limit: int | None = None) -> Outcome:
        """The same in a process of its own.

        Args:
            limit: bytes that no file may exceed, as if the disk were full.
        """

        def prepare() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        done = subprocess.run(
            [sys.executable, "-m", "osgap.cli", *arguments, *self.arguments],
            capture_output=True,
            text=True,
            preexec_fn=prepare,
            env={**os.environ, "TMPDIR": str(self.folder), "OMP_NUM_THREADS": "1"},
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def accepts(self, *arguments: str) -> Outcome:
        """The control: the run succeeds."""
        outcome = self.run(*arguments)
        assert outcome.code == 0, outcome.err
        assert "osgap: " not in outcome.err
        return outcome

    def refuses(
        self,
        *arguments: str,
        file: str,
        finding: str,
        may_stay: str = "(?!)",
        run: Callable[..., Outcome] | None = None,
    ) -> str:
        """The run fails as it should: one message, nothing written, nothing changed.

        Args:
            file: what the message must name: a path below the world, or, beginning with `=`, any text.
            finding: regular expression of what the message must say.
            may_stay: regular expression of files that may be made all the same.
            run: how it is run. Default is in this process.

        Returns:
            The message.
        """
        before = self.snapshot()
        outcome = (run or self.run)(*arguments)
        assert "Traceback" not in outcome.out + outcome.err, outcome.err
        noise, mark, message = outcome.err.partition("osgap: ")
        assert mark, f"no message; exit code {outcome.code}, output: {outcome.out}{outcome.err}"
        assert outcome.code == UserError.EXIT_CODE, f"exit code {outcome.code}"
        assert not outcome.warned, outcome.warned
        assert not re.sub(_NOTES, "", noise), f"printed before the message: {noise}"
        assert "osgap: " not in message, f"more than one message: {outcome.err}"
        assert len(message) < _LONGEST, message
        assert message.strip().isprintable() or "\n" in message.strip(), message
        named = file.removeprefix("=") if file.startswith("=") else str(self.folder / file)
        assert named in message, f"{named} is not named in: {message}"
        assert re.search(finding, message), f"/{finding}/ does not match: {message}"
        assert ADVICE.search(message.replace(str(self.folder), "")), f"no advice in: {message}"
        after = self.snapshot()
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        kept = {path for path in changed if _MAY_STAY.fullmatch(path) or re.fullmatch(may_stay, path)}
        assert changed - kept == set(), message
        assert not kept & before.keys(), "an input has changed"
        return message

    def refuses_case(self, case: Case, *arguments: str) -> None:
        """The run fails as it should on one broken input."""
        case.damage(self)
        self.refuses(*arguments, *case.options, file=case.file, finding=case.finding)

    def refuses_aloud(self, *arguments: str) -> None:
        """With `--traceback` the same failure shows where in the code it was raised."""
        outcome = self.run(*arguments, "--traceback")
        assert outcome.code != 0
        assert "Traceback (most recent call last)" in outcome.err
        assert "UserError: " in outcome.err

    def snapshot(self) -> dict[str, str]:
        """Every file and link below the world, with a digest of what it holds."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_symlink():
                found[str(path.relative_to(self.folder))] = f"link to {path.readlink()}"
            elif path.is_file():
                readable = path.stat().st_mode & 0o400
                content = hashlib.sha256(path.read_bytes()).hexdigest() if readable else "may not be read"
                found[str(path.relative_to(self.folder))] = content
        return found


@dataclass(frozen=True)
class Case:
    """One broken input."""

    damage: Callable[[World], object]
    file: str
    """What the message must name; see `World.refuses`."""
    finding: str
    """Regular expression of what it must say."""
    options: tuple[str, ...] = ()
    """Further arguments of the command."""


def cases(table: Mapping[str, Case]) -> pytest.MarkDecorator:
    """Parametrise a test with a table of cases by what is broken."""
    return pytest.mark.parametrize("case", list(table.values()), ids=list(table))

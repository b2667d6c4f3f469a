"""A copy of the checkout in which the reduced demo has run, made once per session."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
ARGUMENTS = (
    "--profile", "profiles/demo",
    "--configfile", "profiles/demo/demo.yaml", "profiles/demo/reduced.yaml",
)  # fmt: skip


@dataclass(frozen=True)
class Checkout:
    """A copy of the project's files that tests may edit."""

    root: Path

    @property
    def results(self) -> Path:
        return self.root / "results" / "reduced"

    @property
    def environment(self) -> dict[str, str]:
        """Its own `osgap` wins over the installed one."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return {**os.environ, "PYTHONPATH": str(self.root), "PATH": path}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", *arguments]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`python -m ARGUMENTS` at its top; stdout and stderr together."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}")
        return done

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("snakemake", *ARGUMENTS, *arguments, check=check)

    def planned(self, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs that a dry run announces."""
        return announced(self.snakemake("--dry-run", "--quiet", "rules", *arguments).stdout)

    def edit(self, relative: str, text: str = "\nEDITED = True\n") -> None:
        """Append something that a digest of code sees, and that changes no result."""
        with (self.root / relative).open("a") as file:
            file.write(text)

    def settings(self) -> dict:
        """The config of the reduced demo, validated."""
        code = (
            "from osgap.workflow.config import load_config;"
            "print(load_config(['config.yaml', 'profiles/demo/demo.yaml', 'profiles/demo/reduced.yaml'])"
            ".model_dump_json())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    def copy(self, target: Path) -> Checkout:
        """Another copy with the same results; hard to tell apart for Snakemake, because times are kept."""
        shutil.copytree(self.root, target, symlinks=True, copy_function=shutil.copy2)
        return Checkout(target)


def announced(text: str) -> dict[str, int]:
    """Rule -> number of jobs, of what a dry run prints."""
    jobs: dict[str, int] = {}
    inside = False
    for line in text.splitlines():
        words = line.split()
        if words == ["job", "count"]:
            inside = True
        elif inside and len(words) == 2 and words[1].isdecimal() and words[0] not in ("all", "total"):
            jobs[words[0]] = int(words[1])
        elif inside and words[:1] == ["total"]:
            break
    return jobs


_SERVER = """
import json, os, sys, traceback
import osgap.workflow.launch, snakemake.cli
for line in sys.stdin:
    arguments, output = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1), os.dup2(file, 2)
    try:
        snakemake.cli.main(arguments)
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code or 0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)
"""


class Planner:
    """Many dry runs in one checkout: Snakemake is loaded once, and a fork of it plans what is on the disk by then.

    Code that plans (`osgap.workflow` and what it imports) is as it was at the start.
    """

    def __init__(self, checkout: Checkout, folder: Path) -> None:
        self._output = folder / "planned.txt"
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            cwd=checkout.root,
            env=checkout.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def planned(self, *arguments: str) -> dict[str, int]:
        """As `Checkout.planned`."""
        assert self._server.stdin
        assert self._server.stdout
        request = [[*ARGUMENTS, "--dry-run", "--quiet", "rules", *arguments], str(self._output)]
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        status = self._server.stdout.readline().strip()
        text = self._output.read_text()
        assert status == "0", f"the dry run ended with {status}:\n{text}"
        return announced(text)

    def close(self) -> None:
        self._server.communicate()


def make_checkout(target: Path) -> Checkout:
    """Copy what git tracks or would track."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, names.decode().split("\0")):
        source = ROOT / name
        if source.is_symlink() or source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)
    return Checkout(target)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout after the reduced demo. Shared by the workers of a parallel test run: do not edit it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    root = shared / "finished"
    with FileLock(shared / "finished.lock"):
        done = shared / "finished.ok"
        if not done.exists():
            shutil.rmtree(root, ignore_errors=True)
            checkout = make_checkout(root)
            checkout.snakemake()
            done.touch()
    return Checkout(root)


@pytest.fixture
def checkout(finished: Checkout, tmp_path: Path) -> Checkout:
    """A private copy of `finished`, to edit."""
    return finished.copy(tmp_path / "checkout")

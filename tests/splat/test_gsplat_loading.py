"""How gsplat is found, compiled and shared between processes; where no GPU is, a package of that name stands in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from osgap.runtime.errors import UserError
from osgap.splat import render
from osgap.splat.backends import gsplat_backend

LOAD = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
from osgap.runtime.errors import UserError
from osgap.splat.backends import gsplat_backend
try:
    gsplat_backend.load()
except UserError as error:
    sys.exit(str(error))
"""

# What gsplat's module does when it is imported: build into torch's folder, and report on stdout.
COMPILES = """
import os, time
from pathlib import Path
folder = Path(os.environ["TORCH_EXTENSIONS_DIR"]) / "gsplat_cuda"
if not (folder / "gsplat_cuda.so").exists():
    with open(folder.parent / "log", "a") as log:
        print("start", file=log, flush=True)
        time.sleep(float(os.environ.get("SECONDS", 1)))
        (folder / "gsplat_cuda.so").touch()
        print("end", file=log, flush=True)
print("gsplat has been set up")
_C = object()
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "site" / "gsplat" / "cuda"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    (folder / "_backend.py").write_text(COMPILES)
    path = os.pathsep.join([str(tmp_path / "site"), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}


def start(environment: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LOAD]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_one_of_two_processes_compiles_though_another_was_killed_at_it(
    environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "extensions" / "log"
    killed = start({**environment, "SECONDS": "600"})
    while not log.exists():
        assert killed.poll() is None
        time.sleep(0.05)
    waiting = start(environment)
    assert waiting.stderr is not None
    lines = iter(waiting.stderr.readline, "")
    assert any(line.startswith("waiting for another process that compiles or loads gsplat") for line in lines)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    other = start(environment)
    answers = [process.communicate() for process in (waiting, other)]
    assert waiting.returncode == other.returncode == 0, answers
    assert log.read_text().split() == ["start", "start", "end"]  # the killed one's, and one of the others'
    errors = [error for _, error in answers]
    assert sum("once per machine" in error for error in errors) == 1
    assert sum("compiled gsplat's CUDA kernels in " in error for error in errors) == 1
    assert [out for out, _ in answers] == ["", ""]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("_C = None", "finds no compiler (nvcc). Install the CUDA toolkit"),
        ("raise RuntimeError('Error building\\nninja: build stopped')", "loaded: ninja: build stopped. With VERBOSE=1"),
    ],
    ids=["no compiler", "failure"],
)
def test_what_keeps_gsplat_from_working_is_said(
    environment: dict[str, str], tmp_path: Path, code: str, message: str
) -> None:
    (tmp_path / "site" / "gsplat" / "cuda" / "_backend.py").write_text(code)
    process = start(environment)
    _, error = process.communicate()
    assert process.returncode == 1
    assert message in error
    assert "Traceback" not in error


def test_a_folder_that_cannot_be_written_to_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "extensions").touch()
    _, error = start(environment).communicate()
    assert f"compiled into {tmp_path / 'extensions'}" in error
    assert "Set TORCH_EXTENSIONS_DIR" in error


def test_without_gsplat_the_way_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gsplat_backend.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'gsplat>=1.5.3,<1.6'"):
        render._cuda_backend()

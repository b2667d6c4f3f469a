"""The command line as shells use it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run_into_closed_pipe(*arguments: str, folder: Path, read: int = 0) -> tuple[int, str]:
    """Exit status and stderr of `osgap ARGUMENTS | head`, whose reader is gone after some bytes."""
    output, end = os.pipe()
    if not read:
        os.close(output)
    with subprocess.Popen(
        [sys.executable, "-m", "osgap.cli", *arguments], stdout=end, stderr=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        os.close(end)
        if read:
            os.read(output, read)
            os.close(output)
        error = process.communicate(timeout=120)[1]
        return process.returncode, error


@pytest.mark.parametrize(("arguments", "read"), [(["--help"], 0), (["--help"], 10), (["config", "--reference"], 0)])
def test_a_closed_pipe_is_no_error(tmp_path: Path, arguments: list[str], read: int) -> None:
    assert run_into_closed_pipe(*arguments, folder=tmp_path, read=read) == (0, "")


def test_an_error_stays_one(tmp_path: Path) -> None:
    status, error = run_into_closed_pipe("fit", "somebody", "--config", "absent.yaml", folder=tmp_path)
    assert status == 2
    assert error.startswith("osgap: absent.yaml: ")

"""Checkpoints resume the computation that wrote them, once at a time."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from osgap.runtime.checkpoint import Checkpoints
from osgap.runtime.errors import UserError


def test_round_trip_and_clear(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "fit", "key") as checkpoints:
        assert checkpoints.load() is None
        checkpoints.save({"step": 3, "weights": torch.arange(4.0), "nested": [{"a": torch.ones(2)}]})
        state = checkpoints.load()
        assert state is not None
        assert state["step"] == 3
        assert torch.equal(state["nested"][0]["a"], torch.ones(2))
        checkpoints.clear()
        assert checkpoints.load() is None


def test_another_computation_starts_anew(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, "one") as checkpoints:
        checkpoints.save({"step": 3})
    with Checkpoints(tmp_path, "two") as checkpoints:
        assert checkpoints.load() is None
    with Checkpoints(tmp_path, "one") as checkpoints:
        assert checkpoints.load() == {"step": 3}


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    script = f"""
        from pathlib import Path
        from osgap.runtime.checkpoint import Checkpoints
        from osgap.runtime.errors import UserError
        try:
            with Checkpoints(Path({str(tmp_path)!r}), "key"):
                print("entered")
        except UserError as error:
            print("refused:", error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with Checkpoints(tmp_path, "key"):
        refused = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "refused" in refused
    assert str(tmp_path) in refused
    assert "entered" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_same_process_is_refused_too(tmp_path: Path) -> None:
    with (
        Checkpoints(tmp_path, "key"),
        pytest.raises(UserError, match="another process"),
        Checkpoints(tmp_path, "key"),
    ):
        pass

"""Checkpoints resume the computation that wrote them, once at a time."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from osgap.runtime.checkpoint import Checkpoints, codes_of
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Key


def test_round_trip_and_clear(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "fit", Key("key")) as checkpoints:
        assert checkpoints.load() is None
        checkpoints.save({"step": 3, "weights": torch.arange(4.0), "nested": [{"a": torch.ones(2)}]})
        state = checkpoints.load()
        assert state is not None
        assert state["step"] == 3
        assert torch.equal(state["nested"][0]["a"], torch.ones(2))
        checkpoints.clear()
        assert checkpoints.load() is None


def test_another_computation_starts_anew(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, Key("one")) as checkpoints:
        checkpoints.save({"step": 3})
    with Checkpoints(tmp_path, Key("two")) as checkpoints:
        assert checkpoints.load() is None
    with Checkpoints(tmp_path, Key("one")) as checkpoints:
        assert checkpoints.load() == {"step": 3}


def test_other_code_starts_anew_unless_it_was_accepted(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, Key("one", code="old")) as checkpoints:
        checkpoints.save({"step": 3})
    assert codes_of(tmp_path) == ["old"]
    with Checkpoints(tmp_path, Key("one", code="new")) as checkpoints:
        assert checkpoints.load() is None
    with Checkpoints(tmp_path, Key("another", code="new", accepted=("old",))) as checkpoints:
        assert checkpoints.load() is None, "its config or inputs are others"
    with Checkpoints(tmp_path, Key("one", code="new", accepted=("older", "old"))) as checkpoints:
        assert checkpoints.load() == {"step": 3}
        assert checkpoints.codes == {"old", "new"}


def test_what_went_on_through_an_acceptance_is_lost_with_it(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, Key("one", code="old")) as checkpoints:
        checkpoints.save({"step": 3})
    with Checkpoints(tmp_path, Key("one", code="new", accepted=("old",))) as checkpoints:
        assert checkpoints.load() == {"step": 3}
        checkpoints.save({"step": 4})
    assert codes_of(tmp_path) == ["new", "old"]
    with Checkpoints(tmp_path, Key("one", code="new")) as checkpoints:
        assert checkpoints.load() is None, "three of its steps are the old code's"
    with Checkpoints(tmp_path, Key("one", code="newest", accepted=("new",))) as checkpoints:
        assert checkpoints.load() is None
    with Checkpoints(tmp_path, Key("one", code="newest", accepted=("new", "old"))) as checkpoints:
        assert checkpoints.load() == {"step": 4}


def test_a_damaged_checkpoint_names_no_code(tmp_path: Path) -> None:
    (tmp_path / "latest.pt").write_bytes(b"half a checkpoint")
    assert codes_of(tmp_path) == []
    assert codes_of(tmp_path / "absent") == []


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    script = f"""
        from pathlib import Path
        from osgap.runtime.checkpoint import Checkpoints
        from osgap.runtime.errors import UserError
        from osgap.runtime.provenance import Key
        try:
            with Checkpoints(Path({str(tmp_path)!r}), Key("key")):
                print("entered")
        except UserError as error:
            print("refused:", error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with Checkpoints(tmp_path, Key("key")):
        refused = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "refused" in refused
    assert str(tmp_path) in refused
    assert "entered" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_same_process_is_refused_too(tmp_path: Path) -> None:
    with (
        Checkpoints(tmp_path, Key("key")),
        pytest.raises(UserError, match="another process"),
        Checkpoints(tmp_path, Key("key")),
    ):
        pass

"""A run is named by its results folder, and an experiment after a colon; what is not there is said with what is."""

from __future__ import annotations

from pathlib import Path

import pytest

from osgap.runtime.errors import UserError
from osgap.workflow.run_name import experiments, parse, split


def test_a_folder_and_an_experiment(tmp_path: Path) -> None:
    (tmp_path / "x/experiments/abl").mkdir(parents=True)
    assert parse(f"{tmp_path}/x") == (tmp_path / "x", None)
    assert parse(f"{tmp_path}/x:abl") == (tmp_path / "x", "abl")
    assert experiments(tmp_path / "x") == ["abl"]
    assert experiments(tmp_path) == []


def test_a_folder_with_a_colon_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert parse(f"{tmp_path}/a:b") == (tmp_path / "a:b", None)


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    (tmp_path / "x/experiments/abl").mkdir(parents=True)
    (tmp_path / "x/run.json").touch()
    with pytest.raises(UserError, match=r"y: no such results folder \(there is .*/x\); name a run as"):
        parse(f"{tmp_path}/y")
    with pytest.raises(UserError, match="x has no experiment 'other'; its experiments are abl"):
        parse(f"{tmp_path}/x:other")
    with pytest.raises(UserError, match="has no experiment 'other'; it has no experiments"):
        parse(f"{tmp_path}:other")


@pytest.mark.parametrize("text", ["", ":abl", "results:"])
def test_half_a_name_is_none(text: str) -> None:
    with pytest.raises(UserError, match="names no run"):
        split(text)

"""The benchmark of rendering, at toy size on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

Run = Callable[[str, Sequence[str]], dict[str, Any]]


def test_made_avatar(run: Run) -> None:
    result = run("render", ["--uv-size", "32", "--batches", "1", "4", "--frames", "10", "--repeats", "3"])
    assert result["avatar"] == "made"
    assert (result["width"], result["height"], result["timesteps"]) == (64, 88, 6)
    assert 0.3 < result["covered"] < 0.9
    plain = result["plain"]["frames_per_s"]
    assert list(result["batches"]) == list(result["agreement"]) == ["1", "4"]
    for size, batched in result["batches"].items():
        assert len(batched["rounds"]) == 3
        assert batched["frames_per_s"] == pytest.approx(np.median(batched["rounds"]))
        assert result["ratio"][size] == pytest.approx(batched["frames_per_s"] / plain)
        assert 0 < result["agreement"][size]["largest"] < 1e-2  # two programs: rounding differs
        assert result["agreement"][size]["mean"] < 1e-6


def test_fitted_avatar(run: Run, work: Path, load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    benchmark, people = load("render"), load("people")
    head = benchmark.load_head(people.head_assets(work / "head"))
    params, _ = people.performance(head, people.synthetic_config("64x88", 1, 3))
    benchmark.make_avatar(head, params, 24, 3).save(tmp_path / "avatar")
    arguments = ["--avatar", str(tmp_path / "avatar"), "--head", str(work / "head"), "--batches", "2"]
    result = run("render", [*arguments, "--frames", "4", "--repeats", "1"])
    assert result["avatar"] == "fitted"
    assert result["timesteps"] == 3
    assert str(tmp_path) not in str(result)


def test_other_images_are_refused(load: Callable[[str], ModuleType]) -> None:
    compare = load("render").compare
    images = torch.rand(2, 8, 8, 3)
    assert compare("2", images, images) == {"largest": 0.0, "mean": 0.0}
    with pytest.raises(SystemExit, match="differ from the plain ones"):
        compare("2", images, images.flip(0))

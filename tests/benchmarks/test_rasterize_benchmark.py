"""The benchmark of the renderer, at toy size on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def test_cases_at_toy_size() -> None:
    arguments = ["--case", "200", "44x64", "1", "--case", "300", "30x20", "3", "--channels", "3", "5"]
    command = [sys.executable, "benchmarks/rasterize.py", *arguments, "--repeats", "2", "--threads", "1", "--seed", "4"]
    result = json.loads(subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True).stdout)
    assert result["seed"] == 4
    assert result["machine"]["threads"] == 1
    sizes = [(case["gaussians"], case["width"], case["images"], case["channels"]) for case in result["cases"]]
    assert sizes == [(200, 44, 1, 3), (200, 44, 1, 5), (300, 30, 3, 3), (300, 30, 3, 5)]
    for case in result["cases"]:
        assert 0.3 < case["covered"] < 0.9
        assert 0 < case["forward_ms"] < case["forward_backward_ms"]
        for name, ratio in case["ratio"].items():
            assert ratio == pytest.approx(case["one_by_one"][name] / case[name])
        assert case["largest_difference"]["images"] < 1e-5
    assert result["plain"]["ratio"] > 1

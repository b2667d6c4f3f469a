"""The benchmarks of fitting and rendering at small size on a CUDA device: both programs agree there, too."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="needs gsplat"),
]

Run = Callable[[str, Sequence[str]], dict[str, Any]]


def test_fit(run: Run, work: Path, white_psnr: dict[str, float]) -> None:
    timing = ["--batches", "1", "4", "--images", "16", "--rounds", "2", "--visits", "64"]
    over_time = ["--plain-seconds", "3", "--evaluations", "3", "--evaluation-frames", "4"]
    result = run("fit", ["--device", "cuda", "--work", str(work), "--uv-size", "64", *timing, *over_time])
    assert result["machine"]["gpu"]
    assert max(result["throughput"]["agreement"]["gradient_errors"].values()) < 1e-2
    for measured in result["memory"].values():
        assert 0 < measured["allocated_mib"] <= measured["reserved_mib"]
    # The command's fit, in a process of its own, is as good as the one that was watched, which learns.
    for split, white in white_psnr.items():
        watched = result["quality"]["fit"]["final"][split]
        assert watched > result["quality"]["fit"]["curve"][0][split]
        assert watched > white + 3
        assert result["command"]["metrics"][split]["psnr"] == pytest.approx(watched, abs=1)


def test_render(run: Run) -> None:
    result = run("render", ["--device", "cuda", "--uv-size", "64", "--frames", "32", "--repeats", "2"])
    assert result["agreement"]["16"]["mean"] < 1e-5

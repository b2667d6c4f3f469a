"""The benchmark of the renderer, at toy size on the CPU."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
OPTIONS = argparse.Namespace(device="cpu", opacity="fresh", seed=0, repeats=2)

Load = Callable[[str], ModuleType]


@pytest.fixture
def benchmark(load: Load) -> ModuleType:
    return load("rasterize")


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
    assert 0 < result["plain"]["largest_difference"]["gradients"] < 1e-4  # two programs: rounding differs


def test_the_fastest_call_counts_but_not_the_first(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 0.001, 1.0, 1.030, 2.0, 2.020, 3.0, 3.025])  # 1 ms, then 30, 20 and 25
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    calls: list[None] = []
    assert benchmark.fastest(lambda: calls.append(None), 3, "cpu") == pytest.approx(20)
    assert len(calls) == 4


def test_ratios_say_how_many_times_longer_the_loop_takes(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([2.0, 5.0, 8.0, 30.0])
    monkeypatch.setattr(benchmark, "fastest", lambda *_: next(times))
    case = benchmark.measure(50, 20, 24, 2, 3, OPTIONS)
    assert (case["forward_ms"], case["forward_backward_ms"]) == (2, 5)
    assert case["one_by_one"] == {"forward_ms": 8, "forward_backward_ms": 30}
    assert case["ratio"] == {"forward_ms": 4, "forward_backward_ms": 6}


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("one_by_one_forward", lambda images: images + 2e-5),
        ("one_by_one_backward", lambda gradients: [(g[0] * 1.002, *g[1:]) for g in gradients]),
        ("one_by_one_backward", lambda gradients: [(*g[:-1], g[-1] * float("nan")) for g in gradients]),
    ],
    ids=["an image", "a gradient", "no number"],
)
def test_a_loop_with_other_results_is_refused(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, spoil: Callable[[Any], Any]
) -> None:
    true = getattr(benchmark, name)
    monkeypatch.setattr(benchmark, name, lambda *arguments: spoil(true(*arguments)))
    with pytest.raises(SystemExit, match="the batch and the loop over its images differ"):
        benchmark.measure(50, 20, 24, 2, 3, OPTIONS)


def test_a_plain_renderer_of_another_picture_is_refused(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    true = benchmark.load(benchmark.REFERENCE).render_reference

    def brighter(means: Tensor, rotations: Tensor, scales: Tensor, opacities: Tensor, *others: Any) -> Any:
        return true(means, rotations, scales, 0.99 * opacities, *others)

    monkeypatch.setattr(benchmark, "load", lambda _: SimpleNamespace(render_reference=brighter))
    with pytest.raises(SystemExit, match="the plain renderer's gradients differ"):
        benchmark.measure_plain(OPTIONS)


def test_gradients_are_compared_image_by_image_or_as_sums(benchmark: ModuleType) -> None:
    """A field with a leading dimension has a gradient per image; what images share has the sum of theirs."""
    own, common = torch.tensor([[1.0, -4.0], [2.0, 3.0]]), torch.tensor([1.0, 10.0])
    parts = [(own[0], torch.tensor([0.5, 4.0])), (own[1], torch.tensor([0.5, 6.0]))]
    assert benchmark.largest_difference((own, common), parts) == 0
    assert benchmark.largest_difference((own + 0.4, common), parts) == pytest.approx(0.1)
    assert benchmark.largest_difference((own, common + 2), parts) == pytest.approx(0.2)

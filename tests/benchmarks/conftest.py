"""A toy-sized synthetic person, rendered once, and the benchmarks as modules."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from osgap.capture.store import CaptureStore

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = ["--size", "64x88", "--timesteps", "2"]


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a synthetic person: 3 sequences of 2 timesteps, 16 cameras, 64x88 pixels."""
    folder = tmp_path_factory.mktemp("person")
    command = [sys.executable, "benchmarks/people.py", str(folder), *SIZE, "--workers", "1"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    return folder


@pytest.fixture(scope="session")
def white_psnr(work: Path) -> dict[str, float]:
    """dB of a white picture in place of that person's held-out frames, by split: what any fit must beat by far."""
    store = CaptureStore(work / "101.h5")
    found = {}
    for split in ("val", "test"):
        pictures = [store.image(*frame) / 255 for frame in store.split(split).tolist()]
        found[split] = float(np.mean([-10 * np.log10(np.mean((1 - picture) ** 2)) for picture in pictures]))
    return found


Run = Callable[[str, Sequence[str]], dict[str, Any]]


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a benchmark in a process of its own and returns its JSON."""

    def run_benchmark(name: str, arguments: Sequence[str]) -> dict[str, Any]:
        command = [sys.executable, f"benchmarks/{name}.py", *SIZE, "--threads", "1", *arguments]
        done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout)

    return run_benchmark


@pytest.fixture(scope="session")
def load() -> Callable[[str], ModuleType]:
    """Loads a benchmark as a module."""

    def load_benchmark(name: str) -> ModuleType:
        full = f"benchmarks.{name}"
        if full not in sys.modules:
            spec = importlib.util.spec_from_file_location(full, REPOSITORY / "benchmarks" / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            sys.modules[full] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[full])
        return sys.modules[full]

    return load_benchmark

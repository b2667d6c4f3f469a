"""How long a job takes: measured seconds from `costs.yaml`, for its work on its device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from osgap.operations.work import Work

Device = Literal["cuda", "cpu"]

FILE = Path(__file__).with_name("costs.yaml")


@dataclass(frozen=True)
class Cost:
    """Of the jobs of one stage on one kind of device."""

    start: float
    """Whatever there is to do: Python, libraries, loading [seconds]."""
    per: dict[str, float]
    """Unit of `osgap.operations.work` -> how long one takes [seconds], on `threads`."""
    source: str
    """The command that measured it, or what was assumed."""
    at_once: int = 0
    """How many such jobs go on at once at this speed, because they share something: a network. 0: any number."""
    threads: int = 0
    """On which it was measured; the time per unit shrinks with more. 0: threads make no difference."""

    def seconds(self, work: Work, threads: int) -> float:
        """How long a job takes."""
        share = self.threads / max(1, threads) if self.threads else 1.0
        return self.start + share * sum(self.per[unit] * amount for unit, amount in work.items())


@dataclass(frozen=True)
class Costs:
    """All of them."""

    stages: dict[str, dict[Device, Cost]]
    submission: float
    """Processor time that Snakemake takes for each job that it submits to Slurm [seconds]."""
    submission_source: str

    def of(self, stage: str, gpu: bool) -> Cost:
        """On a GPU where there is one and the stage uses it, else on the CPU."""
        known = self.stages[stage]
        return known["cuda"] if gpu and "cuda" in known else known["cpu"]


@cache
def read_costs(file: Path = FILE) -> Costs:
    """What is known."""
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    stages = {
        stage: {device: Cost(**cost) for device, cost in devices.items()}
        for stage, devices in content["stages"].items()
    }
    return Costs(stages, **content["snakemake"])

"""The benchmark of all stages starts what the rules start."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from osgap.workflow.config import load_config
from osgap.workflow.jobs import jobs
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.stages import STAGES


def test_every_job_has_its_rules_command(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    benchmark = load("stages")
    for device in ("cpu", "cuda"):
        options = argparse.Namespace(size="64x88", timesteps=3, device=device)
        pipeline = Pipeline(load_config(benchmark._sources(options, tmp_path)))
        assert pipeline.config.synthetic is not None
        assert (pipeline.config.synthetic.width, pipeline.config.synthetic.height) == (64, 88)
        commands = {job.name: benchmark._command(pipeline, job) for job in jobs(pipeline)}
        assert {command[0] for command in commands.values()} < {*STAGES}
        assert commands["evaluate one_shot 201"] == ["evaluate", "one_shot", "201"]
        assert commands["fit 101"] == ["fit", "101"]
        assert commands["train"] == ["train"]
        assert commands["calibrate oneshot"] == ["calibrate", "--supervision", "one_shot"]
        assert commands["cross_figure 201"] == ["figure", "cross", "201", "--driver", "101"]
        assert commands["overview"] == ["figure", "overview", "201"]

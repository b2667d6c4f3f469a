"""Trainings of a tiny prior on the tiny world, in this process or in one of their own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from osgap.prior.config import PriorConfig
from osgap.prior.mean import load_maps
from osgap.prior.network.decoder import residual_scales
from osgap.prior.network.model import GaussianPrior, save_prior
from osgap.prior.network_config import BackboneConfig, EncoderConfig
from osgap.prior.training.stage import TrainInputs, TrainOutputs
from osgap.runtime.artifacts import atomic_path

PEOPLE = ("red", "green", "blue")
FILES = ("model.pt", "mean_uv.npz", "train.json", "preview.png")


def inputs(world: Any, people: tuple[str, ...] = PEOPLE) -> TrainInputs:
    return TrainInputs(tuple(map(world.capture, people)), tuple(map(world.maps, people)), world.assets)


def outputs(folder: Path) -> TrainOutputs:
    model, mean, log, preview = (folder / name for name in FILES)
    return TrainOutputs(model, mean, log, preview, folder / "checkpoints", folder / "events")


def untrained_prior(world: Any, path: Path, output: float) -> Path:
    """The file of an untrained network of `PEOPLE`: it predicts nearly their mean.

    Args:
        output: standard deviation of the weights of its last layer.
    """
    encoder = EncoderConfig(
        input_size=32, width=8, token_width=32, residual_blocks=(1, 1), attention_blocks=1, heads=2, dilations=(1, 2, 3)
    )
    maps, mask = load_maps([world.maps(subject) for subject in PEOPLE]), world.binding.mask
    torch.manual_seed(0)
    model = GaussianPrior(encoder, maps.mean(dim=0), residual_scales(maps, mask), mask)
    torch.nn.init.normal_(model.decoder.out.weight, std=output)
    save_prior(path, model, PEOPLE, {"stage": "train"})
    return path


_SCRIPT = """
import json, logging, sys
from pathlib import Path
import torch
from osgap.head.config import HeadAssets
from osgap.prior.config import PriorConfig
from osgap.prior.network_config import BackboneConfig
from osgap.prior.training.stage import TrainInputs, TrainOutputs, run
from osgap.runtime.gpus import use
if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    job = json.loads(Path(sys.argv[1]).read_text())
    use("cpu")
    run(
        PriorConfig.model_validate(job["config"]),
        TrainInputs(tuple(map(Path, job["captures"])), tuple(map(Path, job["maps"])), HeadAssets(**job["head"])),
        TrainOutputs(*map(Path, job["outputs"])),
        seed=7,
    )
"""


def start(
    world: Any,
    folder: Path,
    config: PriorConfig,
    new_session: bool = False,
    environment: Mapping[str, str] | None = None,
    stderr: int | None = None,
) -> subprocess.Popen[bytes]:
    """A script in a file, as a launcher of several ranks runs it again."""
    given, made = inputs(world), outputs(folder)
    job = {
        "config": config.model_dump(mode="json"),
        "captures": [str(path) for path in given.captures],
        "maps": [str(path) for path in given.maps],
        "head": given.head.model_dump(mode="json"),
        "outputs": [str(getattr(made, field.name)) for field in dataclasses.fields(made)],
    }
    folder.mkdir(exist_ok=True)
    for name, text in (("job.py", _SCRIPT), ("job.json", json.dumps(job))):
        with atomic_path(folder / name) as path:  # another process may be reading it
            path.write_text(text)
    command = [sys.executable, str(folder / "job.py"), str(folder / "job.json")]
    variables = {**os.environ, **(environment or {})}
    return subprocess.Popen(command, start_new_session=new_session, env=variables, stderr=stderr)


def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody started this process, and `launch` may write what it likes."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_", "OSGAP_")) or name in ("LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)


class TinyBackbone(torch.nn.Module):
    """In place of `osgap.prior.network.backbone.Backbone`, whose smallest encoder has 11 million parameters."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.channels, self.strides = (8, 8, 16), (2, 4, 8)
        inward = (3, *self.channels[:-1])
        self.layers = torch.nn.ModuleList(
            torch.nn.Conv2d(before, after, 3, stride=2, padding=1)
            for before, after in zip(inward, self.channels, strict=True)
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps, x = [], 2 * images - 1
        for layer in self.layers:
            x = torch.nn.functional.silu(layer(x))
            maps.append(x)
        return maps


def tiny_surface(steps: int = 6) -> PriorConfig:
    """The same with the network that reads photographs on the head, up to three of them."""
    surface = {"input_size": 32, "widths": (16, 16, 32), "blocks": 1, "attention_blocks": 1, "heads": 2, "sampled": 8}
    changes = {"architecture": "surface", "surface": {**surface, "code": 16}, "backbone": {"name": "resnet18"}}
    return PriorConfig.model_validate({**tiny(steps).model_dump(), **changes})


def tiny(steps: int = 6) -> PriorConfig:
    encoder = {
        "input_size": 32, "width": 8, "token_width": 32, "residual_blocks": (1, 1), "attention_blocks": 1, "heads": 2,
        "dilations": (1, 2, 3),
    }  # fmt: skip
    return PriorConfig.model_validate(
        {
            "encoder": encoder, "source_cameras": 2, "sources": 2, "targets": 2, "steps": steps, "warmup": 2,
            "learning_rate": 1e-3, "ema": 0.5, "precision": "32-true", "workers": 0,
            "checkpoint_every": 2,
        }
    )  # fmt: skip

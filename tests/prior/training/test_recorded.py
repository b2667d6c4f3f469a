"""A network whose passes are recorded as CUDA graphs computes what it computes otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from osgap.prior.photographs import Photographs
from osgap.prior.surface import SurfaceViews
from osgap.prior.training import stage as train
from osgap.prior.training.recorded import RecordedPrior
from prior.runs import inputs, outputs, tiny_surface


class _Prior(nn.Module):
    """Says how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, photographs: Photographs, with_features: bool = False) -> torch.Tensor:
        assert with_features
        self.asked += 1
        return photographs.images.mean(dim=(1, 2, 3, 4))


def _photographs(people: int, count: int) -> Photographs:
    places, flat, normals = (torch.zeros(people, count, 5, *rest) for rest in ((2,), (), (3,)))
    return Photographs(torch.ones(people, count, 3, 4, 4), SurfaceViews(places, flat, flat, normals))


def test_what_is_recorded_is_replayed_and_all_else_is_computed() -> None:
    prior: Any = _Prior()
    network = RecordedPrior(prior)
    network._passes[2] = lambda *tensors: torch.full((len(tensors[0]),), 7.0)
    network._people = 3
    assert network(_photographs(3, 2)).tolist() == [7.0] * 3
    assert prior.asked == 0
    for people, count in ((3, 1), (2, 2)):
        assert network(_photographs(people, count)).tolist() == [1.0] * people
    assert network(_photographs(3, 2)._replace(views=None)).tolist() == [1.0] * 3
    assert prior.asked == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-3), ("bf16-mixed", 0.03)])
def test_training_is_the_same_with_and_without(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, tolerance: float
) -> None:
    config = tiny_surface().model_copy(update={"devices": 1, "precision": precision, "steps": 12})
    recorded = []
    original = RecordedPrior.record

    def record(self: RecordedPrior, *args: Any, **settings: Any) -> None:
        original(self, *args, **settings)
        recorded.append(sorted(self._passes))

    monkeypatch.setattr(RecordedPrior, "record", record)
    train.run(config, inputs(world), outputs(tmp_path / "recorded"), seed=7)
    assert recorded == [[*range(1, config.photographs + 1)]]
    monkeypatch.setattr(RecordedPrior, "record", lambda *_, **__: None)
    train.run(config, inputs(world), outputs(tmp_path / "computed"), seed=7)
    curves = []
    for name in ("recorded", "computed"):
        log = json.loads((tmp_path / name / "train.json").read_text())
        curves.append(np.array([point["loss"] for point in log["curve"]]))
    recorded_curve, computed_curve = curves
    assert len(recorded_curve) == config.steps
    np.testing.assert_allclose(recorded_curve, computed_curve, rtol=tolerance)

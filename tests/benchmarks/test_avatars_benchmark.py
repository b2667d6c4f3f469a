"""The benchmarks of finished avatars and of tracking errors, on painted people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from osgap.capture.store import CaptureStore
from osgap.head.assets import load_head
from osgap.head.texels import bind_texels
from osgap.prior.config import PriorConfig
from osgap.prior.mean import load_maps
from osgap.prior.network.model import save_prior
from osgap.prior.posing import Rig
from osgap.prior.training.initial import initial_prior
from osgap.splat.attributes import CHANNELS, GaussianAttributes
from osgap.splat.avatar import Avatar

Load = Callable[[str], ModuleType]

UV_SIZE = 32
SMALL = {
    "architecture": "surface",
    "surface": {"input_size": 64, "widths": [16, 32], "heads": 2, "blocks": 1, "sampled": 8, "code": 16},
    "backbone": {"name": "resnet18"},
}


@pytest.fixture(scope="module")
def painted(load: Load, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of two painted people, and their files."""
    people, folder = load("people"), tmp_path_factory.mktemp("painted")
    return folder, people.paint(folder, people.synthetic_config("64x88", 2, 0), 2, UV_SIZE, torch.device("cpu"))


def rows(text: str) -> list[list[str]]:
    """The cells of a table in Markdown, without its first two lines."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


@pytest.mark.slow
def test_closing_closes_and_says_so(
    load: Load, painted: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, files = painted
    head, binding = load_head(files.head), _binding(files)
    heights = head.v_template[head.faces[binding.faces]].mean(dim=1)[:, 1]
    thin = GaussianAttributes.from_uv(load_maps(files.maps[:1])[0], binding).channels.clone()
    thin[heights.topk(40).indices, CHANNELS["opacity"]] = -4.0  # the crown hardly shows
    params = CaptureStore(files.captures[0]).params.first()
    Avatar(GaussianAttributes(thin), binding.faces, params).save(tmp_path / "101", {})
    arguments = [str(files.captures[0]), "--head", str(folder / "head"), "--avatars", str(tmp_path / "{subject}")]
    load("closing").main(arguments)
    (pattern, before, after, psnr, closed, seconds), *others = rows(capsys.readouterr().out)
    assert (pattern, others) == (str(tmp_path / "{subject}"), [])
    assert float(before) < 0.9 < float(after) <= 1
    assert all(len(cell.split(" / ")) == 2 for cell in (psnr, closed))
    assert float(seconds) > 0


@pytest.mark.slow
def test_an_error_of_the_tracking_is_measured(
    load: Load, painted: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, files = painted
    head, maps = load_head(files.head), load_maps(files.maps[:1])
    rig = Rig.build(head, _binding(files), [CaptureStore(files.captures[0]).params])
    model = initial_prior(PriorConfig.model_validate(SMALL), maps, rig, 0)
    save_prior(tmp_path / "model.pt", model, ["101"], {})
    arguments = [str(files.captures[1]), "--prior", str(tmp_path / "model.pt"), "--head", str(folder / "head")]
    tracking = load("tracking")
    tracking.main([*arguments, "--oneshot", '{"steps": 2, "losses": {"coverage": 0}}', "--noise", "3"])
    person, mean = rows(capsys.readouterr().out)
    assert (person[0], mean[0]) == ("102", "mean")
    assert person[1:] == mean[1:]
    exact, wrong = (np.array([float(value) for value in cell.split(" / ")]) for cell in person[1:3])
    assert (exact != wrong).any()
    assert (exact > 5).all()


def _binding(files: Any) -> Any:
    head = load_head(files.head)
    return bind_texels(head.uvs, head.uv_faces, UV_SIZE)

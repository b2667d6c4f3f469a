"""The examples, as a reader runs them, on small people."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import cv2
import nbformat
import numpy as np
import pytest

from evaluation.people import HEIGHT, SERIALS, WIDTH, make_world

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder as a run leaves it: a head model, three people's captures, and avatars of one of them."""
    folder = tmp_path_factory.mktemp("results")
    world = make_world(folder)
    flame = folder / "synthetic" / "head"
    flame.mkdir(parents=True)
    names = ("flame2023.pkl", "FLAME_masks.pkl", "head_template_mesh.obj")
    for file, name in zip(world.assets.files, names, strict=True):
        shutil.copy(file, flame / name)
    _, truth = world.capture("201", 1)
    for subject, seed in (("202", 2), ("101", 3)):
        world.capture(subject, seed)
    for kind in ("oneshot", "avatars"):
        truth.save(folder / kind / "201")
    return folder


def main_of(number: str) -> Any:
    """The function that a script runs."""
    (path,) = (path for path in EXAMPLES if path.name.startswith(number))
    return runpy.run_path(str(path))["main"]


def people(results: Path) -> dict[str, Path]:
    """What every script is told of a run."""
    return {"results": results, "flame": results / "synthetic" / "head"}


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image[..., ::-1]


def test_they_are_numbered_without_gaps() -> None:
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))


def test_an_avatar_is_rendered_into_every_camera(results: Path, tmp_path: Path) -> None:
    main_of("01")(**people(results), output=tmp_path / "out.png")
    picture = read(tmp_path / "out.png")
    assert picture.shape == (HEIGHT, WIDTH * len(SERIALS), 3)
    tiles = picture.reshape(HEIGHT, len(SERIALS), WIDTH, 3)
    assert (tiles[0, :, 0] == 255).all()  # the corners are background
    assert (tiles[HEIGHT // 2, :, WIDTH // 2] < 255).any(axis=-1).all()  # there is a head in each


def test_a_person_is_fitted(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_of("02")(**people(results), output=tmp_path / "fit", uv_size=24, iterations=8)
    fitted = json.loads((tmp_path / "fit" / "fit.json").read_text())
    assert fitted["loss"]["mean"][-1] < 0.9 * fitted["loss"]["mean"][0]
    assert f"{fitted['metrics']['val']['psnr']:.2f} dB" in capsys.readouterr().out
    assert read(tmp_path / "fit" / "preview.png").shape[0] == 3 * HEIGHT


def test_ones_own_loss_does_what_it_asks_for(results: Path) -> None:
    shares = main_of("03")(**people(results), uv_size=24, iterations=8, weight=1.0)
    assert shares["OpaqueOrGone"] < shares["Fit"]


def test_an_avatar_is_driven_by_another_person(results: Path, tmp_path: Path) -> None:
    main_of("04")(**people(results), output=tmp_path / "out.png", frames=3)
    picture = read(tmp_path / "out.png")
    assert picture.shape == (2 * HEIGHT, 3 * WIDTH, 3)
    main_of("04")(**people(results), driver="201", output=tmp_path / "self.png", frames=3)
    photographs, avatars = np.split(read(tmp_path / "self.png").astype(int), 2)
    assert np.abs(photographs - avatars).max() <= 1  # their own motion: the avatar is the truth of its captures


def test_the_notebook_runs_from_top_to_bottom(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = nbformat.read(ROOT / "examples" / "05_a_stage_from_a_notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs for cell in cells)  # nothing of anybody's machine
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile(cell.source, cell.id, "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= {"RESULTS": str(results), "OUTPUT": str(tmp_path)}
    measured = json.loads((tmp_path / "metrics.json").read_text())["splits"]
    assert all(split["mean"]["psnr"] > 40 for split in measured.values())  # the avatar is the truth
    assert f"{measured['novel_view']['mean']['psnr']:.2f} dB" in capsys.readouterr().out
    assert read(tmp_path / "cross.png").size

"""The valid world, made once; of it, for each test, a copy of what its command reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from corpus.harness import World
from corpus.world import AVATAR, BENCHMARK, DOWNLOADS, FOREIGN, RAW, SETTINGS, SOURCE, SUBJECT, UNPOSED, make_world


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unbroken world; its `results` have what every stage reads."""
    folder = tmp_path_factory.mktemp("pristine") / "world"
    make_world(folder)
    downloads = World(folder, lambda: ("", ""), {**SETTINGS, "capture": DOWNLOADS})
    assert downloads.run("download", SUBJECT).code == 0
    return folder


@pytest.fixture
def world(pristine: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> World:
    """The head and the tracking exports."""

    def read() -> tuple[str, str]:
        captured = capfd.readouterr()
        return captured.out, captured.err

    world = World(tmp_path / "world", read, SETTINGS)
    _copy(pristine, world, "head", "tracking")
    return world


@pytest.fixture
def benchmark(world: World, pristine: Path) -> World:
    """And NeRSemble's benchmark, in place of the exports."""
    _copy(pristine, world, BENCHMARK)
    world.settings["capture"] = {"download": False, "tracking": f"WORLD/{BENCHMARK}", **UNPOSED}
    return world


@pytest.fixture
def sourced(world: World, pristine: Path) -> World:
    """And NeRSemble's tree, with a config that fetches raw videos from it."""
    _copy(pristine, world, SOURCE)
    world.settings["capture"] = dict(DOWNLOADS)
    return world


@pytest.fixture
def downloaded(sourced: World, pristine: Path) -> World:
    """And the raw videos."""
    _copy(pristine, sourced, RAW)
    return sourced


@pytest.fixture
def tracked(world: World, pristine: Path) -> World:
    """And the capture stores that `osgap import` makes."""
    _copy(pristine, world, "results/captures")
    return world


@pytest.fixture
def fitted(tracked: World, pristine: Path) -> World:
    """And the fitted avatar."""
    _copy(pristine, tracked, "results/avatars")
    return tracked


@pytest.fixture
def trained(fitted: World, pristine: Path) -> World:
    """And the prior."""
    _copy(pristine, fitted, "results/prior")
    return fitted


@pytest.fixture
def personalised(trained: World) -> World:
    """And all that a figure shows: the fit stands for what personalisation makes."""
    shutil.copytree(trained / AVATAR, trained / f"results/oneshot/{SUBJECT}")
    shutil.copytree(trained / AVATAR, trained / f"results/oneshot/{SUBJECT}/prior")
    return trained


@pytest.fixture
def adopting(fitted: World, pristine: Path) -> World:
    """And files of another program: an avatar, its maps, and somebody's motion."""
    _copy(pristine, fitted, FOREIGN)
    fitted.settings["interop"] = {
        "avatars": f"WORLD/{FOREIGN}/{{subject}}",
        "uv_gt": f"WORLD/{FOREIGN}/{{subject}}.npz",
    }
    return fitted


def _copy(pristine: Path, world: World, *paths: str) -> None:
    for path in paths:
        shutil.copytree(pristine / path, world / path)

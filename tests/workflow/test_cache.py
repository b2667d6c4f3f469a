"""Captures, fits and maps that several results folders share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from osgap.runtime.errors import UserError
from osgap.runtime.provenance import file_digest
from osgap.workflow.cache import LOCATION_VARIABLE, cache_folder, open_cache
from osgap.workflow.cache_config import CacheConfig

from .conftest import Checkout

MADE = ("captures/101.h5", "avatars/101/point_cloud.ply", "avatars/101/fit.json", "uv_gt/101.npz")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCATION_VARIABLE, "")  # restored afterwards, whatever a test sets


def snakemake() -> SimpleNamespace:
    return SimpleNamespace(workflow_settings=SimpleNamespace(cache=None))


def test_without_a_folder_nothing_is_shared() -> None:
    workflow = snakemake()
    open_cache(CacheConfig(), workflow, licensed=True)
    assert workflow.workflow_settings.cache is None


def test_a_new_folder_is_closed_to_others(tmp_path: Path) -> None:
    workflow, folder = snakemake(), tmp_path / "deep" / "cache"
    open_cache(CacheConfig(folder=folder), workflow, licensed=True)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert workflow.workflow_settings.cache == []
    assert os.environ[LOCATION_VARIABLE] == str(folder)


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o770, 0o755, 0o710])
def test_licensed_data_go_into_no_folder_that_others_can_enter(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(UserError, match=r"others can get into .*chmod 700"):
        open_cache(CacheConfig(folder=tmp_path), snakemake(), licensed=True)
    open_cache(CacheConfig(folder=tmp_path), snakemake(), licensed=False)
    open_cache(CacheConfig(folder=tmp_path, others_may_read=True), snakemake(), licensed=True)


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        open_cache(CacheConfig(folder=tmp_path / "file" / "cache"), snakemake(), licensed=False)


def test_snakemakes_own_variable_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(LOCATION_VARIABLE, str(tmp_path / "theirs"))
    assert cache_folder(CacheConfig()) == tmp_path / "theirs"
    assert cache_folder(CacheConfig(folder=tmp_path / "ours")) == tmp_path / "ours"


@pytest.mark.slow
def test_two_workspaces_fit_a_person_once(finished: Checkout, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = {name: file_digest(finished.results / name) for name in MADE}

    def build(place: Path, results: str) -> str:
        """101's maps, in a checkout whose results are called otherwise, and have everything that comes before."""
        checkout = finished.copy(place)
        (checkout.root / "results" / "reduced").rename(checkout.root / results)
        for name in ("captures", "avatars", "uv_gt"):
            shutil.rmtree(checkout.root / results / name)
        arguments = ("--config", f"results={results}", f"cache={{folder: {cache}}}", "--", f"{results}/uv_gt/101.npz")
        said = checkout.snakemake(*arguments).stdout
        assert {name: file_digest(checkout.root / results / name) for name in MADE} == before
        return said

    assert "to cache" in build(tmp_path / "one", "results/one")
    kept = {path.name for path in cache.iterdir()}
    said = build(tmp_path / "two", "results/two")
    assert "to cache" not in said
    assert said.count("from cache") == len(kept), "each of the files is taken"
    assert {path.name for path in cache.iterdir()} == kept, "no key has a path in it"

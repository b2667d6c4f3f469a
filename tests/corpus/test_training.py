"""Broken inputs of the prior's training, and broken results that are tabulated."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from corpus.damage import HTML, Runs, copy_of, cut, delete, write
from corpus.harness import Case, World, cases
from corpus.world import ENCODER, FOREIGN, OTHER, SUBJECT, npz

STORE, MAPS = f"results/captures/{OTHER}.h5", f"results/uv_gt/{OTHER}.npz"
WEIGHTS = "weights/model.pth"
METRICS = f"results/metrics/prior/{SUBJECT}.json"


@pytest.fixture
def training(tracked: World, pristine: Path) -> World:
    """A world with the maps of the training subject, and one step to train."""
    (tracked / "results/uv_gt").mkdir()
    shutil.copy(pristine / FOREIGN / f"{SUBJECT}.npz", tracked / MAPS)
    tracked.settings["accelerator"] = "cpu"
    tracked.settings["prior"] = {
        "encoder": ENCODER.model_dump(mode="json"),
        "steps": 1,
        "sources": 1,
        "targets": 1,
        "source_cameras": 1,
        "precision": "32-true",
        "workers": 0,
    }
    return tracked


def filled_outside(world: World) -> None:
    """Made on another head: texels are filled that this one's layout does not cover."""
    arrays = np.load(world / MAPS)
    (world / MAPS).write_bytes(npz(**{name: np.where(array == 0, 0.5, array) for name, array in arrays.items()}))


def not_finite(world: World) -> None:
    arrays = dict(np.load(world / MAPS))
    arrays["gs_opacity_uv"] = np.full_like(arrays["gs_opacity_uv"], np.nan)
    (world / MAPS).write_bytes(npz(**arrays))


BROKEN = {
    "capture is missing": Case(delete(STORE), STORE, "no such"),
    "capture is truncated": Case(cut(STORE), STORE, "truncated; delete it"),
    "maps are missing": Case(delete(MAPS), MAPS, "no such file"),
    "maps are truncated": Case(cut(MAPS), MAPS, "not a readable .npz"),
    "maps are not finite": Case(not_finite, MAPS, "finite numbers of single precision"),
    "maps of another head": Case(filled_outside, MAPS, "texels are filled that the head's UV layout does not cover"),
    "head is truncated": Case(cut("head/head.pkl"), "head/head.pkl", "not a readable pickle"),
}


def weights(write_file: Callable[[Path, Path], object]) -> Callable[[World], object]:
    """Start from a published checkpoint, which is written so; `ran` is what a payload makes."""

    def damage(world: World) -> None:
        path = world / WEIGHTS
        path.parent.mkdir()
        write_file(path, world / "ran")
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "0" * 64
        del world.settings["prior"]["encoder"]
        world.settings["prior"]["weights"] = {"path": f"WORLD/{WEIGHTS}", "sha256": digest}

    return damage


def corrected_later(world: World) -> None:
    weights(lambda path, _: torch.save({}, path))(world)
    (world / WEIGHTS).write_bytes((world / WEIGHTS).read_bytes() + b"\0")


CHECKPOINTS = {
    "checkpoint is missing": Case(weights(lambda path, _: None), WEIGHTS, "no such file"),
    "checkpoint is empty": Case(weights(lambda path, _: path.write_bytes(b"")), WEIGHTS, "no PyTorch state dict"),
    "checkpoint is a login page": Case(
        weights(lambda path, _: path.write_text(HTML)), WEIGHTS, "no PyTorch state dict"
    ),
    "checkpoint runs a command": Case(
        weights(lambda path, mark: torch.save({"state_dict": Runs(mark)}, path)), WEIGHTS, "no PyTorch state dict"
    ),
    "checkpoint has another checksum": Case(corrected_later, WEIGHTS, "has SHA-256 .* the config says"),
    "checkpoint of something else": Case(
        weights(lambda path, _: torch.save({"epoch": 3}, path)), WEIGHTS, "published OSGAP checkpoint"
    ),
}


def result(world: World) -> None:
    (world / METRICS).parent.mkdir(parents=True)
    (world / METRICS).write_text(json.dumps({"method": "prior", "subject": SUBJECT, "splits": {}}))


TABLES = {
    "result is missing": Case(lambda world: None, METRICS.replace("prior", "fit"), "no such file"),
}


def test_control(training: World) -> None:
    training.accepts("train")
    assert (training / "results/prior/model.pt").is_file()


@cases(BROKEN)
def test_broken(training: World, case: Case) -> None:
    training.refuses_case(case, "train")


@cases(CHECKPOINTS)
def test_checkpoints(training: World, case: Case) -> None:
    training.refuses_case(case, "train")


def test_maps_of_two_people(training: World) -> None:
    shutil.copy(training / MAPS, training / f"results/uv_gt/{SUBJECT}.npz")
    copy_of("head/head.obj", STORE)(training)
    training.refuses("train", "--subjects", f"{OTHER},{SUBJECT}", file=STORE, finding="not a capture store")


@cases(TABLES)
def test_tables(training: World, case: Case) -> None:
    result(training)
    training.refuses_case(case, "tables")


def test_results_that_are_cut(training: World) -> None:
    result(training)
    for method in ("mean_avatar", "one_shot", "fit"):
        path = training / METRICS.replace("prior", method)
        path.parent.mkdir()
        path.write_text((training / METRICS).read_text()[:20])
    training.refuses("tables", file=METRICS.replace("prior", "mean_avatar"), finding="not a result of `osgap evaluate`")


def test_traceback_on_request(training: World) -> None:
    write(MAPS, b"")(training)
    training.refuses_aloud("train")

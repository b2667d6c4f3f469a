"""Kinds of edit, and exactly which jobs each of them runs again. docs/reruns.md promises these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from osgap.workflow.config import deep_merge

from .conftest import Checkout, Planner

pytestmark = pytest.mark.slow

CONFIG = "profiles/demo/reduced.yaml"
NOTHING: dict[str, int] = {}
FIGURES = {"person_figure": 1, "cross_figure": 1, "overview": 1}
PICTURES = {**FIGURES, "video": 1}
EVALUATION = {"evaluate": 4, "tables": 1}
AFTER_ONESHOT = {"evaluate": 2, "tables": 1, **PICTURES}
"""Of the prior's answer and of the personalised avatar, which one job makes."""
AFTER_TRAINING = {"calibrate": 1, "oneshot": 1, **AFTER_ONESHOT, "evaluate": 3}
AFTER_FITS = {"bake": 2, "train": 1, **AFTER_TRAINING, "evaluate": 4}
AFTER_IMPORT = {"fit": 3, **AFTER_FITS}
EVERYTHING = {"synthetic_person": 3, "download": 3, "import_tracking": 3, **AFTER_IMPORT}


@dataclass(frozen=True)
class Edit:
    """One edit of a finished checkout."""

    name: str
    reruns: dict[str, int]
    """Rule -> jobs."""
    config: dict[str, Any] = field(default_factory=dict)
    """Laid over the config."""
    texts: dict[str, tuple[str, str]] = field(default_factory=dict)
    """File -> what is replaced in it by what; an empty first text appends."""
    deleted: tuple[str, ...] = ()
    """Outputs."""
    arguments: tuple[str, ...] = ()
    """Of Snakemake."""


def appended(file: str, text: str = "\nEDITED = True\n") -> dict[str, tuple[str, str]]:
    return {file: ("", text)}


def entry(subject: str, **keys: Any) -> dict[str, Any]:
    return {"subjects": {"entries": {subject: keys}}}


def own_branch(subject_rules: int, **others: int) -> dict[str, int]:
    return {**dict.fromkeys(("synthetic_person", "download", "import_tracking", "fit"), subject_rules), **others}


EDITS = [
    # code
    Edit(
        "a docstring of the head",
        NOTHING,
        texts={"osgap/head/model.py": ('"""The head model: ', '"""What moves a head: ')},
    ),
    Edit("a comment in the fit", NOTHING, texts=appended("osgap/fit/optimise.py", "\n# nothing but words\n")),
    Edit("another layout of a line", NOTHING, texts=appended("osgap/evaluation/measure.py", "\n\n\n")),
    Edit(
        "a constant of the head",
        EVERYTHING,
        texts={"osgap/head/model.py": ("_TINY_ANGLE_SQUARED = 1e-16", "_TINY_ANGLE_SQUARED = 2e-16")},
    ),
    Edit(
        "code of the download",
        {"download": 3, "import_tracking": 3, **AFTER_IMPORT},
        texts=appended("osgap/capture/download/stage.py"),
    ),
    Edit(
        "code of the import", {"import_tracking": 3, **AFTER_IMPORT}, texts=appended("osgap/capture/importing/stage.py")
    ),
    Edit("code of the fit", AFTER_IMPORT, texts=appended("osgap/fit/optimise.py")),
    Edit("code of the training", {"train": 1, **AFTER_TRAINING}, texts=appended("osgap/prior/training/stage.py")),
    Edit(
        "code of personalisation",
        {"oneshot": 1, **AFTER_ONESHOT},
        texts=appended("osgap/prior/personalisation/stage.py"),
    ),
    Edit(
        "code of the calibration",
        {"calibrate": 1, "oneshot": 1, **AFTER_ONESHOT},
        texts=appended("osgap/prior/calibration/search.py"),
    ),
    Edit("code of the evaluation", EVALUATION, texts=appended("osgap/evaluation/stage.py")),
    Edit(
        "code of the tables' numbers",
        {"tables": 1},
        texts=appended("osgap/report/tables/stage.py", "\nEDITED = True\n"),
    ),
    Edit("code of the figures", FIGURES, texts=appended("osgap/report/figures/stage.py")),
    Edit("code of the videos", {"video": 1}, texts=appended("osgap/report/videos/stage.py")),
    Edit("code of the command line", NOTHING, texts=appended("osgap/cli/stages.py")),
    Edit("code that plans", NOTHING, texts=appended("osgap/workflow/resources.py")),
    Edit("another version of osgap", NOTHING, texts={"osgap/__init__.py": ('__version__ = "', '__version__ = "9')}),
    # config
    Edit("one seed for all", {"synthetic_head": 1, **EVERYTHING}, config={"seed": 1}),
    Edit(
        "moments with outliers",
        {"import_tracking": 3, **AFTER_IMPORT},
        config={"capture": {"drop_outliers": True}},
    ),
    Edit("iterations of the fit", AFTER_IMPORT, config={"fit": {"iterations": 41}}),
    Edit("steps of the training", {"train": 1, **AFTER_TRAINING}, config={"prior": {"steps": 13}}),
    Edit(
        "steps of personalisation",
        {"calibrate": 1, "oneshot": 1, **AFTER_ONESHOT},
        config={"oneshot": {"steps": 9}},
    ),
    Edit(
        "more supervision",
        {"calibrate": 1, "oneshot": 1, "evaluate": 1, "tables": 1, "person_figure": 1, "cross_figure": 1},
        config={"oneshot": {"supervision": ["one_shot", "few_shot"]}},
    ),
    Edit("frames of cross-reenactment", {"cross_figure": 1}, config={"evaluation": {"cross_frames": 3}}),
    Edit("rate of the videos", {"video": 1}, config={"report": {"video_fps": 12}}),
    Edit("scale of the figures", FIGURES, config={"report": {"figure_scale": 2}}),
    Edit("expressions in the figures", {"person_figure": 1, "overview": 1}, config={"report": {"expressions": 3}}),
    Edit(
        "whatever changes no result",
        NOTHING,
        config={
            "fit": {"checkpoint_every": 7, "frame_memory_mib": 100},
            "prior": {"workers": 1, "checkpoint_every": 5},
            "oneshot": {"checkpoint_every": 3},
            "capture": {"connections": 2},
            "cluster": {"gpu_partition": "gpu", "account": "lab"},
        },
    ),
    # people
    Edit("their own numbers", NOTHING, config=entry("101", participant=101)),
    Edit(
        "the sequences that everybody has",
        NOTHING,
        config=entry("201", sequences=["EMO-1-shout+laugh", "EXP-5-mouth", "SEN-05-glow_eyes_sweet_girl"]),
    ),
    Edit(
        "another photograph",
        {"oneshot": 1, **EVALUATION, **PICTURES},
        config=entry("201", source={"sequence": "EXP-5-mouth", "timestep": 1, "camera": "222200036"}),
    ),
    Edit("another driver", {"cross_figure": 1}, config=entry("201", driver="102")),
    Edit(
        "one more to be tested on",
        own_branch(1, oneshot=1, evaluate=4, tables=1, overview=1, person_figure=1, cross_figure=1, video=1),
        config={"subjects": {"test": ["201", "202"]}},
    ),
    Edit(
        "one more to learn from",
        own_branch(1, bake=1, train=1, **AFTER_TRAINING),
        config={"subjects": {"train": ["101", "102", "103"]}},
    ),
    # experiments
    Edit(
        "an experiment beside the config as it is",
        {"train": 1, "calibrate": 1, "oneshot": 1, "evaluate": 3, "tables": 1, **PICTURES, "ablation": 1},
        config={"experiments": {"full": {}, "short": {"prior": {"steps": 8}}}},
    ),
    Edit(
        "an experiment of personalisation alone",
        {"calibrate": 1, "oneshot": 1, "evaluate": 2, "tables": 1, **PICTURES, "ablation": 1},
        config={"experiments": {"full": {}, "longer": {"oneshot": {"steps": 9}}}},
    ),
    # files and machine
    Edit("a table that is gone", {"tables": 1}, deleted=("tables/novel_view.csv",)),
    Edit("a fit that is gone and has been used", NOTHING, deleted=("avatars/101/point_cloud.ply",)),
    Edit("a contact sheet that is gone", NOTHING, deleted=("captures/101.png",)),
    Edit(
        "a picture of a fit that is gone",
        {"fit": 1, "bake": 1, "train": 1, **AFTER_TRAINING},
        deleted=("avatars/101/preview.png",),
    ),
    Edit(
        "other threads and resources",
        NOTHING,
        arguments=("--set-threads", "fit=2", "--set-resources", "fit:mem_mb=9000"),
    ),
]


@pytest.fixture(scope="module")
def place(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return finished.copy(tmp_path_factory.mktemp("edits") / "checkout")


@pytest.fixture(scope="module")
def planner(place: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planner]:
    planner = Planner(place, tmp_path_factory.mktemp("planner"))
    yield planner
    planner.close()


@pytest.fixture
def undone(place: Checkout) -> Iterator[Callable[[Edit], None]]:
    """A function that makes an edit, which is taken back in the end."""
    before: list[tuple[Path, Path | str]] = []

    def make(edit: Edit) -> None:
        for name, (old, new) in edit.texts.items():
            file = place.root / name
            text = file.read_text()
            before.append((file, text))
            assert old == "" or text.count(old) == 1, f"{name}: {old!r} does not stand there once"
            file.write_text(text.replace(old, new) if old else text + new)
        if edit.config:
            file = place.root / CONFIG
            before.append((file, file.read_text()))
            file.write_text(yaml.safe_dump(deep_merge(yaml.safe_load(file.read_text()), edit.config), sort_keys=False))
        for name in edit.deleted:
            file = place.results / name
            before.append((file, file.rename(file.with_name(f"{file.name}.away"))))

    yield make
    for file, content in before:
        if isinstance(content, Path):
            content.rename(file)
        else:
            file.write_text(content)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name.replace(" ", "-"))
def test_an_edit_reruns_what_depends_on_it_and_nothing_else(
    planner: Planner, undone: Callable[[Edit], None], edit: Edit
) -> None:
    undone(edit)
    assert planner.planned(*edit.arguments) == edit.reruns

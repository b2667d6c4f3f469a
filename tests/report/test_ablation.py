"""What the table of the experiments says, and what it refuses to compare."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osgap.evaluation.measure import DEFINITIONS, HIGHER_IS_BETTER, METRICS
from osgap.evaluation.methods import METHODS, SPLIT_TABLES, SUFFIXES
from osgap.report.ablation.stage import AblationInputs, AblationOutputs, run
from osgap.report.names import METHOD_NAMES
from osgap.report.tables import stage as tables
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError

PEOPLE = ("030", "x_y")
ONE_SHOT = ("mean_avatar", "prior", "one_shot", "fit")
WEIGHTS = "397923af"

Numbers = Mapping[str, float | None]
"""Metric -> what is measured of person 030 in novel views; of the other it is one more, in the other split one less."""


def _result(method: str, subject: str, numbers: Numbers) -> dict[str, Any]:
    other = PEOPLE.index(subject)
    splits = {
        split: {
            "description": "a held-out camera & 100 % of it",
            "split": "val",
            "frames": 10 + other,
            "frames_digest": f"{subject}{split}",
            "cameras": ["222200037"],
            "sequences": ["EMO-1-shout+laugh"],
            "mean": {m: None if numbers[m] is None else numbers[m] + other - i for m in METRICS},  # type: ignore[operator]
        }
        for i, split in enumerate(SPLIT_TABLES)
    }
    reasons = {"lpips_alex": "not measured: no AlexNet weights are configured (evaluation.lpips.alex)"}
    reasons["lpips_vgg"] = "not measured: no VGG-16 weights are configured (evaluation.lpips.vgg)"
    missing = {metric: why for metric, why in reasons.items() if numbers[metric] is None}
    return {"method": method, "subject": subject, "splits": splits, "missing": missing, "definitions": {**DEFINITIONS}}


def _numbers(psnr: float, vgg: float | None = 0.5) -> Numbers:
    return {"psnr": psnr, "ssim": 0.8, "lpips_alex": None, "lpips_vgg": vgg}


Change = Callable[[dict[str, Any]], None]


class World:
    """Results of experiments in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics: dict[str, tuple[Path, ...]] = {}

    def measure(self, place: str, method: str, numbers: Numbers, change: Change | None = None) -> tuple[Path, ...]:
        """Write a method's results into a place, `""` or `experiments/NAME/`; where they are."""
        paths = tuple(Path(f"{self.folder}/{place}metrics/{method}/{subject}.json") for subject in PEOPLE)
        for path, subject in zip(paths, PEOPLE, strict=True):
            result = _result(method, subject, numbers)
            measured = {net: numbers[f"lpips_{net}"] is not None for net in ("alex", "vgg")}
            lpips = {net: {"sha256": WEIGHTS} if known else None for net, known in measured.items()}
            result["provenance"] = {"config": {"lpips": lpips}}
            if change:
                change(result)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result))
        return paths

    def outputs(self) -> AblationOutputs:
        made = self.folder / "experiments"
        files = {(split, suffix): made / f"{split}.{suffix}" for split in SPLIT_TABLES for suffix in SUFFIXES}
        return AblationOutputs(made / "summary.json", files)

    def compare(self) -> AblationOutputs:
        run(AblationInputs(self.metrics), outputs := self.outputs(), seed=0)
        return outputs


def _full_and_short(folder: Path, change: Change | None = None, vgg: float | None = 0.5) -> World:
    """Experiment `full` is the config as it stands; `short_1` has its own prior; `alike` shares all with `full`."""
    world = World(folder)
    shared = {m: world.measure("", m, _numbers(20.0 + i)) for i, m in enumerate(ONE_SHOT)}
    own = {
        m: world.measure("experiments/short_1/", m, _numbers(19.0 + i, vgg), change)
        for i, m in enumerate(ONE_SHOT)
        if m != "fit"
    }
    world.metrics["full"] = tuple(path for paths in shared.values() for path in paths)
    world.metrics["short_1"] = tuple(path for paths in {**shared, **own}.values() for path in paths)
    world.metrics["alike"] = world.metrics["full"]
    return world


def _rows(path: Path) -> list[dict[str, str]]:
    """Of a Markdown table."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert {len(row) for row in rows} == {len(header)}
    return [dict(zip(header, row, strict=True)) for row in rows]


# what it says ------------------------------------------------------------------------------------------------


def test_experiments_that_share_results_share_a_row(tmp_path: Path) -> None:
    outputs = _full_and_short(tmp_path).compare()
    for split in SPLIT_TABLES:
        rows = _rows(outputs.tables[split, "md"])
        assert [(row["Method"], row["Experiment"]) for row in rows] == [
            *((METHOD_NAMES[m], name) for m in ONE_SHOT[:-1] for name in ("full, alike", "short_1")),
            ("Fit", "full, short_1, alike"),
        ]
        assert {(row["People"], row["Frames"]) for row in rows} == {("2", "21")}


def test_the_best_of_a_method_is_bold_and_one_row_alone_is_not(tmp_path: Path) -> None:
    outputs = _full_and_short(tmp_path, vgg=0.25).compare()
    for row in _rows(outputs.tables["novel_view", "md"]):
        alone = row["Method"] == "Fit"
        assert row["PSNR ↑"].startswith("**") == (row["Experiment"] == "full, alike"), "20.5 dB against 19.5"
        assert row["LPIPS-VGG ↓"].startswith("**") == (row["Experiment"] == "short_1"), "lower is better"
        assert row["SSIM ↑"].startswith("**") != alone, "equally good"


number = st.floats(0, 40).map(lambda x: round(x, 3))


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_tables_agree_with_each_other_and_with_those_of_the_experiments(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever is measured, and whoever shares it."""
    world = World(tmp_path_factory.mktemp("ablation"))
    names = data.draw(st.lists(st.sampled_from(["b", "a_1", "c-2", "full"]), min_size=1, max_size=4, unique=True))
    places: dict[str, list[str]] = {}
    for name in names:
        methods = data.draw(st.lists(st.sampled_from(METHODS), min_size=1, unique=True))
        found: tuple[Path, ...] = ()
        for method in methods:
            others = places.setdefault(method, [])
            place = data.draw(st.sampled_from([*others, f"experiments/{name}/"]))
            if place not in others:
                values = {m: data.draw(st.none() | number) if "lpips" in m else data.draw(number) for m in METRICS}
                world.measure(place, method, values)
                others.append(place)
            found += tuple(Path(f"{world.folder}/{place}metrics/{method}/{s}.json") for s in PEOPLE)
        world.metrics[name] = tuple(data.draw(st.permutations(found)))
    outputs = world.compare()
    summary = json.loads(outputs.summary.read_text())
    assert set(summary) == {*names, "provenance"}
    ordinary = _csv_of_ordinary_tables(world)
    for split in SPLIT_TABLES:
        assert [*outputs.tables[split, "csv"].open()] == ordinary[split]
        _check_rows(world, _rows(outputs.tables[split, "md"]), {name: summary[name] for name in names}, split)


def _csv_of_ordinary_tables(world: World) -> dict[str, list[str]]:
    """Split -> lines of the tables of each experiment below each other, with its name in a column."""
    lines = {split: [f"split,experiment,method,subject,frames,{','.join(METRICS)}\n"] for split in SPLIT_TABLES}
    for name, paths in world.metrics.items():
        files = {(split, "csv"): world.folder / f"{split}.csv" for split in SPLIT_TABLES}
        tables.run(tables.TablesInputs(paths), tables.TablesOutputs(world.folder / "summary.json", files), seed=0)
        for split in SPLIT_TABLES:
            _, *rows = files[split, "csv"].open()
            lines[split] += [row.replace(f"{split},", f"{split},{name},", 1) for row in rows]
    return lines


def _check_rows(world: World, rows: list[dict[str, str]], summary: dict[str, Any], split: str) -> None:
    """Each method of each experiment is in one row, with the summary's numbers; the best rows of a method are bold."""
    keys = {head.split()[0].lower().replace("-", "_"): head for head in rows[0] if "↑" in head or "↓" in head}
    methods = {name: method for method, name in METHOD_NAMES.items()}
    order = [METHODS.index(methods[row["Method"]]) for row in rows]
    assert order == sorted(order)
    seen = []
    for row in rows:
        method, group = methods[row["Method"]], row["Experiment"].split(", ")
        seen += [(name, method) for name in group]
        rivals = [other for other in rows if other["Method"] == row["Method"]]
        assert len({tuple(p for p in sorted(world.metrics[n]) if p.parent.name == method) for n in group}) == 1
        for metric in METRICS:
            values = {summary[name][method][split][metric] for name in group}
            (value,) = values
            cell = row[keys[metric]]
            if value is None:
                assert cell == ""
                continue
            assert float(cell.strip("*")) == pytest.approx(value, abs=0.0051)
            shown = [float(other[keys[metric]].strip("*")) for other in rivals if other[keys[metric]]]
            best = (max if HIGHER_IS_BETTER[metric] else min)(shown)
            assert cell.startswith("**") == (len(rivals) > 1 and float(cell.strip("*")) == best)
    assert sorted(seen) == sorted((name, method) for name, made in summary.items() for method in made)


def test_what_an_experiment_lacks_is_said_with_its_name(tmp_path: Path) -> None:
    outputs = _full_and_short(tmp_path, vgg=None).compare()
    text = outputs.tables["novel_view", "md"].read_text()
    assert "[a] LPIPS-Alex not measured: no AlexNet weights are configured (evaluation.lpips.alex)." in text
    assert "[b] LPIPS-VGG not measured: no VGG-16 weights are configured (evaluation.lpips.vgg), in short_1." in text
    assert f"LPIPS-VGG: {DEFINITIONS['lpips_vgg']}" in text, "full was measured"
    assert f"LPIPS-Alex: {DEFINITIONS['lpips_alex']}" not in text, "nobody was"
    cells = {row["Experiment"]: row["LPIPS-VGG ↓ [b]"] for row in _rows(outputs.tables["novel_view", "md"])}
    assert cells["short_1"] == ""
    assert cells["full, alike"] == "**1.0000**"


@pytest.mark.parametrize("suffix", ["md", "tex"])
def test_it_says_what_was_measured(tmp_path: Path, suffix: str) -> None:
    text = _full_and_short(tmp_path).compare().tables["self_reenactment", suffix].read_text().replace("\\", "")
    for words in (
        "Self-reenactment: a held-out camera & 100 % of it.",
        "1 camera (222200037); sequence EMO-1-shout+laugh; 21 frames of 2 people (030: 10, x_y: 11)",
        "the same frames for every method and experiment",
        "Experiments in one row share their results",
        "Fit: optimised on all training frames of the person.",
    ):
        assert words in text, words


def test_the_summary_says_where_it_comes_from_wherever_it_lies(tmp_path: Path) -> None:
    first, second = (_full_and_short(tmp_path / name).compare() for name in ("results", "elsewhere"))
    for path in (first.summary, *first.tables.values()):
        assert path.read_bytes() == (tmp_path / "elsewhere" / path.relative_to(tmp_path / "results")).read_bytes()
    provenance = read_provenance(second.summary)
    assert provenance is not None
    assert provenance["stage"] == "ablation"
    assert "osgap.report.ablation.stage" in provenance["code"]
    assert "osgap.report.tables.stage" not in provenance["code"], "an edit of the ordinary tables is none of this"
    inputs = provenance["inputs"]
    assert len(inputs) == 3 * len(ONE_SHOT) * len(PEOPLE)
    assert inputs["full/fit/030.json"] == inputs["short_1/fit/030.json"]
    assert inputs["full/prior/030.json"] != inputs["short_1/prior/030.json"]


# LaTeX -------------------------------------------------------------------------------------------------------


def test_latex_is_balanced(tmp_path: Path) -> None:
    text = _full_and_short(tmp_path, vgg=None).compare().tables["novel_view", "tex"].read_text()
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None
    assert columns[1] == "ll" + "r" * (2 + len(METRICS))
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 1 + 2 * 3 + 1
    for line in lines:
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1
    assert text.count(r"\midrule") == len(ONE_SHOT), "one rule above each method"
    assert r"\label{tab:ablation-novel-view}" in text, "another than the ordinary table's"
    assert r"short\_1" in text
    opened = re.findall(r"\\begin\{(\w+)\}", text)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+)\}", text))
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.isascii()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(tmp_path: Path) -> None:
    outputs = _full_and_short(tmp_path, vgg=None).compare()
    inputs = "\n".join(rf"\input{{{outputs.tables[split, 'tex']}}}" for split in SPLIT_TABLES)
    page = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{inputs}\end{{document}}"
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# what it refuses ---------------------------------------------------------------------------------------------


def _of_fewer_frames(result: dict[str, Any]) -> None:
    for split in result["splits"].values():
        split["frames"] = 3


def _of_other_frames(result: dict[str, Any]) -> None:
    result["splits"]["self_reenactment"]["frames_digest"] = "other"


def _otherwise_defined(result: dict[str, Any]) -> None:
    result["definitions"]["ssim"] = "7x7 box"


def _with_other_weights(result: dict[str, Any]) -> None:
    result["provenance"]["config"]["lpips"]["vgg"]["sha256"] = "00000000"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_of_fewer_frames, "ablation: novel_view of subject 030: full has frames 10, short_1 has 3; run"),
        (
            _of_other_frames,
            "self_reenactment of subject 030: full has frames_digest 030self_reenactment, short_1 has other; run",
        ),
        (
            _otherwise_defined,
            'SSIM is measured as "11x11 Gaussian.*" for mean_avatar/030 of full, as "7x7 box" for .*short_1; run',
        ),
        (
            _with_other_weights,
            "LPIPS-VGG has weights 397923af for mean_avatar/030 of full, 00000000 for mean_avatar/030 of short_1; name",
        ),
    ],
)
def test_what_was_measured_differently_is_not_compared(tmp_path: Path, change: Change, said: str) -> None:
    world = _full_and_short(tmp_path, change)
    # Within an experiment all methods are alike, so that it is the experiments which differ.
    fit = world.measure("experiments/short_1/", "fit", _numbers(22.0), change)
    world.metrics["short_1"] = (*(path for path in world.metrics["short_1"] if path.parent.name != "fit"), *fit)
    with pytest.raises(UserError, match=said) as caught:
        world.compare()
    assert "\n" not in str(caught.value)
    assert not world.outputs().summary.exists()
    assert not any(path.exists() for path in world.outputs().tables.values())


def test_the_beginning_of_a_digest_is_that_of_the_same_weights(tmp_path: Path) -> None:
    def change(result: dict[str, Any]) -> None:
        result["provenance"]["config"]["lpips"]["vgg"]["sha256"] = WEIGHTS + "0" * 56

    _full_and_short(tmp_path, change).compare()


def test_other_people_are_not_compared(tmp_path: Path) -> None:
    world = _full_and_short(tmp_path)
    world.metrics["short_1"] = tuple(path for path in world.metrics["short_1"] if path.stem == "030")
    with pytest.raises(UserError, match="full was measured on 030, x_y, short_1 on 030; a mean over different people"):
        world.compare()


def test_a_gap_is_named_with_its_experiment(tmp_path: Path) -> None:
    world = _full_and_short(tmp_path)
    world.metrics["short_1"] = world.metrics["short_1"][:-1]
    with pytest.raises(UserError, match="ablation: experiment short_1: results are missing for fit/x_y"):
        world.compare()
    world.metrics["short_1"] = ()
    with pytest.raises(UserError, match="ablation: experiment short_1: there are no results"):
        world.compare()
    world.metrics = {}
    with pytest.raises(UserError, match=r"nothing to compare; name experiments in the config \(section experiments\)"):
        world.compare()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"method": "guess"}'])
def test_what_is_no_result_is_named(tmp_path: Path, content: str) -> None:
    world = _full_and_short(tmp_path)
    world.metrics["short_1"][0].write_text(content)
    with pytest.raises(UserError, match=r"030\.json: not a result of `osgap evaluate`"):
        world.compare()


def test_csv_has_a_row_for_each_person_of_each_experiment(tmp_path: Path) -> None:
    with _full_and_short(tmp_path).compare().tables["novel_view", "csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["experiment"] for row in rows] == [n for n in ("full", "short_1", "alike") for _ in range(4 * 3)]
    assert [row["subject"] for row in rows] == ["mean", *PEOPLE] * 12
    one = next(row for row in rows if (row["experiment"], row["method"], row["subject"]) == ("short_1", "prior", "x_y"))
    assert float(one["psnr"]) == 21.0

"""Tables are checked by what they say, not by their bytes, except that equal inputs give equal bytes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osgap.evaluation.measure import DEFINITIONS, METRICS
from osgap.evaluation.methods import METHODS, SPLIT_TABLES, SUFFIXES
from osgap.report.names import METHOD_NAMES
from osgap.report.tables.stage import TablesInputs, TablesOutputs, run
from osgap.runtime.artifacts import write_json
from osgap.runtime.errors import UserError

PEOPLE = ("030", "x_y")
_PSNR = {"mean_avatar": 15.0, "prior": 18.123456, "one_shot": 22.5, "few_shot": 24.0, "all_frames": 27.0, "fit": 30.0}


def _result(method: str, subject: str) -> dict[str, Any]:
    shift = 0.0 if subject == "030" else 1.0
    splits = {}
    for i, split in enumerate(SPLIT_TABLES):
        mean = {
            "psnr": _PSNR[method] + shift - i,
            "ssim": 0.8 + 0.01 * shift,
            "lpips_alex": None,
            "lpips_vgg": 0.3 - shift / 8,
        }
        splits[split] = {
            "description": "a held-out camera & 100 % of it",
            "split": "val",
            "frames": 10 + int(shift),
            "frames_digest": f"{subject}{split}",
            "cameras": ["222200037"] if i == 0 else ["220700191", "222200037"],
            "sequences": ["EMO-1-shout+laugh"],
            "mean": mean,
            "per_camera": {},
            "per_sequence": {},
        }
    missing = {"lpips_alex": "not measured: no AlexNet weights are configured (evaluation.lpips.alex)"}
    return {
        "method": method,
        "subject": subject,
        "splits": splits,
        "missing": missing,
        "definitions": DEFINITIONS,
    }


Change = Callable[[dict[str, Any]], None]


def _make(folder: Path, change: Change | None = None, methods: tuple[str, ...] = METHODS) -> TablesOutputs:
    paths = []
    for method in methods:
        for subject in PEOPLE:
            result = _result(method, subject)
            if change:
                change(result)
            paths.append(folder / method / f"{subject}.json")
            write_json(paths[-1], result, {})
    tables = {(p, s): folder / "tables" / f"{p}.{s}" for p in SPLIT_TABLES for s in SUFFIXES}
    outputs = TablesOutputs(folder / "summary.json", tables)
    run(TablesInputs(tuple(paths)), outputs, seed=0)
    return outputs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TablesOutputs:
    return _make(tmp_path_factory.mktemp("tables"))


def test_the_summary_is_what_another_program_expects(made: TablesOutputs) -> None:
    summary = json.loads(made.summary.read_text())
    assert set(summary) == {*METHODS, "provenance"}
    for method in METHODS:
        assert set(summary[method]) == {"novel_view", "self_reenactment"}
        for values in summary[method].values():
            assert set(values) == {"psnr", "ssim", "lpips_alex", "lpips_vgg"}
    assert summary["fit"]["novel_view"]["psnr"] == pytest.approx(30.5)
    assert summary["fit"]["novel_view"]["lpips_alex"] is None
    assert summary["prior"]["self_reenactment"]["psnr"] == pytest.approx(17.623456)


@pytest.mark.parametrize("split", SPLIT_TABLES)
def test_csv_means_are_means_of_the_people(made: TablesOutputs, split: str) -> None:
    with made.tables[split, "csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    summary = json.loads(made.summary.read_text())
    assert [row["method"] for row in rows] == [method for method in METHODS for _ in range(3)]
    assert [row["subject"] for row in rows] == ["mean", *PEOPLE] * len(METHODS)
    for method in METHODS:
        mean, *people = [row for row in rows if row["method"] == method]
        for metric in ("psnr", "ssim", "lpips_vgg"):
            values = [float(row[metric]) for row in people]
            assert float(mean[metric]) == pytest.approx(sum(values) / 2)
            assert float(mean[metric]) == summary[method][split][metric]
        assert int(mean["frames"]) == 21
        assert {row["lpips_alex"] for row in (mean, *people)} == {""}


def _markdown_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("split", SPLIT_TABLES)
def test_markdown_has_one_shape_and_marks_the_best(made: TablesOutputs, split: str) -> None:
    header, rule, *rows = _markdown_rows(made.tables[split, "md"].read_text())
    assert {len(row) for row in (header, rule, *rows)} == {3 + len(METRICS)}
    psnr, ssim = header.index("PSNR ↑"), header.index("SSIM ↑")
    for row in rows:
        assert row[psnr].startswith("**") == (row[0] == "Fit"), "the highest PSNR for the same people is bold"
        assert row[ssim].startswith("**"), "all are equally good, so all are bold"
        assert re.fullmatch(r"\*?\*?\d+\.\d\d\*?\*?", row[psnr])


def test_lower_lpips_is_better(tmp_path: Path) -> None:
    def change(result: dict[str, Any]) -> None:
        better = result["method"] == "one_shot"
        for split in result["splits"].values():
            split["mean"]["lpips_vgg"] = 0.1 if better else 0.2

    rows = _markdown_rows(_make(tmp_path, change).tables["novel_view", "md"].read_text())[2:]
    assert [row[0] for row in rows if row[-1].startswith("**")] == ["One-shot"] * 3


@pytest.mark.parametrize("suffix", ["md", "tex"])
def test_a_missing_metric_is_an_empty_cell_with_a_footnote(made: TablesOutputs, suffix: str) -> None:
    text = made.tables["novel_view", suffix].read_text()
    assert "[a] LPIPS-Alex not measured: no AlexNet weights are configured (evaluation.lpips.alex)." in text
    assert "LPIPS-VGG not measured" not in text
    if suffix == "md":
        header, _, *rows = _markdown_rows(text)
        assert {row[header.index("LPIPS-Alex ↓ [a]")] for row in rows} == {""}


@pytest.mark.parametrize("suffix", ["md", "tex"])
def test_the_split_is_named_with_serials_and_counts(made: TablesOutputs, suffix: str) -> None:
    text = made.tables["self_reenactment", suffix].read_text().replace("\\", "")
    assert "Self-reenactment" in text
    assert "2 cameras (220700191, 222200037)" in text
    assert "21 frames of 2 people (030: 10, x_y: 11)" in text
    assert "EMO-1-shout+laugh" in text


@pytest.mark.parametrize("split", SPLIT_TABLES)
def test_latex_is_balanced(made: TablesOutputs, split: str) -> None:
    text = made.tables[split, "tex"].read_text()
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 1 + 3 * len(METHODS)
    for line in lines:
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns[1]) - 1
    opened = re.findall(r"\\begin\{(\w+)\}", text)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+)\}", text))
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    prose = "".join(line for line in text.splitlines() if not line.startswith("%"))
    prose = re.sub(r"\\(label|begin|end)\{[^}]*\}", "", prose)
    assert not re.search(r"(?<!\\)[_%#]", prose), "special signs are escaped"
    assert text.count("$") % 2 == 0
    assert text.isascii()


def test_equal_results_give_equal_bytes(made: TablesOutputs, tmp_path: Path) -> None:
    again = _make(tmp_path)
    for key, path in again.tables.items():
        assert path.read_bytes() == made.tables[key].read_bytes()
    assert again.summary.read_bytes() == made.summary.read_bytes()


def test_a_missing_person_is_an_error(tmp_path: Path) -> None:
    _make(tmp_path)
    paths = [tmp_path / method / f"{subject}.json" for method in METHODS for subject in PEOPLE][:-1]
    with pytest.raises(UserError, match="results are missing for fit/x_y"):
        run(TablesInputs(tuple(paths)), TablesOutputs(tmp_path / "s.json", {}), seed=0)
    with pytest.raises(UserError, match="no results to tabulate"):
        run(TablesInputs(()), TablesOutputs(tmp_path / "s.json", {}), seed=0)


def test_other_frames_are_an_error(tmp_path: Path) -> None:
    def change(result: dict[str, Any]) -> None:
        if result["method"] == "fit":
            result["splits"]["novel_view"]["frames"] = 3

    with pytest.raises(UserError, match="novel_view of subject 030: mean_avatar has frames 10, fit has 3"):
        _make(tmp_path, change)


def test_a_metric_of_half_the_people_has_no_mean(tmp_path: Path) -> None:
    def change(result: dict[str, Any]) -> None:
        if result["subject"] == "030":
            result["missing"]["lpips_vgg"] = "not measured: no VGG-16 weights are configured (evaluation.lpips.vgg)"
            for split in result["splits"].values():
                split["mean"]["lpips_vgg"] = None

    outputs = _make(tmp_path, change)
    summary = json.loads(outputs.summary.read_text())
    assert summary["fit"]["novel_view"]["lpips_vgg"] is None
    text = outputs.tables["novel_view", "md"].read_text()
    assert "LPIPS-VGG not measured" in text
    assert "0.1750" in text


def test_a_broken_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"broken\.json: not a result of `osgap evaluate`"):
        run(TablesInputs((path,)), TablesOutputs(tmp_path / "s.json", {}), seed=0)


def test_methods_have_names() -> None:
    assert set(METHOD_NAMES) == set(METHODS)

"""Snakemake's reasons become names: of keys, modules, packages; whatever stands in the parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snakemake.jobs import Reason
from snakemake.persistence import ParamsChange

from osgap.runtime.artifacts import write_json
from osgap.runtime.code import code_digests
from osgap.runtime.upgrades import current_versions
from osgap.workflow import versions, why
from osgap.workflow.stages import STAGES
from osgap.workflow.versions import survey


def reason(before: list[str], now: list[str]) -> str:
    """As Snakemake says it."""
    changed = Reason()
    changed.code_changed = True
    changed.params_changed = ParamsChange({repr(p) for p in before}, {repr(p) for p in now}, {"output"})
    return str(changed)


texts = st.one_of(st.text(), st.sampled_from([" now: ", "before: ", "it's", '"', "'\"\\", "; ", "<nothing exclusive>"]))


@given(before=st.sets(texts), now=st.sets(texts))
def test_parameters_are_found_whatever_they_are(before: set[str], now: set[str]) -> None:
    if not before | now:
        return
    text = reason(sorted(before - now), sorted(now - before))
    found = why._params(text.partition(why._PARAMS)[2])
    assert [sorted(side) for side in found] == [sorted(before - now), sorted(now - before)]


def test_keys_and_parameters_are_named() -> None:
    before = {"fit": {"iterations": 300, "losses": {"anchor": 1.0}}, "seed": 0}
    now = {"fit": {"iterations": 400, "losses": {}}, "seed": 0, "results": "it's; now: here"}
    text = reason([json.dumps(before), "101,102", "0" * 16], [json.dumps(now), "101", f"{'1' * 16} after {'2' * 16}"])
    assert list(why._explain(text, [])) == [
        "code has changed since last execution",
        "config fit.iterations: 300 -> 400",
        "config fit.losses.anchor: 1.0 -> (default)",
        'config results: (default) -> "it\'s; now: here"',
        "parameter 101,102 -> 101",
    ]


def test_modules_and_versions_are_named(tmp_path: Path) -> None:
    code = code_digests(STAGES["tables"].module)
    first, second, *_ = code
    made = {**current_versions(), "torch": "2.11.0", "spam": "1"}
    earlier = {**code, first: "0" * 16, "osgap.eggs": "0" * 16}
    del earlier[second]
    (tmp_path / "damaged.json").write_text("{")
    write_json(tmp_path / "summary.json", {}, {"stage": "tables", "code": earlier, "versions": made})
    outputs = [tmp_path / name for name in ("absent.json", "damaged.json", "summary.json")]
    said = list(why._explain(reason(["0" * 16], ["1" * 16]), outputs))[1:]
    assert sorted(said[:3]) == sorted([f"code {first} changed", f"code {second} is new", "code osgap.eggs is gone"])
    assert sorted(said[3:]) == [
        "version spam 1 -> (not installed) (reruns nothing by itself)",
        f"version torch 2.11.0 -> {current_versions()['torch']} (reruns nothing by itself)",
    ]


def test_an_upgrade_that_reruns_is_a_reason(tmp_path: Path) -> None:
    made = {**current_versions(), "torch": "2.11.0"}
    provenance = {"stage": "tables", "code": code_digests(STAGES["tables"].module), "versions": made}
    write_json(tmp_path / "summary.json", {}, {**provenance, "upgraded": {"numpy": ["1.0", "1.1"]}})
    text = reason(["0" * 16], [f"{'0' * 16} after {'1' * 16}"])
    assert list(why._explain(text, [tmp_path / "summary.json"], "rerun"))[1:] == [
        f"version numpy 1.0 and 1.1 -> {current_versions()['numpy']}",
        f"version torch 2.11.0 -> {current_versions()['torch']}",
    ]


def test_outputs_of_other_versions_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"torch": "2.12.0", "osgap": "2"}
    monkeypatch.setattr(versions, "current_versions", lambda: now)
    assert str(survey(tmp_path)) == ""
    code = {"osgap.fit": "0"}
    for number in range(12):
        made = {"torch": "2.11.0" if number < 3 else "2.12.0", "osgap": "1"}
        provenance = {"stage": "fit", "code": code, "versions": made}
        write_json(tmp_path / "avatars" / f"{number:02}" / "fit.json", {}, provenance)
    assert str(survey(tmp_path)) == "3 outputs were made by other versions: torch 2.11.0 -> 2.12.0"
    prior = {"stage": "train", "code": code, "versions": now, "upgraded": {"torch": ["2.10.0"]}}
    write_json(tmp_path / "experiments" / "a" / "prior" / "train.json", {}, prior)
    assert str(survey(tmp_path)) == "4 outputs were made by other versions: torch 2.10.0 and 2.11.0 -> 2.12.0"
    few = survey(tmp_path, most=4)
    assert (few.there, few.seen) == (13, 5)
    assert str(few).startswith("2 outputs of 5 that were looked at, of 13 in all, were made by other versions: torch")


@pytest.mark.parametrize("said", ["Missing output files: a.json; Updated input files: b.h5", "Forced execution"])
def test_other_reasons_are_passed_on(said: str) -> None:
    assert [each.lower() for each in why._explain(said, [])] == said.lower().split("; ")

"""Synthetic people are data: ordinary keys of the config name what their rules make, and files connect the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from osgap.runtime.errors import UserError
from osgap.workflow.checks import check
from osgap.workflow.config import load_config
from osgap.workflow.pipeline import Pipeline

from .conftest import ARGUMENTS, make_checkout

ROOT = Path(__file__).parents[2]
DEMO = [ROOT / "config.yaml", ROOT / "profiles/demo/demo.yaml"]
PROFILES = ["demo/reduced.yaml", "study/study.yaml", "study/cpu.yaml"]


@pytest.mark.parametrize("profile", PROFILES)
def test_shipped_configs_pass_before_anything_is_there(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check(Pipeline(load_config([*DEMO, ROOT / "profiles" / profile])))
    check(Pipeline(load_config([*DEMO, ROOT / "profiles" / profile, {"results": str(tmp_path / "with space")}])))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"flame": {"assets": None}}, ["flame.assets", "found nothing", "results/demo/synthetic/head/flame2023.pkl"]),
        ({"flame": {"assets": {"model": "flame2023.pkl"}}}, ["flame.assets", "found flame2023.pkl"]),
        ({"capture": {"url": None}}, ["capture.url", "found nothing", "results/demo/synthetic/nersemble"]),
        ({"capture": {"url": "https://host.example/s3cret"}}, ["capture.url", "another place"]),
        ({"capture": {"tracking": "exports/{subject}"}}, ["capture.tracking", "101", "exports/101", "UNION3_101"]),
        ({"capture": {"tracking": None}}, ["capture.tracking", "found nothing", "UNION3_101"]),
        ({"capture": {"sequences": ["EXP-2-eyes"]}}, ["UNION3_101", "UNION1_101", "write that"]),
        ({"subjects": {"entries": {"201": {"sequences": ["EXP-2-eyes"]}}}}, ["201", "UNION3_201", "UNION1_201"]),
    ],
)
def test_a_config_must_name_what_will_be_made(change: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check(Pipeline(load_config([*DEMO, change])))
    for words in said:
        assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_wildcards_may_stand_for_what_will_be_made() -> None:
    change = {"capture": {"tracking": "{results}/synthetic/tracking/{subject}/UNION*", "sequences": ["EXP-2-eyes"]}}
    check(Pipeline(load_config([*DEMO, change])))


def test_only_a_run_with_synthetic_people_makes_anything(tmp_path: Path) -> None:
    demo = Pipeline(load_config([*DEMO, {"results": str(tmp_path)}]))
    others = Pipeline(load_config([*DEMO, {"results": str(tmp_path), "synthetic": None}]))
    tracking = Path(demo.tracking_pattern("101"))
    for path in (*demo.head_files, tracking, demo.layout.synthetic_nersemble):
        assert demo.makes(path)
        assert not others.makes(path)
    for path in (tmp_path, tmp_path / "captures" / "101.h5", tmp_path / "synthetic" / ".." / "head", ROOT):
        assert not demo.makes(path)
    person = demo.layout.synthetic_person("101")
    assert demo.tracking_files("101") == demo.download_sources("101") == [person]
    assert others.download_sources("101") == []
    with pytest.raises(UserError, match="no such file"):
        check(others)


@pytest.mark.slow
def test_people_made_elsewhere_by_a_config_that_only_changes_the_results(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    tiny = {"width": 32, "height": 32, "timesteps_per_sequence": 1, "samples_per_axis": 1}
    people = {"train": ["101"], "test": ["201"]}
    (checkout.root / "tiny.yaml").write_text(yaml.safe_dump({"synthetic": tiny, "subjects": people}))
    for results, subjects in {"first": ["101", "201"], "second folder": ["201"]}.items():
        (checkout.root / "results.yaml").write_text(yaml.safe_dump({"results": results}))
        stores = [f"{results}/captures/{subject}.h5" for subject in subjects]
        done = checkout.run("snakemake", *ARGUMENTS, "tiny.yaml", "results.yaml", "--", *stores)
        assert "synthetic_person" in done.stdout
    first, second = ((checkout.root / r / "captures/201.h5").read_bytes() for r in ("first", "second folder"))
    assert first == second
    assert not (checkout.root / "results" / "reduced").exists()

    # They are data like anybody's: without the section, and from where they are, nothing is made again.
    change: dict[str, Any] = {"results": "third", "synthetic": None}
    for section, keys in {"flame": None, "capture": ("url", "tracking")}.items():
        demo = yaml.safe_load((ROOT / "profiles/demo/demo.yaml").read_text())[section]
        text = yaml.safe_dump({k: v for k, v in demo.items() if keys is None or k in keys})
        change[section] = yaml.safe_load(text.replace("{results}", "first"))
    (checkout.root / "results.yaml").write_text(yaml.safe_dump(change))
    done = checkout.run("snakemake", *ARGUMENTS, "tiny.yaml", "results.yaml", "--", "third/captures/201.h5")
    assert "synthetic" not in done.stdout.split("Job stats:")[1].split("total")[0]
    assert (checkout.root / "third/captures/201.h5").read_bytes() == first

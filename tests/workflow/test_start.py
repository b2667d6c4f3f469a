"""Between a planned run and its first job: one `snakemake` per results folder, and what it was told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import SoftFileLock

from osgap.runtime.errors import UserError
from osgap.runtime.upgrades import current_versions
from osgap.workflow import start
from osgap.workflow.config import load_config
from osgap.workflow.layout import Layout
from osgap.workflow.pipeline import Pipeline

HOLD = """
import sys
from pathlib import Path
from osgap.workflow.layout import Layout
from osgap.workflow.start import take
take(Layout(Path(sys.argv[1])))
print("held", flush=True)
sys.stdin.read()
"""


def test_one_snakemake_at_a_time_and_no_lock_is_left_by_a_killed_one(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "results")
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(layout.results)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    layout.record.write_text(json.dumps({"process": {"pid": 17, "host": "login1"}}))
    with pytest.raises(UserError, match=r"another snakemake is at work here \(process 17 on login1\)"):
        start.take(layout)
    other.kill()
    other.communicate()
    start.take(layout)


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "FileLock", SoftFileLock)
    with pytest.raises(UserError, match="knows no locks"):
        start.take(Layout(tmp_path))
    assert not (tmp_path / "run.lock").exists()


def test_the_record_makes_the_same_config_and_has_no_secret(tmp_path: Path) -> None:
    content = {
        "results": str(tmp_path),
        "capture": {"url": "https://data.invalid/secret"},
        "experiments": {"zebra": {}, "ant": {"prior": {"steps": 3}}},
    }
    config = load_config([content])
    start.record(Pipeline(config))
    text = (tmp_path / "run.json").read_text()
    assert "secret" not in text
    again = load_config([json.loads(text)["config"]])
    assert again.model_dump() == config.model_dump()
    assert list(again.experiments) == ["zebra", "ant"], "the first of two that share owns what they share"


def test_upgrades_since_the_last_run_are_named(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    assert start.upgrades_since(file) == ""
    file.write_text(json.dumps({"versions": {**current_versions(), "torch": "2.0.0"}}))
    assert start.upgrades_since(file) == f"torch 2.0.0 -> {current_versions()['torch']}"
    file.write_text("{")
    assert start.upgrades_since(file) == ""

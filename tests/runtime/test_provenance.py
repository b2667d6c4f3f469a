"""A stage depends on the modules that it imports, and on no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from osgap.runtime import provenance
from osgap.runtime.provenance import Provenance, code_digest, code_digests
from osgap.workflow.stages import STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_depends_on_the_command_line_or_the_whole_config(stage: str) -> None:
    modules = set(code_digests(STAGES[stage].module))
    assert STAGES[stage].module in modules
    assert not modules & {
        "osgap.cli",
        "osgap.workflow.config",
        "osgap.workflow.pipeline",
        "osgap.workflow.layout",
        "osgap.workflow.why",
    }


def test_evaluation_is_above_and_head_is_below_everything() -> None:
    for stage, spec in STAGES.items():
        packages = {name.split(".")[1] for name in code_digests(spec.module)}
        if stage not in ("evaluate", "tables", "figure", "video"):
            assert "evaluation" not in packages, stage
        if stage in ("import", "fit", "bake", "train", "oneshot", "evaluate"):
            assert "head" in packages, stage
        if stage not in ("synthetic-head", "synthetic-person"):
            assert "synthetic" not in packages, stage


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small package in place of osgap's sources: stage -> used -> lazy; other stands alone."""
    root = tmp_path / "osgap"
    (root / "sub").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "sub" / "__init__.py").write_text("")
    (root / "stage.py").write_text("import numpy\nfrom osgap.sub import used\n")
    (root / "sub" / "used.py").write_text("def f():\n    from . import lazy\n    return lazy\n")
    (root / "sub" / "lazy.py").write_text("X = 1\n")
    (root / "other.py").write_text("X = 1\n")
    monkeypatch.setattr(provenance, "_ROOT", root)
    for cached in (provenance._imports, provenance._closure):
        cached.cache_clear()
    yield root
    for cached in (provenance._imports, provenance._closure):
        cached.cache_clear()


def test_closure_follows_lazy_and_relative_imports(package: Path) -> None:
    assert set(code_digests("osgap.stage")) == {"osgap.stage", "osgap.sub", "osgap.sub.used", "osgap.sub.lazy"}


@pytest.mark.parametrize(("edited", "changes"), [("sub/lazy.py", True), ("other.py", False), ("sub/__init__.py", True)])
def test_digest_changes_with_imported_sources_only(package: Path, edited: str, changes: bool) -> None:
    before = code_digest("osgap.stage")
    (package / edited).write_text("# edited\n")
    assert (code_digest("osgap.stage") != before) == changes


def test_key_depends_on_content_not_on_place(tmp_path: Path) -> None:
    keys = []
    for place in ("one", "two"):
        folder = tmp_path / place / "captures"
        folder.mkdir(parents=True)
        (folder / "a.h5").write_bytes(b"frames")
        keys.append(
            Provenance.collect(
                "fit", "osgap.runtime.provenance", subject="a", config={"x": 1}, inputs=[folder / "a.h5"], seed=0
            ).key
        )
    assert keys[0] == keys[1]
    (tmp_path / "two" / "captures" / "a.h5").write_bytes(b"others")
    changed = Provenance.collect(
        "fit", "osgap.runtime.provenance", subject="a", config={"x": 1}, inputs=[tmp_path / "two/captures/a.h5"], seed=0
    )
    assert changed.key != keys[0]
    assert str(tmp_path) not in str(changed.as_dict())


def test_inputs_of_the_same_name_keep_their_digests(tmp_path: Path) -> None:
    paths = [tmp_path / kind / "101" / "point_cloud.ply" for kind in ("avatars", "oneshot")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text(path.parts[-3])
    inputs = Provenance.collect(
        "figure", "osgap.runtime.provenance", subject="101", config={}, inputs=paths, seed=0
    ).inputs
    assert set(inputs) == {"avatars/101/point_cloud.ply", "oneshot/101/point_cloud.ply"}

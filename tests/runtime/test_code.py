"""A stage depends on the modules that it imports, and on no others; and on what they do, not on how it is written."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from osgap.runtime import code
from osgap.runtime.code import code_digest, code_digests
from osgap.runtime.errors import UserError
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
        if stage not in ("evaluate", "tables", "ablation", "figure", "video"):
            assert "evaluation" not in packages, stage
        if stage in ("import", "fit", "bake", "train", "oneshot", "evaluate"):
            assert "head" in packages, stage
        if stage not in ("synthetic-head", "synthetic-person"):
            assert "synthetic" not in packages, stage


def forget() -> None:
    """What was read in this process."""
    for cached in (code._read, code._closure):
        cached.cache_clear()


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
    monkeypatch.setattr(code, "_ROOT", root)
    forget()
    yield root
    forget()


def test_closure_follows_lazy_and_relative_imports(package: Path) -> None:
    assert set(code_digests("osgap.stage")) == {"osgap.stage", "osgap.sub", "osgap.sub.used", "osgap.sub.lazy"}


@pytest.mark.parametrize(
    ("edited", "text", "changes"),
    [
        ("sub/lazy.py", "X = 2\n", True),
        ("sub/lazy.py", '"""X."""\n\nX = 1  # edited\n"""What it is."""\n', False),
        ("other.py", "X = 2\n", False),
        ("sub/__init__.py", "X = 2\n", True),
        ("sub/__init__.py", '"""All of it."""\n', False),
        ("stage.py", "import numpy\nfrom osgap.sub import used\nfrom osgap import other\n", True),
    ],
)
def test_digest_changes_with_what_imported_sources_do(package: Path, edited: str, text: str, changes: bool) -> None:
    before = code_digest("osgap.stage")
    (package / edited).write_text(text)
    forget()
    assert (code_digest("osgap.stage") != before) == changes


def test_each_module_is_read_once(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    parse = ast.parse

    def counted(source: bytes) -> ast.Module:
        parsed.append(source)
        return parse(source)

    monkeypatch.setattr(ast, "parse", counted)
    for _ in range(2):
        code_digest("osgap.stage")
        code_digest("osgap.sub.used")
    assert len(parsed) == 5, "osgap, stage, sub, used, lazy"


def test_a_module_that_is_not_python_is_named(package: Path) -> None:
    (package / "sub" / "lazy.py").write_text("X = 1\nY = (\n")
    with pytest.raises(UserError, match=r"lazy\.py, line 2"):
        code_digest("osgap.stage")


def test_imports_are_those_that_grimp_finds() -> None:
    """But for packages above a module, which Python runs as well, and what they import."""
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("osgap", cache_dir=None)

    def closure(module: str) -> set[str]:
        found: set[str] = set()
        pending = [module]
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                above = [".".join(name.split(".")[:i]) for i in range(1, name.count(".") + 1)]
                pending += [*above, *graph.find_modules_directly_imported_by(name)]
        return found

    for stage, spec in STAGES.items():
        assert set(code_digests(spec.module)) == closure(spec.module) - code._WITHOUT_EFFECT, stage

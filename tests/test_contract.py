"""What the project promises about its own code, and that the machines which hold it see a breach."""

from __future__ import annotations

import ast
import graphlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "osgap"
LONGEST_FILE, LONGEST_FUNCTION = 400, 60  # lines


# who may import whom ---------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contracts, to be spoilt."""
    shutil.copytree(PACKAGE, tmp_path / "osgap", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder: Path) -> tuple[int, str]:
    """Status and words of what `make lint` runs."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-cache", "--no-logo"], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())  # its lines are as wide as the terminal


def test_the_layers_hold(copy: Path) -> None:
    status, said = lint_imports(copy)
    assert status == 0, said
    assert " 0 broken" in said


LATE = "def _later():\n    {}\n"
FOR_TYPES = "import typing\n\nif typing.TYPE_CHECKING:\n    {}\n"


@pytest.mark.parametrize(
    ("importer", "form", "line", "said"),
    [
        ("osgap.runtime.errors", LATE, "import osgap.cli", "osgap.runtime is not allowed to import osgap.cli"),
        (
            "osgap.evaluation.splits",
            FOR_TYPES,
            "import osgap.rendering.stage",
            "osgap.evaluation is not allowed to import osgap.rendering",
        ),
        (
            "osgap.prior.network.decoder",
            "{}\n",
            "import osgap.prior.training.data",
            "osgap.prior.network is not allowed to import osgap.prior.training",
        ),
        (
            "osgap.capture.store",
            LATE,
            "from osgap.capture.tracking import stage",
            "osgap.capture.store is not allowed to import osgap.capture.tracking",
        ),
        ("osgap.head.params", FOR_TYPES, "import osgap.head.model", "No cycles are allowed in osgap.head."),
    ],
)
def test_an_import_against_the_layers_is_refused(copy: Path, importer: str, form: str, line: str, said: str) -> None:
    """Wherever it stands: in a function, for types alone, at the end of a file."""
    path = copy / f"{importer.replace('.', '/')}.py"
    path.write_text(f"{path.read_text()}\n\n{form.format(line)}")
    status, found = lint_imports(copy)
    assert status == 1
    assert said in found
    assert f"{importer} -> " in found or f".{importer.rpartition('.')[2]} -> " in found


def test_a_new_package_must_find_its_place(copy: Path) -> None:
    (copy / "osgap" / "cellar").mkdir()
    (copy / "osgap" / "cellar" / "__init__.py").touch()
    status, said = lint_imports(copy)
    assert status == 1
    assert "cellar" in said


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports in functions and for types count, and so do those of a package by what lies in it."""
    graph = grimp.build_graph("osgap", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 150
    graphlib.TopologicalSorter(imports).prepare()  # a CycleError names the circle


# what the other tools see ----------------------------------------------------------------------------------------


def test_lint_runs_all_of_them() -> None:
    done = subprocess.run(["make", "-n", "lint"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    commands = done.stdout.splitlines()
    for tool in (
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "lint-imports --no-cache --no-logo",
        "osgap config --check",
    ):
        assert tool in commands


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("x = 1\n", "D100"),
        ('"""A module."""\n\n\nclass Thing:\n    x = 1\n', "D101"),
        ('"""A module."""\n\n\nclass Thing:\n    """A thing."""\n\n    def act(self) -> None:\n        pass\n', "D102"),
        ('"""A module."""\n\n\ndef act() -> None:\n    pass\n', "D103"),
    ],
)
def test_docstrings_are_missed_in_the_package_alone(text: str, rule: str) -> None:
    ruff = str(Path(sys.executable).with_name("ruff"))
    command = [ruff, "check", "--output-format", "concise", "-", "--stdin-filename"]
    for file, found in (("osgap/thing.py", True), ("tests/test_thing.py", False)):
        done = subprocess.run([*command, file], cwd=REPOSITORY, input=text, capture_output=True, text=True, check=False)
        assert (rule in done.stdout) == found, done.stdout + done.stderr


def test_untyped_functions_are_refused_in_the_package_alone(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    parts = ["osgap/osgap_part.py", "tests/tests_part.py", "benchmarks/benchmarks_part.py"]
    for part in (*parts, "examples/01_half.py", "docs/pages.py"):
        (tmp_path / part).parent.mkdir()
        (tmp_path / part).write_text("def half(x: int, y):\n    return x / y\n")
    command = [sys.executable, "-m", "mypy", "--no-incremental"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert errors, done.stderr
    assert all(line.startswith("osgap/osgap_part.py:1: ") for line in errors), errors


# sizes and types -------------------------------------------------------------------------------------------------


def files() -> list[Path]:
    """Every file of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """Functions and whether Triton or numba compiles them; what lies in a compiled one is part of it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
            compiled = "jit" in decorators
            yield node, compiled
            if compiled:
                continue
        yield from functions(node)


def test_files_and_functions_can_be_read_at_a_sitting() -> None:
    """Kernels may be longer, in files of kernels; such a file says why it is one."""
    long = []
    for path in files():
        text = path.read_text()
        tree = ast.parse(text)
        kernels = path.name.endswith("_triton.py") or path.name.startswith("cpu_kernels")
        lines = len(text.splitlines())
        if lines > LONGEST_FILE and not (kernels and "for that reason" in (ast.get_docstring(tree) or "")):
            long.append(f"{path.relative_to(REPOSITORY)}: {lines} lines")
        for function, compiled in functions(tree):
            lines = (function.end_lineno or 0) - function.lineno + 1
            if lines > LONGEST_FUNCTION and not (kernels and compiled):
                long.append(f"{path.relative_to(REPOSITORY)}, {function.name}: {lines} lines")
    assert long == []


def test_only_kernels_are_untyped() -> None:
    """mypy is told to pass over the modules that hold them, so that this looks at the rest of these modules."""
    overrides = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
    (exempt,) = [each["module"] for each in overrides if each.get("disallow_untyped_defs") is False]
    for module in exempt:
        path = REPOSITORY / f"{module.replace('.', '/')}.py"
        found = list(functions(ast.parse(path.read_text())))
        assert any(compiled for _, compiled in found), f"{module} has no kernels: mypy need not pass over it"
        for function, compiled in found:
            arguments = function.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
            untyped = [each.arg for each in every if each and not each.annotation and each.arg not in ("self", "cls")]
            assert compiled or (function.returns and not untyped), f"{module}.{function.name}: {untyped}"

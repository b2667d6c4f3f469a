"""What stands in several files of the project and must agree."""

from __future__ import annotations

import datetime
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import osgap

ROOT = Path(__file__).parents[1]


def load_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    return load_yaml("CITATION.cff")


def test_the_version_has_a_dated_section_in_the_changelog(citation: dict[str, Any]) -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    sections = dict(re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})$", changelog, re.MULTILINE))
    assert osgap.__version__ in sections
    assert datetime.date.fromisoformat(sections[osgap.__version__]) == citation["date-released"]


def test_the_citation_is_of_this_version_and_licence(citation: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["title"] == project["name"]
    assert citation["version"] == osgap.__version__
    assert citation["license"] == project["license"]


def test_the_citation_has_what_its_format_requires(citation: dict[str, Any]) -> None:
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper)
    for author in [*citation["authors"], *paper["authors"]]:
        assert set(author) == {"name"}  # an entity
    assert paper["title"] in " ".join((ROOT / "README.md").read_text().replace("*", "").split())


def test_hosted_ci_runs_what_ci_runs_elsewhere_on_the_supported_pythons() -> None:
    (job,) = load_yaml(".github/workflows/ci.yml")["jobs"].values()
    versions = job["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={versions[0]}"
    (step,) = (step for step in job["steps"] if "run" in step)
    assert step["run"] == ".ci/run"
    # `make` takes PYTHON from the environment.
    printed = subprocess.run(
        ["make", "--no-print-directory", "--eval", "shown: ; @echo $(PYTHON)", "shown"],
        cwd=ROOT, env={"PATH": "/usr/bin:/bin", "PYTHON": "python3.13"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert printed.stdout.strip() == "python3.13"
    assert step["env"] == {"PYTHON": "python${{ matrix.python }}"}


def test_commit_hooks_are_the_environments_own_programs() -> None:
    hooks = [hook for repo in load_yaml(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert all(repo["repo"] == "local" for repo in load_yaml(".pre-commit-config.yaml")["repos"])
    linted = (ROOT / "Makefile").read_text()
    for hook in hooks:
        program, *arguments = hook["entry"].split()
        assert program.startswith(".venv/bin/")
        checked = " ".join([Path(program).name, *arguments]).replace(" --force-exclude", "")
        assert checked in linted or hook["id"] == "project-files"


def test_every_page_of_the_guide_is_in_the_sites_navigation() -> None:
    named = {page for entry in load_yaml("mkdocs.yml")["nav"] for page in entry.values()}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= named

"""Pages of the site that are made when it is built: those that lie at the top of the checkout, and the API's, one per
package. mkdocs calls the functions by their names (`hooks` in mkdocs.yml)."""

from __future__ import annotations

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
COPIED = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Page -> file at the top of the checkout."""


def packages() -> dict[str, str]:
    """Name of each package of osgap -> first paragraph of its docstring."""
    found = {}
    for file in sorted((ROOT / "osgap").glob("*/__init__.py")):
        docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
        found[file.parent.name] = " ".join(docstring.split("\n\n")[0].split())
    return found


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the API's pages into the navigation."""
    pages = ["api/index.md", *({f"osgap.{name}": f"api/{name}.md"} for name in packages())]
    config.nav = [{"API": pages} if "API" in entry else entry for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/."""
    for page, name in COPIED.items():
        # Links from the top of the checkout into docs/ are links between neighbours here.
        text = (ROOT / name).read_text().replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    rows = [f"| [`osgap.{name}`]({name}.md) | {about} |" for name, about in packages().items()]
    table = "\n".join(["# API", "", "| Package | |", "|---|---|", *rows, ""])
    files.append(File.generated(config, "api/index.md", content=table))
    for name in packages():
        files.append(File.generated(config, f"api/{name}.md", content=f"::: osgap.{name}\n"))
    return files

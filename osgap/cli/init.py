"""`osgap init`: a folder to work in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from osgap.cli.common import app


@app.command(name="init")
def init(folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]) -> None:
    """Write Snakefile, rules, profiles and a commented config into a new folder, ready to run.

    Args:
        folder: New, or empty.
    """
    from osgap.workflow.init import write_study

    write_study(folder)
    print(f"{folder}: written, see its README.md. To try it: cd {folder}; snakemake --profile profiles/demo")

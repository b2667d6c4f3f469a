"""`osgap config`: the merged config, and what is made from its model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from osgap.cli.common import Common, Options, app
from osgap.runtime.errors import UserError


@app.command(name="config")
def config(
    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILES")] = (),
    schema: bool = False,
    reference: bool = False,
    check: bool = False,
    common: Options = Common(),
) -> None:
    """Print the config that --config and --set make, validated, with all defaults and without secrets.

    Args:
        files: For --check: YAML and Markdown files whose keys alone are looked at.
        schema: Print the JSON schema instead (docs/config.schema.json), by which editors complete keys.
        reference: Print the page of all keys instead (docs/config.md).
        check: Say instead where config.yaml, those two files, README.md, docs/ and profiles/ disagree with the program.
            Exit code 1: they do.
    """
    common.limit_threads()
    if schema + reference + check > 1:
        raise UserError("--schema, --reference and --check are different things; choose one")
    if files and not check:
        raise UserError(f"{files[0]}: only --check looks at files; to read a config, use --config {files[0]}")
    from osgap.workflow import config as model
    from osgap.workflow import reference as made

    if schema:
        print(made.schema_text(), end="")
    elif reference:
        print(made.page(), end="")
    elif check:
        _check(files)
    else:
        print(made.config_text(model.load_config(common.sources, common.set)), end="")


def _check(files: tuple[Path, ...]) -> None:
    from osgap.workflow.config_check import check

    findings = check(Path(), files)
    for line in findings:
        print(line, file=sys.stderr)
    if findings:
        sys.exit(1)
    print("The config's keys are what the program knows.")

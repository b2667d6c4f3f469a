"""With `--sdm conda`, jobs run the checkout's package in the environment's interpreter, not the launcher's."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from .conftest import ARGUMENTS, make_checkout

pytestmark = pytest.mark.slow

CONDA = """#!/bin/bash
# What snakemake asks of conda. The environment is a venv that sees this interpreter's packages, so that nothing is
# downloaded, and notes what it is asked to run.
case "$*" in
  "info --json") echo '{{"conda_prefix": "{folder}", "platform": "linux-64"}}' ;;
  "--version") echo "conda 25.1.0" ;;
  "config --get channel_priority --json") echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
  "env create"*)
    while [ "$1" != --prefix ]; do shift; done
    {python} -m venv "$2"
    pth=$(echo "$2"/lib/python*/site-packages)/launcher.pth
    echo "{packages}" > "$pth"
    echo "import sys; open('{folder}/ran', 'a').write(' '.join(sys.orig_argv) + chr(10))" >> "$pth"
    ;;
  clean*) ;;
  *) echo "unexpected: conda $*" >&2; exit 1 ;;
esac
"""
ACTIVATE = 'export PATH="$1/bin:$PATH"\n'


def test_jobs_run_in_the_environment(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    programs = tmp_path / "conda" / "bin"
    programs.mkdir(parents=True)
    packages = sysconfig.get_path("purelib")
    text = CONDA.format(folder=programs.parent, python=sys.executable, packages=packages)
    (programs / "conda").write_text(text)
    (programs / "conda").chmod(0o755)
    (programs / "activate").write_text(ACTIVATE)
    environment = {**checkout.environment, "PATH": f"{programs}:{checkout.environment['PATH']}"}
    head = "results/reduced/synthetic/head/flame2023.pkl"
    command = checkout.command("snakemake", *ARGUMENTS, "--sdm", "conda", "--", head)
    launched = "import os, sys; sys.path.insert(0, os.environ.pop('PYTHONPATH')); "  # for the launcher, not for jobs
    launched += "from snakemake.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", launched, *command[3:]],
        cwd=checkout.root,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    assert (checkout.root / head).is_file()
    ran = (programs.parent / "ran").read_text().splitlines()
    (interpreter,) = {Path(line.split()[0]) for line in ran if "osgap synthetic-head" in line}
    assert checkout.root / ".snakemake" / "conda" in interpreter.parents
    where = subprocess.run(
        [interpreter, "-I", "-c", "import osgap; print(osgap.__file__)"], capture_output=True, text=True, check=True
    )
    assert Path(where.stdout.strip()) == checkout.root / "osgap" / "__init__.py"


def test_without_a_checkout_the_environment_says_what_is_missing(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "envs" / "osgap.post-deploy.sh"
    done = subprocess.run(["bash", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"{tmp_path} is no checkout of osgap" in done.stderr

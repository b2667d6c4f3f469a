#!/usr/bin/env bash
# Snakemake runs this inside the environment that it made of osgap.yaml, in the working directory. What a job calls must
# be the environment's own `osgap`: without one, the shell would find the launcher's.
set -euo pipefail
if [ ! -f pyproject.toml ] || [ ! -f envs/requirements.txt ]; then
  echo "$PWD is no checkout of osgap; with --sdm conda, run snakemake at the top of one" >&2
  exit 1
fi
# --no-deps, because the list is complete, and some packages would ask for others (overrides.txt).
python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r envs/requirements.txt
python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .

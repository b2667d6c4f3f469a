# make demo   synthetic people to metric tables, in results/demo (about twelve minutes on two cores)
# make test   the tests, and what they cover
# make test-slurm   all tests on a Slurm that they start on this machine (a quarter of an hour)
# make lint   style, types, workflow
# make docs   the site, in site/
# make env    the environment in .venv, which the others make by themselves
# make lock   envs/requirements.txt anew, after a change of pyproject.toml
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: demo demo-reduced test test-slurm lint docs env lock format clean

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
READY := $(VENV)/.ready

demo: $(READY)
	snakemake --profile profiles/demo
	@$(call report,results/demo,)
	@echo "Open results/demo/report.html and results/demo/figures/overview.png"

# The same people, fewer and coarser: every rule, not the quality. In CI.
demo-reduced: $(READY)
	snakemake --profile profiles/demo --configfile profiles/demo/demo.yaml profiles/demo/reduced.yaml
	@$(call report,results/reduced,--configfile profiles/demo/demo.yaml profiles/demo/reduced.yaml)

# $(call report,FOLDER,ARGUMENTS): Snakemake's report of a finished run, unless there is one that is newer than the run.
define report
if [ ! -e $(1)/report.html ] || [ -n "$$(find $(1)/metrics $(1)/tables $(1)/figures $(1)/videos -newer $(1)/report.html)" ]; \
then snakemake --profile profiles/demo $(2) --quiet all --report $(1)/report.html; fi
endef

test: $(READY)
	pytest -n 2 -m "not slurm_full and not browser and not gpu" --dist loadfile --cov --cov-report=
	@echo "Covered by these tests, in percent of lines; the files with the least, and all:"
	@coverage report --sort=cover | sed -n '3,17p; /^TOTAL/p'

test-slurm: $(READY)
	pytest -m slurm

lint: $(READY)
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache --no-logo
	snakefmt --check Snakefile rules
	snakemake --profile profiles/demo --lint
	osgap config --check

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "Open site/index.html"

format: $(READY)
	ruff check --fix .
	ruff format .
	snakefmt Snakefile rules

env: $(READY)

# `uv pip sync` makes the environment exactly what the file lists, so the project itself goes in afterwards. Compiled
# now, modules need not be compiled in every start where Python may not keep that (PYTHONDONTWRITEBYTECODE, as in many
# containers): two seconds of each of the demo's seventy jobs.
$(READY): envs/requirements.txt envs/uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version); osgap needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "could not make $(VENV): install the venv module (Debian: python3-venv)"; exit 1; }
	@test -x $(VENV)/bin/uv || $(VENV)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r envs/uv.txt
	uv pip sync -q --compile-bytecode --require-hashes --python $(VENV)/bin/python envs/requirements.txt
	uv pip install -q --no-deps --no-build-isolation --python $(VENV)/bin/python -e .
	@touch $@

lock: $(READY)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --all-extras --override envs/overrides.txt pyproject.toml -o envs/requirements.txt
	awk '/^uv==/ {p = 1} p {print} p && !/\\$$/ {exit}' envs/requirements.txt > envs/uv.txt

clean:
	rm -rf results/demo results/reduced .snakemake

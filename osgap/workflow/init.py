"""A folder to work in: Snakefile, rules, profiles and the commented config, for the `osgap` that is installed.

The wheel carries these files in `osgap/_template` (see `pyproject.toml`); a checkout has them at its top.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import osgap
from osgap.runtime.artifacts import atomic_folder
from osgap.runtime.errors import UserError

TEMPLATE = (
    "Snakefile",
    "config.yaml",
    "docs/config.md",
    "docs/config.schema.json",
    "envs/osgap.post-deploy.sh",
    "envs/osgap.yaml",
    "profiles",
    "rules",
)
"""Files and folders of the template; as `pyproject.toml` lists them."""

_README = """\
# A study with osgap

Written by `osgap init`, osgap {version}.

    snakemake --profile profiles/demo     # synthetic people, no data needed: about twelve minutes on two cores
    osgap doctor                          # what config.yaml still lacks for a run on your own data, and how to get it
    snakemake --profile profiles/local    # that run on this machine
    snakemake --profile slurm             # on a cluster; its names are in profiles/slurm/site.yaml

- `config.yaml`: every key of a run, explained in `docs/config.md`. What differs from run to run goes into a file of
  your own: `snakemake --profile profiles/local --configfile mine.yaml`. `profiles/demo/demo.yaml` is an example.
- `Snakefile`, `rules/`: the workflow. Each rule calls one command of the installed package (`osgap --help`).
- `profiles/`: how Snakemake runs it. `slurm` is a link to `profiles/slurm`.
- `results/`: all that a run writes.

Rules and package belong together: after an upgrade of osgap take `Snakefile` and `rules/` of a fresh `osgap init`.
"""

_GITIGNORE = "/results/\n/.snakemake/\n"


def template() -> Path:
    """The folder that the template's files are in: inside the installed package, or the checkout that it runs from.

    Raises:
        UserError: when they are in neither.
    """
    package = Path(osgap.__file__).parent
    for folder in (package / "_template", package.parent):
        if all((folder / name).exists() for name in TEMPLATE):
            return folder
    raise UserError(
        f"{package}: comes without the workflow's files ({', '.join(TEMPLATE)}); install osgap from its wheel or with "
        f"`pip install -e` from a whole checkout"
    )


def write_study(folder: Path) -> None:
    """Write the template into a new or an empty folder: everything, or nothing.

    Raises:
        UserError: when there is something at `folder` already.
    """
    place = folder.resolve()
    if place == Path.cwd():  # renaming would take it away under the shell that stands in it
        raise UserError(f"{folder}: is the folder that you are in; give the name of a new one")
    source = template()
    _check_free(folder)
    with atomic_folder(folder) as temporary:
        for name in TEMPLATE:
            _copy(source / name, temporary / name)
        (temporary / "slurm").symlink_to(Path("profiles") / "slurm")  # so that `snakemake --profile slurm` works
        (temporary / "README.md").write_text(_README.format(version=osgap.__version__))
        (temporary / ".gitignore").write_text(_GITIGNORE)
        _check_free(folder)


def _check_free(folder: Path) -> None:
    if folder.is_dir():
        names = sorted(path.name for path in folder.iterdir())
        if names:
            shown = f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
            raise UserError(f"{folder}: is not empty (it has {shown}); give the name of a new folder")
    elif folder.exists() or folder.is_symlink():
        raise UserError(f"{folder}: is there already, and no folder; give another name")


def _copy(source: Path, target: Path) -> None:
    """Contents only: an installed package may be read-only, and the copy is there to be edited."""
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    for file in files:
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)

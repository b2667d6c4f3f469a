"""`osgap init`: from a checkout, and from the built wheel in an environment that has no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import osgap
from osgap.runtime.errors import UserError
from osgap.workflow import init

ROOT = Path(__file__).parents[2]


def files(folder: Path) -> dict[str, bytes]:
    """Relative path -> content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_study_has_the_workflow_of_the_checkout(tmp_path: Path) -> None:
    study = tmp_path / "new" / "my-study"
    init.write_study(study)
    written = files(study)
    for name in init.TEMPLATE:
        source = ROOT / name
        copied = files(source) if source.is_dir() else {"": source.read_bytes()}
        assert copied == {path[len(name) :].lstrip("/"): written[path] for path in written if path.startswith(name)}
    assert (study / "slurm").readlink() == Path("profiles/slurm")
    assert (study / "slurm" / "config.yaml").is_file()
    assert osgap.__version__ in (study / "README.md").read_text()


def test_the_wheel_has_what_init_writes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {name: f"osgap/_template/{name}" for name in init.TEMPLATE}


def test_what_the_readme_of_a_study_names_is_there(tmp_path: Path) -> None:
    study = tmp_path / "study"
    init.write_study(study)
    words = (study / "README.md").read_text().replace("`", " ").split()
    profiles = [word for word, before in zip(words[1:], words, strict=False) if before == "--profile"]
    assert {"profiles/demo", "profiles/local", "slurm"} <= set(profiles)
    assert all((study / profile / "config.yaml").is_file() for profile in profiles)
    assert (study / "profiles" / "demo" / "demo.yaml").is_file()


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    init.write_study(tmp_path / "study")
    assert (tmp_path / "study" / "Snakefile").is_file()


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not empty \(it has notes.txt\)"):
        init.write_study(study)
    with pytest.raises(UserError, match="no folder"):
        init.write_study(study / "notes.txt")
    assert files(tmp_path) == {"study/notes.txt": b"mine"}


def test_the_folder_that_one_is_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="that you are in"):
        init.write_study(Path())


def test_a_failed_init_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copyfile = shutil.copyfile
    copied: list[Path] = []

    def full_after_three(source: Path, target: Path) -> None:
        if len(copied) == 3:
            raise OSError(28, "No space left on device")
        copied.append(target)
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", full_after_three)
    with pytest.raises(OSError, match="No space left"):
        init.write_study(tmp_path / "study")
    assert not list(tmp_path.iterdir())


def test_files_that_appear_meanwhile_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, copyfile = tmp_path / "study", shutil.copyfile

    def slow(source: Path, target: Path) -> None:
        study.mkdir(exist_ok=True)
        (study / "theirs.txt").write_text("theirs")
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", slow)
    with pytest.raises(UserError, match=r"theirs.txt"):
        init.write_study(study)
    assert files(tmp_path) == {"study/theirs.txt": b"theirs"}


class Installed:
    """An environment with the built wheel and with the packages that it needs, but without this checkout."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "environment"
        self.folder = folder
        self._run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist"), cwd=ROOT)
        self._run(sys.executable, "-m", "venv", "--without-pip", str(self.home))
        packages = sysconfig.get_path("purelib", vars={"base": str(self.home), "platbase": str(self.home)})
        # Folders that a .pth file names are searched, but .pth files in them are not read: no editable osgap.
        (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (wheel,) = (folder / "dist").glob("osgap-*.whl")
        uv = Path(sysconfig.get_path("scripts")) / "uv"
        install = ("pip", "install", "--offline", "--no-deps", "--no-config", "--cache-dir", str(folder / "cache"))
        self._run(str(uv), *install, "--python", self.program("python"), str(wheel))

    def program(self, name: str) -> str:
        return str(self.home / "bin" / name)

    def run(self, *command: str, cwd: Path) -> str:
        return self._run(self.program(command[0]), *command[1:], cwd=cwd)

    def _run(self, *command: str, cwd: Path | None = None) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            command, cwd=cwd or self.folder, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}"
        return done.stdout


@pytest.mark.slow
def test_a_study_of_the_built_wheel_runs(tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    where = installed.run("python", "-c", "import osgap; print(osgap.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.home)
    installed.run("osgap", "init", "my-study", cwd=tmp_path)
    study = tmp_path / "my-study"
    from_checkout = tmp_path / "from-checkout"
    init.write_study(from_checkout)
    assert files(study) == files(from_checkout)

    snakemake = ("python", "-m", "snakemake", "--profile", "profiles/demo")
    planned = installed.run(*snakemake, "--dry-run", "--quiet", "rules", cwd=study)
    assert "train" in planned
    assert "evaluate" in planned
    installed.run(*snakemake, "synthetic_head", cwd=study)
    assert (study / "results" / "demo" / "synthetic" / "head" / "flame2023.pkl").stat().st_size > 1000

"""Some files of a folder that only make sense together: all of them are replaced, or none."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from osgap.runtime.artifacts import atomic_folder

_STAGED = ".new-files"


@contextlib.contextmanager
def atomic_files(folder: Path | str, names: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder; on success its files of these names take their places in `folder`, on error none does.

    Other files of the folder stay. The files are complete and on the disk before the first takes its place; a process
    that is killed in the moment between the first and the last leaves some new and some old.

    Args:
        names: in the order in which they take their places.

    Raises:
        OSError: when one of them was not written, or the folder does not take it.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    staged = folder / _STAGED
    try:
        with atomic_folder(staged) as temporary:
            try:
                yield temporary
            except BaseException as error:
                _name_folder(error, temporary, folder)
                raise
        try:
            _swap(staged, folder, names)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _swap(staged: Path, folder: Path, names: Sequence[str]) -> None:
    previous = staged / "previous"
    previous.mkdir()
    begun = []
    try:
        for name in names:
            begun.append(name)
            if (folder / name).exists() or (folder / name).is_symlink():
                (folder / name).rename(previous / name)
            (staged / name).rename(folder / name)
    except BaseException as error:
        _name_folder(error, staged, folder)
        for name in begun:
            if (previous / name).exists() or (previous / name).is_symlink():
                (previous / name).replace(folder / name)
            elif not (staged / name).exists():
                (folder / name).unlink(missing_ok=True)
        raise


def _name_folder(error: BaseException, temporary: Path, folder: Path) -> None:
    """Say where the files were to be, not where they were written first."""

    def named(value: object) -> object:
        return value.replace(str(temporary), str(folder)) if isinstance(value, str) else value

    error.args = tuple(named(value) for value in error.args)
    if isinstance(error, OSError) and error.filename is not None:
        error.filename = named(str(error.filename))

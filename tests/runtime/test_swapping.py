"""Files that are replaced together."""

from __future__ import annotations

from pathlib import Path

import pytest

from osgap.runtime.errors import UserError
from osgap.runtime.swapping import atomic_files


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_files_take_their_places_together_and_others_stay(tmp_path: Path) -> None:
    for name in ("a", "other"):
        (tmp_path / name).write_text("old")
    with atomic_files(tmp_path, ["a", "b"]) as temporary:
        for name in ("a", "b"):
            (temporary / name).write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert contents(tmp_path) == {"a": "new", "b": "new", "other": "old"}


@pytest.mark.parametrize("earlier", [[], ["a", "b"], ["a", "missing"]])
def test_one_that_cannot_take_its_place_keeps_all_from_it(tmp_path: Path, earlier: list[str]) -> None:
    folder = tmp_path / "out"
    if earlier:
        folder.mkdir()
    for name in earlier:
        (folder / name).write_text("old")
    with pytest.raises(FileNotFoundError) as caught, atomic_files(folder, ["a", "b", "missing"]) as temporary:
        for name in ("a", "b"):
            (temporary / name).write_text("new")
    assert caught.value.filename == str(folder / "missing")
    assert folder.is_dir() == bool(earlier)
    assert not earlier or contents(folder) == dict.fromkeys(earlier, "old")


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(target)
    with atomic_files(tmp_path / "out", ["a"]) as temporary:
        (temporary / "a").write_text("new")
    assert target.read_text() == "old"
    assert contents(tmp_path / "out") == {"a": "new"}


def test_errors_name_where_the_files_were_to_be(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught, atomic_files(tmp_path, ["a"]) as temporary:
        raise UserError(f"{temporary / 'a'}: is damaged. Write it again.")
    assert str(caught.value) == f"{tmp_path / 'a'}: is damaged. Write it again."
    assert list(tmp_path.iterdir()) == []

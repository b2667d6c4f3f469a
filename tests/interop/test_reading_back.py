"""Exports are read back before they take their names: what a disk or a writer has spoiled leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from plyfile import PlyData

from interop.balls import Ball, make_ball
from osgap.interop.export import export_avatar, export_maps, export_mesh, export_splats
from osgap.runtime.artifacts import write_npz
from osgap.runtime.errors import UserError
from osgap.runtime.reading_back import check_same
from osgap.splat.ply_rows import read_rows, write_rows

Spoil = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def ball(tmp_path_factory: pytest.TempPathFactory) -> Ball:
    return make_ball(tmp_path_factory.mktemp("ball"))


def spoil_files(monkeypatch: pytest.MonkeyPatch, suffix: str, spoil: Spoil) -> None:
    """A disk that keeps something else of files with that ending than what was written and flushed."""
    sync = os.fsync

    def fsync(handle: int) -> None:
        sync(handle)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.suffix == suffix:
            path.write_bytes(spoil(path.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


EXPORTS: dict[str, tuple[Callable[..., list[Path]], str, str, dict[str, Any]]] = {
    "avatar: point cloud": (export_avatar, "out", ".ply", {}),
    "avatar: parameters": (export_avatar, "out", ".npz", {}),
    "avatar for OSGAP: point cloud": (export_avatar, "out", ".ply", {"viewer": "osgap"}),
    "avatar for OSGAP: parameters": (export_avatar, "out", ".npz", {"viewer": "osgap"}),
    "splats": (export_splats, "a.ply", ".ply", {}),
    "frames of splats": (export_splats, "out", ".ply", {"frames": "0:2"}),
    "mesh as OBJ": (export_mesh, "a.obj", ".obj", {}),
    "mesh as PLY": (export_mesh, "a.ply", ".ply", {}),
    "mesh as GLB": (export_mesh, "a.glb", ".glb", {}),
    "maps": (export_maps, "a.npz", ".npz", {}),
}
SPOILED: dict[str, Spoil] = {
    "empty": lambda _: b"",
    "half": lambda data: data[: len(data) // 2],
    "zeros at the end": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    # of a text, the first digit behind a point: the last ones are not all needed
    "one bit": lambda data: flip(
        data, data.index(b".", data.index(b"\nv ")) + 1 if b"\nv " in data else len(data) // 2
    ),
}


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("damage", SPOILED)
def test_what_the_disk_has_spoiled_is_refused(
    ball: Ball, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: str, damage: str
) -> None:
    run, output, suffix, options = EXPORTS[export]
    with monkeypatch.context() as patch:
        spoil_files(patch, suffix, SPOILED[damage])
        with pytest.raises(
            UserError, match=r"was written, but does not read back as it was meant \(.+\), and was"
        ) as e:
            run(ball.folder, tmp_path / output, ball.assets, **options)
    named = Path(str(e.value).split(": ")[0])
    assert named.suffix == suffix
    assert tmp_path in named.parents
    assert ".tmp-" not in str(e.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_file() for path in run(ball.folder, tmp_path / output, ball.assets, **options))


@pytest.mark.parametrize("export", ["mesh as OBJ", "mesh as PLY", "mesh as GLB", "splats", "maps"])
def test_what_was_there_before_stays(ball: Ball, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: str) -> None:
    run, output, suffix, options = EXPORTS[export]
    (tmp_path / output).write_bytes(b"before")
    spoil_files(monkeypatch, suffix, SPOILED["half"])
    with pytest.raises(UserError, match="does not read back"):
        run(ball.folder, tmp_path / output, ball.assets, **options)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == {tmp_path / output: b"before"}


def test_what_the_writer_got_wrong_is_refused(ball: Ball, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that exchanges two columns: every byte of it arrives."""
    write = PlyData.write

    def exchanged(self: PlyData, stream: str) -> None:
        rows = self.elements[0].data
        rows["x"], rows["y"] = rows["y"].copy(), rows["x"].copy()
        write(self, stream)

    meant = np.array([(1, 2), (3, 4)], [("x", "<f4"), ("y", "<f4")])
    monkeypatch.setattr(PlyData, "write", exchanged)
    with pytest.raises(UserError, match=r"a\.ply: was written, but does not read back .*corners\[0, 0, 0\] is"):
        export_mesh(ball.folder, tmp_path / "a.ply", ball.assets)
    monkeypatch.setattr(PlyData, "write", lambda self, stream: write(PlyData(self.elements, text=True), stream))
    with pytest.raises(UserError, match=r"b\.ply: .*its header is not that of a binary little-endian PLY"):
        write_rows(tmp_path / "b.ply", meant)
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_rows_come_back_and_any_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True))
    dtype = np.dtype([(name, "<f4") for name in names])
    bits = data.draw(npst.arrays(np.uint32, (data.draw(st.integers(1, 4)), len(names))))  # NaN and infinity too
    rows = np.ascontiguousarray(bits).view(dtype)[:, 0]
    comments = data.draw(st.lists(st.text('abc {}:"1', max_size=5).map(str.strip), max_size=2))
    path = tmp_path_factory.mktemp("rows") / "a.ply"
    write_rows(path, rows, comments=comments, element_comments=["end"])
    found, found_comments = read_rows(path)
    assert found.tobytes() == rows.tobytes()
    assert found.dtype == dtype
    assert found_comments == [*comments, "end"]
    other = path.with_name("b.ply")
    place = data.draw(st.integers(1, rows.nbytes))
    with pytest.MonkeyPatch.context() as patch:
        spoil_files(patch, ".ply", lambda content: flip(content, len(content) - place))
        with pytest.raises(UserError, match=r"b\.ply: was written, but"):
            write_rows(other, rows, comments=comments)
    assert list(path.parent.iterdir()) == [path]


def test_arrays_are_compared_bit_by_bit() -> None:
    array = np.array([[0.0, np.nan], [1, 2]], np.float32)
    check_same("a", array.copy(), array)
    check_same("a", array.T.copy().T, array)
    with pytest.raises(ValueError, match=r"a\[0, 0\] is -0\.0, not 0\.0"):
        check_same("a", np.array([[-0.0, np.nan], [1, 2]], np.float32), array)
    with pytest.raises(ValueError, match=r"a\[1, 1\] is 3\.0, not 2\.0"):
        check_same("a", np.array([[0.0, np.nan], [1, 3]], np.float32), array)
    with pytest.raises(ValueError, match=r"a is float64 of shape \(2, 2\), not float32 of shape \(2, 2\)"):
        check_same("a", array.astype(float), array)
    check_same("nothing", np.zeros((0, 3)), np.zeros((0, 3)))
    check_same("a scalar", np.array(1), np.array(1))


def test_an_archive_without_an_array_or_its_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = np.savez_compressed
    monkeypatch.setattr(np, "savez_compressed", lambda file, **arrays: save(file, a=arrays["a"]))
    with pytest.raises(UserError, match=r"a\.npz: was written, but .*has the arrays a, not a, b"):
        write_npz(tmp_path / "a.npz", {"a": np.zeros(2), "b": np.zeros(2)})
    monkeypatch.setattr("zipfile.ZipFile.comment", b"other", raising=False)
    with pytest.raises(UserError, match=r"a\.npz: was written, but .*provenance differs"):
        write_npz(tmp_path / "a.npz", {"a": np.zeros(2)}, {"stage": "x"})
    assert not list(tmp_path.iterdir())

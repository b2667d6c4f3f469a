"""Pickles are read as data: arrays come out as they went in, and nothing in a file runs."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from osgap.errors import UserError
from osgap.head.pickles import dense, read_pickle


def write(folder: Path, content: object, protocol: int = 2) -> Path:
    path = folder / "content.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@settings(max_examples=40, deadline=None)
@given(
    array=npst.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.uint32]),
        npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    ),
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_arrays_survive_every_protocol(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, protocol: int
) -> None:
    path = write(tmp_path_factory.mktemp("pickle"), {"array": array, "name": "lbs", "list": [1, 2]}, protocol)
    content = read_pickle(path)
    assert content["array"].dtype == array.dtype
    np.testing.assert_array_equal(content["array"], array)
    assert content["list"] == [1, 2]


@settings(max_examples=40, deadline=None)
@given(
    matrix=npst.arrays(np.float64, (5, 7), elements=st.sampled_from([0.0, 0.0, 1.5, -2.0])),
    kind=st.sampled_from(["csc_matrix", "csr_matrix", "coo_matrix", "csr_array", "csc_array", "coo_array"]),
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
)
def test_sparse_matrices_become_dense(
    tmp_path_factory: pytest.TempPathFactory, matrix: np.ndarray, kind: str, protocol: int
) -> None:
    path = write(tmp_path_factory.mktemp("pickle"), {"J": getattr(scipy.sparse, kind)(matrix)}, protocol)
    np.testing.assert_array_equal(dense(read_pickle(path)["J"], path, "J"), matrix)


def test_pickles_of_python_2(tmp_path: Path) -> None:
    """FLAME's own files: bytes are text strings there, and NumPy's modules have their old names."""
    array = np.array([1.5, -2.0])
    path = tmp_path / "model.pkl"
    path.write_bytes(
        b"\x80\x02}U\nv_template"
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x10" + array.tobytes() + b"tbs."
    )
    np.testing.assert_array_equal(read_pickle(path)["v_template"], array)


def test_duplicate_entries_of_a_sparse_matrix_add_up(tmp_path: Path) -> None:
    matrix = scipy.sparse.coo_matrix(([1.0, 2.0, 4.0], ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    path = write(tmp_path, {"J": matrix})
    np.testing.assert_array_equal(dense(read_pickle(path)["J"], path, "J"), matrix.toarray())


@pytest.mark.parametrize(("row", "found"), [(7, "out of bounds"), (-1, "negative")])
def test_sparse_indices_outside_the_matrix_are_refused(tmp_path: Path, row: int, found: str) -> None:
    matrix = scipy.sparse.csc_matrix(np.eye(3))
    matrix.indices[1] = row
    path = write(tmp_path, {"J": matrix})
    with pytest.raises(UserError, match=found):
        dense(read_pickle(path)["J"], path, "J")


class _FakeChumpy:
    """Makes a module `chumpy.ch` whose class `Ch` pickles as chumpy's does, and removes it again."""

    def __enter__(self) -> type:
        package, module = types.ModuleType("chumpy"), types.ModuleType("chumpy.ch")

        class Ch:
            def __init__(self, x: np.ndarray) -> None:
                self.x, self._dirty_vars, self._itr = x, {"x"}, None

        Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
        module.Ch = Ch  # type: ignore[attr-defined]
        sys.modules |= {"chumpy": package, "chumpy.ch": module}
        return Ch

    def __exit__(self, *_: object) -> None:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_chumpy_arrays_are_read_without_chumpy(tmp_path: Path, protocol: int) -> None:
    array = np.arange(6.0).reshape(2, 3)
    with _FakeChumpy() as chumpy_array:
        path = write(tmp_path, {"shapedirs": chumpy_array(array)}, protocol)
    value = read_pickle(path)["shapedirs"]
    assert "chumpy" not in sys.modules
    np.testing.assert_array_equal(dense(value, path, "shapedirs"), array)


def test_chumpy_expression_without_values_is_refused(tmp_path: Path) -> None:
    with _FakeChumpy() as chumpy_array:
        value = chumpy_array(np.zeros(1))
        del value.x
        path = write(tmp_path, {"shapedirs": value})
    with pytest.raises(UserError, match=r"shapedirs.*chumpy\.ch\.Ch"):
        dense(read_pickle(path)["shapedirs"], path, "shapedirs")


class _Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call


def _malicious(marker: Path) -> dict[str, bytes]:
    """Pickles that would run something, by the name that has to be refused."""
    python = f"open({str(marker)!r}, 'w').close()"
    return {
        "posix.system": pickle.dumps({"a": _Call(os.system, f"touch {marker}")}, protocol=2),
        "builtins.eval": pickle.dumps({"a": _Call(eval, python)}, protocol=4),
        "__builtin__.eval": pickle.dumps({"a": _Call(eval, python)}, protocol=0),
        "builtins.getattr": b"\x80\x02cbuiltins\ngetattr\n(cnumpy\nndarray\nX\x04\x00\x00\x00dumptR.",
        "numpy.load": b"\x80\x02cnumpy\nload\n.",
        "numpy.testing._private.utils.runstring": b"\x80\x02cnumpy.testing._private.utils\nrunstring\n.",
        "numpy.f2py.os.system": b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93.",
        "numpy.ndarray.tofile": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        "scipy.sparse.load_npz": b"\x80\x02cscipy.sparse\nload_npz\n.",
        "chumpy.os.system": b"\x80\x04\x8c\x06chumpy\x8c\x09os.system\x93.",
        "chumpyx.ch.Ch": b"\x80\x02cchumpyx.ch\nCh\n.",
        "subprocess.Popen": b"\x80\x02csubprocess\nPopen\n(X\x04\x00\x00\x00touchtR.",
    }


@pytest.mark.parametrize("name", sorted(_malicious(Path("marker"))))
def test_other_names_are_refused_and_nothing_runs(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "model.pkl"
    path.write_bytes(_malicious(marker)[name])
    with pytest.raises(UserError) as caught:
        read_pickle(path)
    assert str(path) in str(caught.value)
    assert f"refused, because it would run {name}." in str(caught.value)
    assert not marker.exists()


def test_allowed_names_cannot_be_combined_into_other_objects(tmp_path: Path) -> None:
    """`_reconstructor` makes stand-ins only, and bytes are encoded as latin-1 only."""
    streams = {
        "reconstructor": b"\x80\x02ccopy_reg\n_reconstructor\n(cnumpy\ndtype\nc__builtin__\nobject\nNtR.",
        "encode": b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
    }
    for name, stream in streams.items():
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(stream)
        with pytest.raises(UserError, match="not a readable pickle"):
            read_pickle(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>log in</html>", "not a readable pickle"),
        (b"", "not a readable pickle"),
        (pickle.dumps({"a": np.arange(1000.0)})[:500], "not a readable pickle"),
        (pickle.dumps([1, 2]), "a list"),
        (b"\x80\x02Pname\n.", "not a readable pickle"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_pickle(path)
    assert str(path) in str(caught.value)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.pkl: no such file"):
        read_pickle(tmp_path / "nothing.pkl")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(position=st.integers(0, 10_000), byte=st.sampled_from(list(b"\x00\x01\xff.RbN(t0")))
def test_damaged_bytes_raise_nothing_else(tmp_path_factory: pytest.TempPathFactory, position: int, byte: int) -> None:
    damaged = bytearray(pickle.dumps({"v": np.arange(50.0), "J": scipy.sparse.csc_matrix(np.eye(4))}, protocol=2))
    damaged[position % len(damaged)] = byte
    path = tmp_path_factory.mktemp("damaged") / "model.pkl"
    path.write_bytes(bytes(damaged))
    with contextlib.suppress(UserError):  # some damage only changes a number
        for key, value in read_pickle(path).items():
            dense(value, path, str(key))


@pytest.mark.parametrize("value", ["text", None, {"a": 1}, [[1, 2], [3]], np.array(["a"])])
def test_values_that_are_no_numbers_are_named(value: object) -> None:
    with pytest.raises(UserError, match=r"head\.pkl: weights is not an array of numbers"):
        dense(value, "head.pkl", "weights")

"""Pickles are read as data: arrays come out as they went in, and nothing in a file runs."""

from __future__ import annotations

import contextlib
import copyreg
import os
import pickle
import re
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from head.python2 import ch, chumpy, chumpy_object, write_python2
from osgap.head.pickles import dense, read_pickle
from osgap.runtime.errors import UserError


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
    found = dense(content["array"], path, "array")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert content["list"] == [1, 2]
    assert content["name"] == "lbs"


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
    np.testing.assert_array_equal(dense(read_pickle(path)["v_template"], path, "v_template"), array)


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


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_chumpy_arrays_are_read_without_chumpy(tmp_path: Path, protocol: int) -> None:
    array = np.arange(6.0).reshape(2, 3)
    with chumpy():
        path = write(tmp_path, {"shapedirs": ch(array)}, protocol)
    value = read_pickle(path)["shapedirs"]
    assert "chumpy" not in sys.modules
    np.testing.assert_array_equal(dense(value, path, "shapedirs"), array)


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


# chumpy's expressions ------------------------------------------------------------------------------------------


def _written(tmp_path: Path, make: Callable[[], object]) -> Any:
    """What `make` builds of chumpy's objects, as it is read back."""
    with chumpy():
        path = write_python2(tmp_path / "model.pkl", {"shapedirs": make()})
    assert "chumpy" not in sys.modules
    return read_pickle(path)["shapedirs"]


_BASE = np.arange(24.0).reshape(2, 3, 4)
_IDXS = np.array([5, 0, 23, 7])
_REORDERINGS: dict[str, tuple[Callable[[], object], np.ndarray]] = {
    "Select": (lambda: chumpy_object("reordering.Select", a=ch(_BASE), idxs=_IDXS), _BASE.ravel()[_IDXS]),
    "Select with a shape": (
        lambda: chumpy_object("reordering.Select", a=ch(_BASE), idxs=_IDXS, preferred_shape=(2, 2)),
        _BASE.ravel()[_IDXS].reshape(2, 2),
    ),
    "Reshape": (lambda: chumpy_object("reordering.Reshape", a=ch(_BASE), newshape=(6, 4)), _BASE.reshape(6, 4)),
    "Reshape to a number": (lambda: chumpy_object("reordering.Reshape", a=ch(_BASE), newshape=-1), _BASE.ravel()),
    "transpose": (lambda: chumpy_object("reordering.transpose", a=ch(_BASE), axes=None), _BASE.T),
    "transpose with axes": (
        lambda: chumpy_object("reordering.transpose", a=ch(_BASE), axes=(1, 0, 2)),
        _BASE.transpose(1, 0, 2),
    ),
    "Concatenate": (
        lambda: chumpy_object("reordering.Concatenate", dterms=["m0", "m1"], m0=ch(_BASE), m1=ch(-_BASE), axis=2),
        np.concatenate((_BASE, -_BASE), axis=2),
    ),
    "nested": (
        lambda: chumpy_object(
            "reordering.Reshape",
            a=chumpy_object("reordering.Select", a=ch(_BASE), idxs=np.arange(12)[::-1].copy(), preferred_shape=(3, 4)),
            newshape=np.array([4, 3]),
        ),
        _BASE.ravel()[:12][::-1].reshape(4, 3),
    ),
}


@pytest.mark.parametrize("name", _REORDERINGS)
def test_chumpy_reorderings_are_evaluated(tmp_path: Path, name: str) -> None:
    make, expected = _REORDERINGS[name]
    np.testing.assert_array_equal(dense(_written(tmp_path, make), "model.pkl", "shapedirs"), expected)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("ch_ops.add", {"a": 1.0, "b": 2.0}),
        ("ch_ops.sqrt", {"x": np.ones(3)}),  # x is its operand, not its value
        ("reordering.AtleastNd", {"x": np.ones(3), "ndims": 2}),
        ("ch.Ch", {}),
    ],
)
def test_other_chumpy_expressions_are_refused(tmp_path: Path, name: str, state: dict[str, object]) -> None:
    value = _written(tmp_path, lambda: chumpy_object(name, **state))
    with pytest.raises(UserError, match=rf"model\.pkl: shapedirs .*chumpy\.{name}.*not stored"):
        dense(value, "model.pkl", "shapedirs")


@pytest.mark.parametrize("idxs", [np.array([24]), np.array([0.5]), "all", None])
def test_a_selection_outside_its_array_is_refused(tmp_path: Path, idxs: object) -> None:
    value = _written(tmp_path, lambda: chumpy_object("reordering.Select", a=ch(_BASE), idxs=idxs))
    with pytest.raises(UserError, match=r"model\.pkl: shapedirs is not an array of numbers"):
        dense(value, "model.pkl", "shapedirs")


# hostile files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "place",
    [lambda call: {"a": call}, lambda call: {"a": ch(call)}, lambda call: {call: 1}, lambda call: [{"a": (call,)}]],
)
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {}",), "system"),
        (eval, ("open({!r}, 'w')",), "eval"),
        (getattr, ({}, "clear"), "getattr"),
        (np.fromfile, ("{}",), "fromfile"),
        (np.save, ("{}", 1), "save"),
        (np.ones, (10**12,), "ones"),
        (open, ("{}", "w"), "open"),
    ],
)
def test_calls_are_refused_wherever_they_stand(
    tmp_path: Path, protocol: int, place: Callable[[object], object], function: Any, arguments: Any, name: str
) -> None:
    marker = tmp_path / "executed"
    filled = tuple(part.format(str(marker)) if isinstance(part, str) else part for part in arguments)
    with chumpy():
        path = write(tmp_path, place(_Call(function, *filled)), protocol)
    with pytest.raises(UserError, match=rf"content\.pkl: refused, because it would run [\w.]+\.{name}\."):
        read_pickle(path)
    assert not marker.exists()


_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
_FLOAT = b"cnumpy\ndtype\n(U\x02f8K\x00K\x01tR"
_HUGE = b"\x8a\x06\x00\x00\x00\x00\x00\x10"  # 2^44
_EIGHT = b"U\x08" + bytes(8)
_ALLOCATIONS = {
    "an array of a huge shape": b"cnumpy\nndarray\n" + _HUGE + b"\x85\x85R",
    "an array made with a huge shape": _ARRAY.replace(b"K\x00\x85", _HUGE + b"\x85"),
    "a state with a huge shape": _ARRAY + b"(K\x01" + _HUGE + b"\x85" + _FLOAT + b"\x89" + _EIGHT + b"tb",
    "a number of a huge type": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\nU\x0eV9999999999999\x85RU\x00tR",
    "a type with a huge size": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(U\x02V8K\x00K\x01tR"
    b"(K\x03U\x01|NNN" + _HUGE + b"K\x01K\x00tbU\x00tR",
    "a memo with a huge place": b"Nr\xff\xff\xff\x7f0N",
    "bytes of a huge length": b"\x8e" + (2**44).to_bytes(8, "little") + b"N",
    "a byte array of a huge length": b"\x96" + (2**44).to_bytes(8, "little") + b"N",
    "a huge frame": b"\x95" + (2**44).to_bytes(8, "little") + b"N",
    "a list that contains itself": b"]q\x00(h\x00h\x00e",
    "lists of lists of lists": b"](K\x01K\x02eq\x00"
    + b"".join(b"](" + b"h%c" % n * 9 + b"eq%c" % (n + 1) for n in range(40)),
    "an expression that contains itself": b"cchumpy.reordering\nReshape\n)\x81q\x00"
    b"}(U\x01ah\x00U\x08newshapeJ\xff\xff\xff\xffub",
}


@pytest.mark.parametrize("name", _ALLOCATIONS)
def test_nothing_huge_is_allocated(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02}U\x01a" + _ALLOCATIONS[name] + b"s.")
    _assert_refused_cheaply(path)


def _assert_refused_cheaply(path: Path) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=re.escape(str(path))):
            dense(read_pickle(path)["a"], path, "a")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def _sparse(**state: object) -> Any:
    matrix = scipy.sparse.csc_matrix(np.eye(2))
    matrix.__dict__.update(state)
    return matrix


def _doubled(levels: int, start: np.ndarray) -> Any:
    value = ch(start)
    for _ in range(levels):
        value = chumpy_object("reordering.Concatenate", dterms=["m0", "m1"], m0=value, m1=value, axis=0)
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda: _sparse(_shape=(2**22, 2**22)),
        lambda: _sparse(_shape=(-1, 2**40)),
        lambda: _sparse(indptr=np.array([0, 1, 2**44])),
        lambda: _sparse(indptr=np.array([0, 2**44, 2])),
        lambda: _doubled(60, np.ones(1)),
        lambda: _doubled(60, np.ones(0)),
        lambda: chumpy_object("reordering.Reshape", a=ch(np.ones(1)), newshape=(2**44,)),
    ],
)
def test_nothing_huge_is_computed(tmp_path: Path, make: Callable[[], object]) -> None:
    with chumpy():
        path = write(tmp_path, {"a": make()})
    _assert_refused_cheaply(path)


@pytest.mark.parametrize(
    "stream",
    [
        _ARRAY[: _ARRAY.index(b"(")] + b"}U\x01xK\x01sb0N",  # a state for the function
        _ARRAY[: _ARRAY.index(b"(")] + b"N}U\x0c__defaults__K\x01\x85s\x86b0N",  # attributes of the function
        b"cnumpy\nndarray\nN}U\x07numbersNs\x86b0N",  # attributes of the class
        b"cchumpy.ch\nCh\n}U\x01xK\x01sb0N",
        b"Pname\n",  # an object that is stored elsewhere
        b"K\x01Q",
        b"h\x07",  # a place in the memo that nothing was put into
        b"0",  # nothing left to take
        b"ccopy_reg\n_reconstructor\n(cnumpy\ndtype\nc__builtin__\nobject\nNtR",
        b"cnumpy.core.multiarray\n_reconstruct\n(c__builtin__\nobject\nK\x00\x85U\x01btR",
    ],
)
def test_the_reader_itself_cannot_be_changed(tmp_path: Path, stream: bytes) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02}U\x01a" + stream + b"s.")
    with pytest.raises(UserError, match=r"model\.pkl: not a readable pickle"):
        read_pickle(path)
    good = write(tmp_path, {"a": np.arange(3.0)})
    np.testing.assert_array_equal(dense(read_pickle(good)["a"], good, "a"), np.arange(3.0))


@pytest.mark.parametrize("opcode", [b"\x82\xf0", b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"])
def test_registered_extensions_are_refused(tmp_path: Path, opcode: bytes) -> None:
    """Python resolves them itself, past every list, once anything has used them."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x02}U\x01a" + opcode + b"U\x04true\x85Rs.")
    copyreg.add_extension("posix", "system", 0xF0)
    try:
        assert pickle.loads(b"\x80\x02\x82\xf0.") is os.system
        with pytest.raises(UserError, match=r"model\.pkl: refused, because it would run the extension 240"):
            read_pickle(path)
    finally:
        copyreg.remove_extension("posix", "system", 0xF0)


@pytest.mark.parametrize(
    "value",
    [
        np.array([1, "a", None], object),
        np.array(["text"]),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        np.array([1 + 2j]),
        np.array(["2020-01-01"], "M8[D]"),
        b"bytes",
        {1, 2},
        scipy.sparse.dia_matrix(np.eye(3)),
        [[[1]], "text"],
    ],
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_is_not_needed_blocks_nothing(tmp_path: Path, value: object, protocol: int) -> None:
    path = write(tmp_path, {"other": value, "a": np.arange(3)}, protocol)
    content = read_pickle(path)
    np.testing.assert_array_equal(dense(content["a"], path, "a"), np.arange(3))
    with pytest.raises(UserError, match=r"content\.pkl: other is not an array of numbers"):
        dense(content["other"], path, "other")


def test_lists_of_numpy_numbers_are_arrays(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": list(np.arange(4)), "b": [[np.float32(0.5), 1], [2, 3]]})
    content = read_pickle(path)
    assert dense(content["a"], path, "a").tolist() == [0, 1, 2, 3]
    assert dense(content["b"], path, "b").tolist() == [[0.5, 1], [2, 3]]


def test_arrays_keep_their_order_and_byte_order(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(6).reshape(2, 3)).astype(">i4")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = write(tmp_path, {"a": array}, protocol)
        np.testing.assert_array_equal(dense(read_pickle(path)["a"], path, "a"), array)


def test_unreadable_permissions_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, {})

    def refuse(self: Path) -> bytes:  # permissions do not bind root, as whom CI may run
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"content\.pkl: cannot be read \(Permission denied\); check its permissions"):
        read_pickle(path)

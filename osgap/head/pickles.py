"""Read FLAME's pickles without running anything that they contain.

A pickle is a program: unpickling calls whatever functions it names. The reader here resolves a fixed list of names:
NumPy's arrays; SciPy's sparse matrices and chumpy's arrays, both as inert stand-ins that only keep their state (chumpy
no longer installs, and FLAME needs nothing of it but the numbers). Every other name is refused before it is looked up.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy._core import multiarray as _multiarray
from numpy._core import numeric as _numeric

from osgap.errors import UserError

_SPARSE_CLASSES = tuple(f"{kind}_{suffix}" for kind in ("csc", "csr", "coo") for suffix in ("matrix", "array"))


class _StandIn:
    """An object of a class that is not imported: its name, and the state that was pickled with it."""

    name = ""
    state: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, *_: object) -> None:
        """Arguments are the class's business."""

    def __setstate__(self, state: object) -> None:
        # With slots, the state is a pair of dicts.
        parts = state if isinstance(state, tuple) else (state,)
        self.state = {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}


class _Sparse(_StandIn):
    """Stands in for `scipy.sparse` matrices."""


class _Chumpy(_StandIn):
    """Stands in for any chumpy object; of `chumpy.ch.Ch`, `state["x"]` is the array."""


def _reconstruct_object(kind: type, base: type, _: object) -> object:
    """`copyreg._reconstructor` for stand-ins, which protocols 0 and 1 use to make objects."""
    if not (isinstance(kind, type) and issubclass(kind, _StandIn) and base is object):
        raise pickle.UnpicklingError(f"object of {kind} is not a stand-in")
    return kind()


def _encode(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, by which Python 3 writes bytes in protocol 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin-1")


def _bytes() -> bytes:
    """`bytes`, by which Python 3 writes empty bytes in protocol 2."""
    return b""


def _set(items: object = ()) -> set[Any]:
    # chumpy's state contains (empty) sets.
    return set(items)  # type: ignore[call-overload]


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
    **{("copyreg" if three else "copy_reg", "_reconstructor"): _reconstruct_object for three in (True, False)},
    **{("builtins" if three else "__builtin__", "object"): object for three in (True, False)},
    **{("builtins" if three else "__builtin__", "bytes"): _bytes for three in (True, False)},
    **{("builtins" if three else "__builtin__", "set"): _set for three in (True, False)},
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _multiarray._reconstruct
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _multiarray.scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _numeric._frombuffer  # type: ignore[attr-defined]


class _RefusedError(Exception):
    """The pickle names something that is not on the list."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        if allowed is not None:
            return allowed
        package = module.split(".")[0]
        if package == "chumpy" and name.isidentifier():
            return type(name, (_Chumpy,), {"name": f"{module}.{name}"})
        if module.startswith("scipy.sparse") and name in _SPARSE_CLASSES:
            return type(name, (_Sparse,), {"name": f"{module}.{name}"})
        raise _RefusedError(f"{module}.{name}")


def read_pickle(path: Path | str) -> dict[str, Any]:
    """The dict in a FLAME pickle, of Python 2 or 3.

    Raises:
        UserError: when the file is absent, is no pickle of a dict, or names anything beyond arrays. Nothing in the
            file is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; a pickle in FLAME's format is expected there.")
    try:
        with path.open("rb") as file:
            content = _RestrictedUnpickler(file, encoding="latin1").load()
    except _RefusedError as error:
        raise UserError(
            f"{path}: refused, because it would run {error}. A head model contains NumPy arrays, SciPy sparse matrices "
            f"and chumpy arrays only; get the file from its publisher anew."
        ) from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(
            f"{path}: not a readable pickle ({type(error).__name__}: {error}). If this is a download page or a "
            f"truncated download, fetch the file again."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: contains a {type(content).__name__}, but a dict in FLAME's format is expected.")
    return content


def dense(value: object, path: Path | str, key: str) -> np.ndarray:
    """A value of such a dict as an ordinary numeric array.

    Raises:
        UserError: when it is not an array (of numbers), naming `path` and `key`.
    """
    try:
        if isinstance(value, _Sparse):
            value = _dense_from_sparse(value)
        elif isinstance(value, _Chumpy):
            if "x" not in value.state:
                raise ValueError(f"a chumpy expression ({value.name}) whose values are not stored")
            return dense(value.state["x"], path, key)
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"a {type(value).__name__} of type {array.dtype}")
    except UserError:
        raise
    except Exception as error:  # the state of a damaged matrix can be anything
        raise UserError(f"{path}: {key} is not an array of numbers ({error}). Use an unmodified model file.") from error
    return array


def _dense_from_sparse(matrix: _Sparse) -> np.ndarray:
    """CSC, CSR and COO matrices as dense arrays. NumPy checks the indices."""
    state = {key.lstrip("_"): value for key, value in matrix.state.items()}
    rows, columns = (int(extent) for extent in state["shape"])
    values = np.asarray(state["data"], np.float64)
    kind = matrix.__class__.__name__[:3]
    if kind == "coo":
        row, column = state["coords"] if "coords" in state else (state["row"], state["col"])
    else:
        run = np.repeat(np.arange(len(state["indptr"]) - 1), np.diff(state["indptr"]))
        row, column = (run, state["indices"]) if kind == "csr" else (state["indices"], run)
    row, column = np.asarray(row), np.asarray(column)
    if not len(row) == len(column) == len(values):
        raise ValueError(f"a damaged {matrix.name}: {len(values)} values at {len(row)} x {len(column)} indices")
    if len(values) and min(row.min(), column.min()) < 0:
        raise ValueError(f"a damaged {matrix.name}: negative index")
    result = np.zeros((rows, columns))
    np.add.at(result, (row, column), values)
    return result

"""Read FLAME's pickles without running anything that they contain.

A pickle is a program: unpickling calls whatever functions it names. The reader here resolves a fixed list of names, and
all of them to stand-ins that only keep what they are given: NumPy's arrays and numbers, SciPy's sparse matrices and
chumpy's arrays (chumpy no longer installs, and FLAME needs nothing of it but the numbers). Every other name is refused
before it is looked up. Arrays are made of the kept bytes afterwards, by `dense`, so that what a file does not spell out
byte by byte it cannot allocate either.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from osgap.runtime.errors import UserError

_SPARSE_CLASSES = tuple(
    f"{kind}_{suffix}" for kind in ("csc", "csr", "coo", "bsr", "dia", "lil") for suffix in ("matrix", "array")
)
_NUMBERS = re.compile(r"[<>=|]?[biuf](1|2|4|8|16)")

# Sparse matrices and chumpy's expressions may stand for more numbers than the file holds. FLAME's largest array has
# 6 million, in an expression of one step.
_MOST_VALUES = 1 << 28
_MOST_STEPS = 1000


class _StandIn:
    """An object of a class that is not imported: its name, what it was called with, the state pickled with it."""

    name = ""
    arguments: tuple[Any, ...] = ()
    pickled: Any = None

    def __init__(self, *arguments: Any) -> None:  # not called by all protocols
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.pickled = state

    @property
    def state(self) -> dict[str, Any]:
        """Attribute -> value. With slots, what is pickled is a pair of dicts."""
        parts = self.pickled if isinstance(self.pickled, tuple) else (self.pickled,)
        return {key: value for part in parts if isinstance(part, dict) for key, value in part.items()}


class _Plain(_StandIn):
    """Stands in for `object` and `set`, whose content is never needed."""


class _Bytes(_StandIn):
    """Stands in for `_codecs.encode(text, "latin1")` and `bytes()`, as which Python 3 writes bytes in protocol 2."""

    def content(self) -> bytes:
        text, encoding = self.arguments or ("", "latin1")
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"bytes encoded as {encoding!r}")
        return text.encode("latin-1")


class _DType(_StandIn):
    """Stands in for `numpy.dtype`: `("f8", …)`, and a state whose second value is the byte order."""

    def numbers(self) -> np.dtype:
        """The type, if it is one of plain numbers."""
        text = self.arguments[0] if self.arguments else None
        if not (isinstance(text, str) and _NUMBERS.fullmatch(text)):
            raise ValueError(f"an array of type {text!r}")
        dtype = np.dtype(text)
        order = self.pickled[1] if isinstance(self.pickled, tuple) and len(self.pickled) > 1 else "="
        return dtype.newbyteorder(">") if order == ">" else dtype.newbyteorder("<") if order == "<" else dtype


class _Array(_StandIn):
    """Stands in for `numpy.ndarray`: its state is `(version, shape, dtype, is_fortran, data)`."""

    def numbers(self) -> np.ndarray:
        if not (isinstance(self.pickled, tuple) and len(self.pickled) >= 4):
            raise ValueError("an array without content")
        shape, dtype, is_fortran, data = self.pickled[-4:]
        return _numbers_in(data, dtype).reshape(_extents(shape), order="F" if is_fortran else "C")


class _Buffer(_Array):
    """Stands in for an array in protocol 5: called with `(data, dtype, shape, order)`."""

    def numbers(self) -> np.ndarray:
        data, dtype, shape, order = self.arguments
        return _numbers_in(data, dtype).reshape(_extents(shape), order="F" if order == "F" else "C")


class _Scalar(_StandIn):
    """Stands in for a NumPy number: called with `(dtype, data)`."""

    def numbers(self) -> np.ndarray:
        dtype, data = self.arguments
        return _numbers_in(data, dtype).reshape(())


class _Sparse(_StandIn):
    """Stands in for `scipy.sparse` matrices."""


class _Chumpy(_StandIn):
    """Stands in for any chumpy object; of `chumpy.ch.Ch`, `state["x"]` is the array."""


class _Function:
    """A function that pickles of arrays call. No state can be given to it: it must serve the next file, too."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a state for a function")


def _new_object(kind: object, base: object, _: object) -> object:
    """`copyreg._reconstructor`, which protocols 0 and 1 use to make objects."""
    if not (isinstance(kind, type) and issubclass(kind, _Sparse | _Chumpy)):
        raise pickle.UnpicklingError(f"object of {kind} is not a stand-in")
    return kind()


def _new_array(kind: object, *_: object) -> object:
    """NumPy's `_reconstruct`, which makes an empty array for a state to fill."""
    if not (isinstance(kind, type) and issubclass(kind, _Array)):
        raise pickle.UnpicklingError(f"array of {kind} is not a stand-in")
    return kind()


_CLASSES: dict[tuple[str, str], type[_StandIn]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _Bytes,
}
_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {}
for _builtins, _copyreg in (("builtins", "copyreg"), ("__builtin__", "copy_reg")):
    _CLASSES[_builtins, "object"] = _CLASSES[_builtins, "set"] = _Plain
    _CLASSES[_builtins, "bytes"] = _Bytes
    _FUNCTIONS[_copyreg, "_reconstructor"] = _new_object
for _core in ("numpy.core", "numpy._core"):
    _FUNCTIONS[f"{_core}.multiarray", "_reconstruct"] = _new_array
    _CLASSES[f"{_core}.multiarray", "scalar"] = _Scalar
    _CLASSES[f"{_core}.numeric", "_frombuffer"] = _Buffer


class _RefusedError(Exception):
    """The pickle names something that is not on the list."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _FUNCTIONS:
            return _Function(_FUNCTIONS[module, name])
        kind = _CLASSES.get((module, name))
        if kind is None and module.split(".")[0] == "chumpy" and name.isidentifier():
            kind = _Chumpy
        if kind is None and module.split(".")[:2] == ["scipy", "sparse"] and name in _SPARSE_CLASSES:
            kind = _Sparse
        if kind is None:
            raise _RefusedError(f"{module}.{name}")
        return type(name, (kind,), {"name": f"{module}.{name}"})  # of its own, as no file may change another's


def _check_opcodes(content: bytes) -> None:
    """What `find_class` does not see: registered extensions, and places in the memo that force it to grow."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name in ("EXT1", "EXT2", "EXT4"):
            raise _RefusedError(f"the extension {argument} of this Python")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= count:
            raise pickle.UnpicklingError(f"place {argument} in the memo after {count} operations")


def read_pickle(path: Path | str) -> dict[str, Any]:
    """The dict in a FLAME pickle, of Python 2 or 3; `dense` makes arrays of its values.

    Raises:
        UserError: when the file is absent, is no pickle of a dict, or names anything beyond arrays. Nothing in the
            file is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; a pickle in FLAME's format is expected there. Check flame.assets.")
    try:
        raw = path.read_bytes()
        if not raw:
            raise ValueError("the file is empty")
        _check_opcodes(raw)
        content = _RestrictedUnpickler(io.BytesIO(raw), encoding="latin1").load()
    except _RefusedError as error:
        raise UserError(
            f"{path}: refused, because it would run {error}. A head model contains NumPy arrays, SciPy sparse matrices "
            f"and chumpy arrays only; download the file again from its publisher (FLAME: https://flame.is.tue.mpg.de)."
        ) from None
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(
            f"{path}: not a readable pickle ({type(error).__name__}: {error}). If this is a download page or a "
            f"truncated download, fetch the file again."
        ) from error
    if not isinstance(content, dict):
        found = type(content).__name__
        raise UserError(f"{path}: contains a {found}, but a dict in FLAME's format is expected. Check flame.assets.")
    return content


def dense(value: object, path: Path | str, key: str) -> np.ndarray:
    """A value of such a dict as an ordinary numeric array (it may be read-only).

    Of chumpy's expressions, those that only reorder are evaluated: `Select`, `Reshape`, `transpose`, `Concatenate`.

    Raises:
        UserError: when it is not an array (of numbers), naming `path` and `key`.
    """
    try:
        array = _Evaluation().array(value)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"a {type(value).__name__} of type {array.dtype}")
    except Exception as error:  # the state of a damaged array can be anything
        raise UserError(f"{path}: {key} is not an array of numbers ({error}). Use an unmodified model file.") from error
    return array


class _Evaluation:
    """One value on its way to an array, with a limit to what it may cost."""

    def __init__(self) -> None:
        self._values, self._steps = _MOST_VALUES, _MOST_STEPS

    def array(self, value: object) -> np.ndarray:
        self._steps -= 1
        if self._steps < 0:
            raise ValueError(f"an expression of more than {_MOST_STEPS} steps")
        if isinstance(value, _Array | _Scalar):
            return value.numbers()
        if isinstance(value, _Sparse):
            return self._sparse(value)
        if isinstance(value, _Chumpy):
            return self._chumpy(value)
        if isinstance(value, list | tuple):
            return self._list(value)
        return np.asarray(value)

    def _charge(self, count: int) -> None:
        self._values -= count
        if count < 0 or self._values < 0:
            raise ValueError(f"its size is none for a head model: at most {_MOST_VALUES:,} values")

    def _list(self, value: list[Any] | tuple[Any, ...]) -> np.ndarray:
        """Numbers, or rows of numbers: deeper lists could contain each other, and so stand for any size."""
        rows = [item if isinstance(item, list | tuple) else (item,) for item in value]
        self._charge(sum(map(len, rows)))
        for item in (item for row in rows for item in row):
            if not isinstance(item, int | float | _Scalar):
                raise ValueError(f"a list with a {type(item).__name__}")
        return np.asarray([_plain(item) for item in value])

    def _sparse(self, matrix: _Sparse) -> np.ndarray:
        """CSC, CSR and COO matrices. NumPy checks the indices."""
        state = {key.lstrip("_"): value for key, value in matrix.state.items()}
        kind = matrix.__class__.__name__[:3]
        if kind not in ("csc", "csr", "coo"):
            raise ValueError(f"a {matrix.name}")
        rows, columns = _extents(state["shape"])
        self._charge(rows * columns)
        values = self.array(state["data"]).astype(np.float64)
        if kind == "coo":
            row, column = map(self.array, state["coords"] if "coords" in state else (state["row"], state["col"]))
        else:
            lengths: np.ndarray = np.diff(self.array(state["indptr"]).astype(np.int64))
            if (lengths < 0).any() or lengths.sum() != len(values):
                raise ValueError(f"a damaged {matrix.name}: {len(values)} values in runs of other lengths")
            run, indices = np.repeat(np.arange(len(lengths)), lengths), self.array(state["indices"])
            row, column = (run, indices) if kind == "csr" else (indices, run)
        if not len(row) == len(column) == len(values):
            raise ValueError(f"a damaged {matrix.name}: {len(values)} values at {len(row)} x {len(column)} indices")
        if len(values) and min(row.min(), column.min()) < 0:
            raise ValueError(f"a damaged {matrix.name}: negative index")
        result = np.zeros((rows, columns))
        np.add.at(result, (row, column), values)
        return result

    def _chumpy(self, value: _Chumpy) -> np.ndarray:
        """An array, or a reordering of arrays; the operands are attributes, named alike in all versions of chumpy."""
        kind, state = value.__class__.__name__, value.state
        if kind == "Ch" and "x" in state:
            return self.array(state["x"])
        if kind == "Select":  # of the flattened array; idxs are flat
            source, places = self.array(state["a"]).ravel(), self.array(state["idxs"])
            self._charge(places.size)
            chosen = source[places]
            return chosen.reshape(_extents(state["preferred_shape"])) if "preferred_shape" in state else chosen
        if kind == "Reshape":
            return self.array(state["a"]).reshape(_extents(state["newshape"]))
        if kind == "transpose":
            axes = state.get("axes")
            return self.array(state["a"]).transpose(None if axes is None else _extents(axes))
        if kind == "Concatenate":  # its operands are the attributes that dterms lists
            parts = [self.array(state[name]) for name in state["dterms"]]
            self._charge(sum(part.size for part in parts))
            return np.concatenate(parts, axis=_extents(state["axis"])[0])
        raise ValueError(f"a chumpy expression ({value.name}) whose values are not stored")


def _plain(value: Any) -> Any:
    """A number, or a row of numbers, as Python's own."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.numbers().item() if isinstance(value, _Scalar) else value


def _extents(shape: Any) -> tuple[int, ...]:
    """A shape, or axes: a number or several, Python's or NumPy's."""
    plain = _plain(shape)
    if isinstance(plain, _Array):
        plain = plain.numbers().tolist()
    extents = tuple(plain) if isinstance(plain, list) else (plain,)
    if not all(isinstance(extent, int) for extent in extents):
        raise ValueError(f"{extents} in place of a shape")
    return extents


def _numbers_in(data: Any, dtype: Any) -> np.ndarray:
    """The numbers in the bytes of an array, `[N]`. Python 2 has no bytes: there they are text."""
    if not isinstance(dtype, _DType):
        raise ValueError("an array without a type")
    if isinstance(data, str):
        data = data.encode("latin-1")
    elif isinstance(data, _Bytes):
        data = data.content()
    return np.frombuffer(data, dtype.numbers())

"""Pickles as Python 2 wrote FLAME 2020: text strings for bytes, the old names of modules, chumpy's objects."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_OLD_NAMES = {
    "numpy._core.multiarray": "numpy.core.multiarray",
    "scipy.sparse._csc": "scipy.sparse.csc",
    "builtins": "__builtin__",
    "copyreg": "copy_reg",
}


_Pickler: Any = pickle._Pickler  # the one in Python, whose methods can be replaced


class _Python2Pickler(_Pickler):
    """Protocol 2 with `str` and `bytes` as Python 2's strings."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)

    def save_string(self, value: str | bytes) -> None:
        data = value.encode("latin-1") if isinstance(value, str) else value
        short = len(data) < 256
        self.write(b"U" + bytes([len(data)]) if short else b"T" + struct.pack("<i", len(data)))
        self.write(data)
        self.memoize(value)

    def save_global(self, value: Any, name: str | None = None) -> None:
        name = name or value.__qualname__
        module = _OLD_NAMES.get(value.__module__, value.__module__)
        self.write(f"c{module}\n{name}\n".encode())
        self.memoize(value)

    dispatch = {
        **_Pickler.dispatch,
        str: save_string,
        bytes: save_string,
        type: save_global,
        types.FunctionType: save_global,
    }


def python2_pickle(content: object) -> bytes:
    """The bytes that Python 2's `pickle.dump(content, file, protocol=2)` would write."""
    file = io.BytesIO()
    _Python2Pickler(file).dump(content)
    return file.getvalue()


def chumpy_object(name: str, **state: Any) -> Any:
    """An object that pickles as chumpy's `name` (such as `reordering.Select`) with that state; inside `chumpy` only."""
    module, kind = f"chumpy.{name}".rsplit(".", 1)
    package = sys.modules[module]
    if not hasattr(package, kind):
        setattr(package, kind, type(kind, (), {"__module__": module, "__qualname__": kind}))
    value = getattr(package, kind)()
    value.__dict__.update(state)
    return value


def ch(array: Any) -> Any:
    """`chumpy.ch.Ch(array)` with all that its pickles hold."""
    return chumpy_object("ch.Ch", x=array, _dirty_vars={"x"}, _itr=None, _depends_on_deps={}, _make_dense=False)


@contextmanager
def chumpy() -> Iterator[None]:
    """Empty modules with chumpy's names, so that objects can be pickled as chumpy's."""
    names = ("chumpy", "chumpy.ch", "chumpy.ch_ops", "chumpy.reordering")
    sys.modules |= {name: types.ModuleType(name) for name in names}
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def write_python2(path: Path, content: object) -> Path:
    path.write_bytes(python2_pickle(content))
    return path

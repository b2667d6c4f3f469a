"""PLY files of one element whose properties are all float32: written with plyfile, read back without it.

A header of text lines, `end_header`, and little-endian rows without gaps (Turk, "The PLY Polygon File Format", 1994).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from osgap.runtime.artifacts import atomic_path
from osgap.runtime.reading_back import check_same

_START = [b"ply", b"format binary_little_endian 1.0"]
_END = b"end_header\n"


def write_rows(
    path: Path | str, rows: np.ndarray, *, comments: Sequence[str] = (), element_comments: Sequence[str] = ()
) -> None:
    """Write the element `vertex`.

    Args:
        path: the file to write.
        rows: `[N]` of named `<f4` fields, one property each.
        comments: lines of the header before the element.
        element_comments: lines behind it.

    Raises:
        UserError: when the file does not read back as it was meant.
    """
    from plyfile import PlyData, PlyElement

    element = PlyElement.describe(rows, "vertex", comments=list(element_comments))
    data = PlyData([element], byte_order="<", comments=list(comments))

    def check(written: Path) -> None:
        found, found_comments = read_rows(written)
        names, found_names = rows.dtype.names or (), found.dtype.names or ()
        if names != found_names:
            raise ValueError(f"has the properties {', '.join(found_names)}, not {', '.join(names)}")
        if found_comments != [*comments, *element_comments]:
            raise ValueError("its comments differ")
        for name in names:
            check_same(name, found[name], rows[name])

    with atomic_path(path, check) as temporary:
        data.write(str(temporary))


def read_rows(path: Path) -> tuple[np.ndarray, list[str]]:
    """Rows `[N]` as `write_rows` takes them, and all comments.

    Raises:
        ValueError: when the file is not exactly of that kind.
    """
    header, end, body = path.read_bytes().partition(_END)
    lines = header.split(b"\n")[:-1]
    if not end or lines[:2] != _START:
        raise ValueError("its header is not that of a binary little-endian PLY file")
    count, names, comments = None, [], []
    for line in lines[2:]:
        kind, *words = line.decode().split(" ", 2)
        if kind == "comment":
            comments.append(" ".join(words))
        elif kind == "element" and words[0] == "vertex" and count is None:
            count = int(words[1])
        elif kind == "property" and words[0] == "float" and count is not None:
            names.append(words[1])
        else:
            raise ValueError(f"its header has the line {line.decode()!r}")
    dtype = np.dtype([(name, "<f4") for name in names])
    if count is None or len(body) != count * dtype.itemsize:
        raise ValueError(f"has {len(body)} bytes of rows; its header says {count} of {dtype.itemsize}")
    return np.frombuffer(body, dtype), comments

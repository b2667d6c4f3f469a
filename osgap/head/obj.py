"""The triangles and UVs of a template OBJ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from osgap.runtime.errors import UserError


@dataclass(frozen=True)
class Template:
    """What a head model takes from its template OBJ."""

    vertex_count: int
    uvs: np.ndarray
    """`[VT, 2]` float32, u to the right, v up."""
    faces: np.ndarray
    """`[F, 3]` int64 corners of the triangles in the vertices."""
    uv_faces: np.ndarray
    """`[F, 3]` int64 corners of the triangles in `uvs`."""


def read_template(path: Path | str) -> Template:
    """Read an OBJ of triangles with UVs (`f v/vt v/vt v/vt`); normals, groups and materials are ignored.

    Raises:
        UserError: naming the file and the line that is not understood, or the index that is out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; the template OBJ of the head model is expected there. Check the path.")
    vertex_count = 0
    uvs: list[tuple[float, float]] = []
    corners: list[list[int]] = []
    number, line = 0, ""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                number += 1
                kind, *words = line.split() or ("",)
                if kind == "v":
                    vertex_count += 1
                elif kind == "vt":
                    uvs.append((float(words[0]), float(words[1])))
                elif kind == "f":
                    corners.append(_triangle(words))
    except (ValueError, IndexError) as error:
        raise UserError(
            f"{path}, line {number}: {line.strip()[:80]!r} is not understood ({error}). The template needs triangles "
            f"with UVs: 'f v/vt v/vt v/vt'. Use an unmodified template."
        ) from error

    indices = np.array(corners, np.int64).reshape(-1, 3, 2) - 1
    template = Template(vertex_count, np.array(uvs, np.float32).reshape(-1, 2), indices[..., 0], indices[..., 1])
    for name, index, count in (("v", template.faces, vertex_count), ("vt", template.uv_faces, len(uvs))):
        if len(index) == 0 or index.max() >= count:
            found = f"refer to {name} {index.max() + 1}" if len(index) else "are absent"
            raise UserError(
                f"{path}: faces {found}, and the file has {count} {name} lines. Use an unmodified template."
            )
    if not np.isfinite(template.uvs).all():
        number = int(np.argwhere(~np.isfinite(template.uvs))[0, 0]) + 1
        raise UserError(f"{path}: vt {number} is not finite. Use an unmodified template.")
    return template


def _triangle(words: list[str]) -> list[int]:
    """`[v, vt] * 3`, counted from 1."""
    if len(words) != 3:
        raise ValueError(f"a face with {len(words)} corners")
    indices = []
    for word in words:
        parts = word.split("/")
        if len(parts) < 2 or not parts[1]:
            raise ValueError("a face without UVs")
        indices += [int(parts[0]), int(parts[1])]
    if min(indices) < 1:
        raise ValueError("indices start at 1")
    return indices

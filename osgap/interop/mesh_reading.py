"""Whether a mesh file holds the mesh that was to be written, found out without the code that wrote it.

OBJ and PLY, which are written here and with plyfile, are read with trimesh; GLB, which trimesh writes, by the rules of
the glTF 2.0 specification (section 4 for the container, 3.6 for buffers and accessors). Meshes are compared corner by
corner, because readers may split and reorder vertices.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from osgap.runtime.reading_back import check_same

_TYPES = {5126: "<f4", 5125: "<u4", 5123: "<u2"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}
_ROUNDING = 1e-6  # of 1 - v, and of normals, which are written in single precision


def check_with_trimesh(path: Path, vertices: np.ndarray, faces: np.ndarray, uv_corners: np.ndarray | None) -> None:
    """Compare an `.obj` or `.ply`.

    Args:
        path: the file.
        vertices: `[V, 3]` float32.
        faces: `[F, 3]` corners in `vertices`.
        uv_corners: `[F, 3, 2]` float32, for a format that has them.

    Raises:
        ValueError: saying what differs; trimesh raises nearly anything for a damaged file.
    """
    import trimesh

    loaded = trimesh.load_mesh(path, process=False)
    check_same("corners", np.asarray(loaded.vertices, np.float32)[loaded.faces], vertices[faces])
    if uv_corners is not None:
        if not isinstance(loaded.visual, trimesh.visual.TextureVisuals):
            raise ValueError("has no texture coordinates")
        check_same("texture coordinates", np.asarray(loaded.visual.uv, np.float32)[loaded.faces], uv_corners)


def check_glb(path: Path, corners: np.ndarray, uv_corners: np.ndarray, normal_corners: np.ndarray) -> None:
    """Compare the one primitive of a `.glb`.

    Args:
        path: the file.
        corners: `[F, 3, 3]` float32 positions.
        uv_corners: `[F, 3, 2]`, v up.
        normal_corners: `[F, 3, 3]`.

    Raises:
        ValueError: saying what differs; a damaged file raises nearly anything.
    """
    tree, binary = _chunks(path.read_bytes())
    primitive = tree["meshes"][0]["primitives"][0]
    indices = _accessor(tree, binary, primitive["indices"]).reshape(-1, 3)
    position, uv, normal = (
        _accessor(tree, binary, primitive["attributes"][name])[indices] for name in ("POSITION", "TEXCOORD_0", "NORMAL")
    )
    check_same("corners", position, corners)
    for name, found, meant in (
        ("texture coordinates", uv, uv_corners * [1, -1] + [0, 1]),
        ("normals", normal, normal_corners),
    ):
        if not np.allclose(found, meant, rtol=_ROUNDING, atol=_ROUNDING):
            raise ValueError(f"{name} differ by up to {np.abs(found - meant).max():.3g}")


def _chunks(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON and the binary chunk."""
    magic, version, length = struct.unpack_from("<4sII", data)
    if (magic, version, length) != (b"glTF", 2, len(data)):
        raise ValueError(f"begins with {magic!r}, version {version}, for {length} bytes, and has {len(data)}")
    chunks, position = {}, 12
    while position < length:
        size, kind = struct.unpack_from("<I4s", data, position)
        chunks[kind] = data[position + 8 : position + 8 + size]
        position += 8 + size
    return json.loads(chunks[b"JSON"]), chunks[b"BIN\0"]


def _accessor(tree: dict[str, Any], binary: bytes, index: int) -> np.ndarray:
    """`[N, width]`, or `[N]` of scalars."""
    accessor = tree["accessors"][index]
    view = tree["bufferViews"][accessor["bufferView"]]
    width = _WIDTHS[accessor["type"]]
    offset = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    array = np.frombuffer(binary, _TYPES[accessor["componentType"]], width * accessor["count"], offset)
    return array.reshape(-1, width) if width > 1 else array

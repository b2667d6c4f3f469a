"""The posed head mesh as modelling programs open it: OBJ, PLY and binary glTF (GLB).

OBJ keeps the UV layout as it is (a vertex may have several UVs, one per corner); PLY has vertices and triangles only;
glTF knows one UV per vertex, so vertices are split where the layout is cut, and its v runs downwards (glTF 2.0
specification, section 3.6.2.4 for accessors, 3.8.3 for texture coordinates, 4 for GLB). Coordinates are metres and
come back bit for bit from all three; `osgap.interop.mesh_reading` makes sure of it before a file takes its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.triangles import vertex_normals
from osgap.interop.axes import DESCRIPTIONS, Up, turn_points
from osgap.interop.mesh_reading import check_glb, check_with_trimesh
from osgap.runtime.artifacts import atomic_path, ply_comments

Provenance = Mapping[str, Any] | None


@dataclass(frozen=True)
class Mesh:
    """A textured triangle mesh, in the axes that it is to be written in."""

    vertices: np.ndarray
    """`[V, 3]` float32 metres."""
    faces: np.ndarray
    """`[F, 3]` int64 corners in `vertices`, counter-clockwise from outside."""
    uvs: np.ndarray
    """`[VT, 2]` float32, u to the right, v up."""
    uv_faces: np.ndarray
    """`[F, 3]` int64 corners in `uvs`."""
    about: str
    """Axes and unit, for people who open the file."""


@torch.no_grad()
def posed_mesh(head: HeadModel, params: FlameParams, timestep: int, up: Up = "y") -> Mesh:
    """The head at one timestep.

    Args:
        head: the head model.
        params: the person and the motion.
        timestep: which of its timesteps.
        up: the axis of the file that points up. Files of splats with the same one coincide with the mesh.
    """
    vertices = turn_points(head.vertices(params, [timestep])[0], up)
    return Mesh(_array(vertices), _array(head.faces), _array(head.uvs), _array(head.uv_faces), DESCRIPTIONS[up])


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def save_obj(path: Path | str, mesh: Mesh, provenance: Provenance = None) -> None:
    """Write `v`, `vt` and `f v/vt` lines; nine digits, which is what float32 takes to come back as it was."""
    # Line by line, because some readers have a short buffer for a line.
    about = [mesh.about, *(json.dumps(provenance, indent=1, sort_keys=True).splitlines() if provenance else ())]
    lines = [f"# {line}" for line in about]
    lines += ["v {:.9g} {:.9g} {:.9g}".format(*vertex) for vertex in mesh.vertices.tolist()]
    lines += ["vt {:.9g} {:.9g}".format(*uv) for uv in mesh.uvs.tolist()]
    corners = np.stack((mesh.faces, mesh.uv_faces), axis=-1).reshape(-1, 6) + 1
    lines += ["f {}/{} {}/{} {}/{}".format(*face) for face in corners.tolist()]
    uv_corners = mesh.uvs[mesh.uv_faces]
    with atomic_path(path, lambda file: check_with_trimesh(file, mesh.vertices, mesh.faces, uv_corners)) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def save_mesh_ply(path: Path | str, mesh: Mesh, provenance: Provenance = None) -> None:
    """Write binary little-endian float32 vertices and `vertex_indices` lists of int32; the format has no UVs."""
    from plyfile import PlyData, PlyElement

    rows = np.zeros(len(mesh.vertices), dtype=[(name, "<f4") for name in "xyz"])
    for name, column in zip("xyz", mesh.vertices.T, strict=True):
        rows[name] = column
    triangles = np.zeros(len(mesh.faces), dtype=[("vertex_indices", "<i4", (3,))])
    triangles["vertex_indices"] = mesh.faces
    comments = [mesh.about] + (ply_comments(provenance) if provenance else [])
    elements = [PlyElement.describe(rows, "vertex"), PlyElement.describe(triangles, "face")]
    with atomic_path(path, lambda file: check_with_trimesh(file, mesh.vertices, mesh.faces, None)) as temporary:
        PlyData(elements, byte_order="<", comments=comments).write(str(temporary))


def save_glb(path: Path | str, mesh: Mesh, provenance: Provenance = None) -> None:
    """Write one mesh with normals and UVs, and no texture; provenance goes into the scene's `extras`."""
    import trimesh

    pairs = np.stack((mesh.faces.ravel(), mesh.uv_faces.ravel()), axis=-1)
    (vertex, uv), corners = (part.T for part in np.unique(pairs, axis=0, return_inverse=True))
    normals = vertex_normals(mesh.vertices, mesh.faces)
    surface = trimesh.visual.material.PBRMaterial(metallicFactor=0.0, roughnessFactor=0.8, doubleSided=True)
    split = trimesh.Trimesh(
        vertices=mesh.vertices[vertex],
        faces=corners.reshape(-1, 3),
        vertex_normals=normals[vertex],
        visual=trimesh.visual.TextureVisuals(uv=mesh.uvs[uv], material=surface),  # trimesh turns v downwards
        process=False,
    )
    scene = trimesh.Scene()
    scene.add_geometry(split, node_name="head", geom_name="head")
    scene.metadata |= {"about": mesh.about} | ({"provenance": dict(provenance)} if provenance else {})
    meant = (mesh.vertices[mesh.faces], mesh.uvs[mesh.uv_faces], normals[mesh.faces])
    with atomic_path(path, lambda file: check_glb(file, *meant)) as temporary:
        temporary.write_bytes(scene.export(file_type="glb", include_normals=True))


SAVERS: Mapping[str, Callable[[Path | str, Mesh, Provenance], None]] = {
    ".obj": save_obj,
    ".ply": save_mesh_ply,
    ".glb": save_glb,
}
"""Suffix -> writer."""

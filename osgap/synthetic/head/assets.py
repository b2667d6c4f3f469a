"""The synthetic head as a model in FLAME's conventions, and its three files.

Joints: root, neck, jaw, left eye, right eye. Metres, y up, the face looks along +z, x to the person's left; the origin
lies in the middle of the head, between the ears. See `osgap.head` for the formulas that use these arrays.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import spsolve

from osgap.runtime.artifacts import atomic_path, obj_comment, write_text
from osgap.synthetic.head import sculpt
from osgap.synthetic.head.mesh import HeadMesh, build_mesh
from osgap.synthetic.head.sculpt import smoothstep
from osgap.synthetic.head.shape_basis import (
    EXPRESSION_NAMES,
    FULL,
    IDENTITY_LID_NAMES,
    IDENTITY_NAMES,
    Anatomy,
    expression_basis,
    identity_basis,
    pose_basis,
)

__all__ = ["EXPRESSIONS", "FULL", "IDENTITIES", "SyntheticHead", "build_head", "write_assets"]

Array = np.ndarray

IDENTITIES: dict[str, int] = {name: k for k, name in enumerate(IDENTITY_NAMES + IDENTITY_LID_NAMES)}
"""Index of every named identity direction."""
EXPRESSIONS: dict[str, int] = {name: k for k, name in enumerate(EXPRESSION_NAMES)}
"""Index of every named expression; at full strength at a coefficient of `FULL`."""

PARENTS = (-1, 0, 1, 1, 1)
_MM = 1e-3


@dataclass(frozen=True)
class SyntheticHead:
    """FLAME's arrays for the synthetic topology. V vertices, F triangles, lengths in metres."""

    v_template: Array
    """`[V, 3]` float64."""
    shapedirs: Array
    """`[V, 3, 400]` float32: 300 identity, then 100 expression directions."""
    posedirs: Array
    """`[V, 3, 36]` float64."""
    joint_regressor: Array
    """`[5, V]` float64, rows sum to 1."""
    skinning_weights: Array
    """`[V, 5]` float64, rows sum to 1."""
    faces: Array
    """`[F, 3]` int64."""
    uvs: Array
    """`[VT, 2]` float64, u right, v up, six decimals."""
    uv_faces: Array
    """`[F, 3]` int64."""
    masks: dict[str, Array]
    """Vertex ids by FLAME's region names."""
    mesh: HeadMesh
    """Where everything is: parts, rims, mirror images (its positions are millimetres)."""

    def neutral(self, shape: Array) -> Array:
        """Vertices `[V, 3]` float32 in the rest pose for identity coefficients `[300]`."""
        return (self.v_template + np.einsum("vxk,k->vx", self.shapedirs[..., :300], shape)).astype(np.float32)


@functools.cache
def build_head() -> SyntheticHead:
    """Build the head; the same on every call and machine up to the last bits of floating point."""
    mesh = build_mesh()
    skinning = _skinning(mesh)
    anatomy = Anatomy(mesh, mesh.vertices, _lower_side(mesh), _eye_membership(mesh))
    shapedirs = np.concatenate([identity_basis(anatomy), expression_basis(anatomy)]).transpose(1, 2, 0)
    return SyntheticHead(
        v_template=np.round(mesh.vertices * _MM, 7),
        shapedirs=np.ascontiguousarray(shapedirs * _MM, dtype=np.float32),
        posedirs=pose_basis(anatomy).transpose(1, 2, 0) * _MM,
        joint_regressor=_joint_regressor(mesh),
        skinning_weights=skinning,
        faces=mesh.faces.astype(np.int64),
        uvs=np.round(mesh.uvs, 6),
        uv_faces=mesh.uv_faces.astype(np.int64),
        masks=_masks(mesh),
        mesh=mesh,
    )


def _eye_membership(mesh: HeadMesh) -> Array:
    eyes = np.zeros(len(mesh.vertices))
    for sign, name in ((1, "left"), (-1, "right")):
        eyes[mesh.parts[f"eyeball_{name}"]] = sign
        eyes[mesh.parts[f"eye_pocket_{name}"]] = sign
    return eyes


def _diffuse(mesh: HeadMesh, ids: Array, target: Array, trust: Array, smoothing: float) -> Array:
    """Values [V] that follow `target` where `trust` is high and vary smoothly along the mesh elsewhere.

    Minimises sum trust (w - target)^2 + smoothing * sum over edges (difference)^2 on the vertices `ids`.
    """
    n = len(mesh.vertices)
    local = np.full(n, -1)
    local[ids] = np.arange(len(ids))
    f = local[mesh.faces]
    f = f[(f >= 0).all(1)]
    rows = np.concatenate([f[:, 0], f[:, 1], f[:, 2], f[:, 1], f[:, 2], f[:, 0]])
    cols = np.concatenate([f[:, 1], f[:, 2], f[:, 0], f[:, 0], f[:, 1], f[:, 2]])
    adjacency = sp.csr_matrix((np.ones(len(rows)), (rows, cols)), shape=(len(ids), len(ids)))
    adjacency.data[:] = 1.0
    laplacian = sp.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency
    trust = trust[ids] + 1e-6
    solution = spsolve((sp.diags(trust) + smoothing * laplacian).tocsc(), trust * target[ids])
    result = np.zeros(n)
    result[ids] = np.clip(solution, 0, 1)
    return result


def _lower_side(mesh: HeadMesh) -> Array:
    """1 below the mouth's cut, 0 above it, passing smoothly round its corners."""
    p = mesh.vertices
    ids = np.concatenate([mesh.parts["skin"], mesh.parts["mouth_pocket"]])
    height = p[:, 1] - sculpt.mouth_line(np.minimum(np.abs(p[:, 0]), sculpt.MOUTH_HALF_WIDTH))
    target = (height < 0).astype(float)
    trust = smoothstep(14, 30, np.abs(height))
    for edge, value in (("upper", 0.0), ("lower", 1.0)):
        rim = mesh.rims[f"mouth_{edge}"]
        target[rim] = value
        trust[rim] = smoothstep(1.0, 0.45, np.abs(p[rim, 0]) / sculpt.MOUTH_HALF_WIDTH)
    pocket = mesh.parts["mouth_pocket"].reshape(10, -1)
    for k, row in enumerate(pocket):
        target[row] = float(k > 4)
        trust[row] = 0.4 * smoothstep(1.0, 0.4, np.abs(p[row, 0]) / sculpt.MOUTH_HALF_WIDTH)
    lower = _diffuse(mesh, ids, target, trust, 1.5)
    lower[mesh.parts["teeth_lower"]] = 1.0
    return lower


def _skinning(mesh: HeadMesh) -> Array:
    """[V, 5] weights: the neck bends along its length, the jaw carries lower lip, chin and lower teeth."""
    p = mesh.vertices
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    skin = np.concatenate([mesh.parts["skin"], mesh.parts["mouth_pocket"]])
    # Height above the line from the mouth's corner to the joint of the jaw.
    corner = np.array([-42.0, 30.0])
    joint = sculpt.JAW_JOINT[1:]
    slope = (joint[0] - corner[0]) / (joint[1] - corner[1])
    height = y - (corner[0] + slope * (z - corner[1]))
    beside = smoothstep(18, 32, x)
    still = smoothstep(4, 24, height) * beside + smoothstep(2, 12, y + 41) * (1 - beside)
    still = np.maximum(still, smoothstep(-4, -26, z - 0.35 * (y + 85) - 10 * (y > -60)) * (x > 0))
    still = np.maximum(still, smoothstep(-92, -104, y))
    mandible = np.minimum(
        sculpt.cone(np.stack([x, y, z], -1), (46, -42, -24), (13, -70, 30), 14, 16),
        sculpt.cone(np.stack([x, y, z], -1), (0, -68, 36), (0, -62, 44), 22, 18),
    )
    moving = smoothstep(10, 2, mandible) * smoothstep(-6, -22, height) * smoothstep(-50, -58, y)
    moving = np.maximum(moving, smoothstep(8, 0, mandible) * smoothstep(-12, -26, height))
    target = (moving > still).astype(float)
    trust = np.maximum(still, moving)
    for edge, value in (("upper", 0.0), ("lower", 1.0)):
        rim = mesh.rims[f"mouth_{edge}"]
        s = np.abs(p[rim, 0]) / sculpt.MOUTH_HALF_WIDTH
        target[rim] = value
        trust[rim] = 3 * smoothstep(0.98, 0.5, s)
    pocket = mesh.parts["mouth_pocket"].reshape(10, -1)
    for k, row in enumerate(pocket):
        target[row] = float(k > 4)
        trust[row] = smoothstep(1.0, 0.4, np.abs(p[row, 0]) / sculpt.MOUTH_HALF_WIDTH)
    jaw = _diffuse(mesh, skin, target, trust * 0.3, 1.5)
    jaw[mesh.parts["teeth_lower"]] = 1.0
    head = smoothstep(-138, -82, y + 0.25 * (z + 60))
    weights = np.zeros((len(p), 5))
    weights[:, 2] = jaw
    weights[:, 1] = head * (1 - jaw)
    weights[:, 0] = (1 - head) * (1 - jaw)
    for joint_index, name in ((3, "left"), (4, "right")):
        weights[mesh.parts[f"eyeball_{name}"]] = np.eye(5)[joint_index]
    weights[weights < 1e-4] = 0.0
    return weights / weights.sum(1, keepdims=True)


def _joint_regressor(mesh: HeadMesh) -> Array:
    """[5, V] rows that sum to 1 and reproduce the joints on the average head, from the vertices around each."""
    p = mesh.vertices
    skin = np.zeros(len(p), bool)
    skin[mesh.parts["skin"]] = True
    regressor = np.zeros((5, len(p)))
    near = {
        0: (sculpt.ROOT_JOINT, skin & (np.abs(p[:, 1] + 112) < 14)),
        1: (sculpt.NECK_JOINT, skin & (np.abs(p[:, 1] + 50) < 16) & (p[:, 2] < 0)),
        2: (
            sculpt.JAW_JOINT,
            skin
            & (np.linalg.norm(np.abs(p * [1, 0, 0])[:, :1] - 66, axis=1) < 12)
            & (np.linalg.norm(p[:, 1:] - sculpt.JAW_JOINT[1:], axis=1) < 22),
        ),
    }
    for k, (name, sign) in enumerate((("left", 1), ("right", -1)), start=3):
        ball = np.zeros(len(p), bool)
        ball[mesh.parts[f"eyeball_{name}"]] = True
        near[k] = (sculpt.EYE_CENTER * [sign, 1, 1], ball)
    for k, (joint, chosen) in near.items():
        ids = np.flatnonzero(chosen)
        system = np.concatenate([p[ids].T - joint[:, None], np.ones((1, len(ids)))])
        regressor[k, ids] = np.linalg.lstsq(system, np.array([0, 0, 0, 1.0]), rcond=None)[0]
    return regressor


def _masks(mesh: HeadMesh) -> dict[str, Array]:
    """FLAME's regions. As in FLAME, regions overlap, and `face` holds those that lie in front."""
    p = mesh.vertices
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    member = {name: np.isin(np.arange(len(p)), ids) for name, ids in mesh.parts.items()}
    skin = member["skin"]
    pockets = {s: member[f"eye_pocket_{s}"] for s in ("left", "right")}
    rows_up = sculpt.upper_lip_border(p[:, 0])
    rows_down = sculpt.lower_lip_border(p[:, 0])
    lips = skin & (x < sculpt.MOUTH_HALF_WIDTH + 1) & (y < rows_up + 0.8) & (y > rows_down - 0.8) & (z > 20)
    near_eye = np.linalg.norm((np.stack([x, y, z], -1) - sculpt.EYE_CENTER) / [23, 16, 26], axis=1) < 1
    hairline = 84 - 0.0075 * x**2
    front = skin & (z > -34) & (y > -92) & (y < hairline)
    scalp = skin & (y > -38) & ~front
    boundary = np.zeros(len(p), bool)
    collar = y[mesh.collar].max()
    boundary |= skin & (y < np.interp(z, [-130, 0], [-128, -134])) & (y <= max(collar, -120))
    nose = skin & (x < np.interp(y, [-24, -8, 22, 34], [20, 19, 10, 7])) & (y > -24) & (y < 36) & (z > 36)
    neck = skin & ~scalp & ~(front & (z > -28) & (y > -88))
    forehead = skin & front & (y > 52)
    result = {
        "face": front & ~(z < -25),
        "neck": neck,
        "scalp": scalp,
        "boundary": boundary,
        "right_eyeball": member["eyeball_right"],
        "left_eyeball": member["eyeball_left"],
        "right_ear": member["ear_right"],
        "left_ear": member["ear_left"],
        "forehead": forehead,
        "eye_region": (front & near_eye) | pockets["left"] | pockets["right"],
        "nose": nose,
        "lips": lips | member["mouth_pocket"],
        "right_eye_region": (front & near_eye & (p[:, 0] < 0)) | pockets["right"],
        "left_eye_region": (front & near_eye & (p[:, 0] > 0)) | pockets["left"],
        "teeth": member["teeth_upper"] | member["teeth_lower"],
    }
    return {name: np.flatnonzero(inside) for name, inside in result.items()}


def write_assets(folder: Path, provenance: Mapping[str, Any] | None = None) -> None:
    """Write `flame2023.pkl`, `FLAME_masks.pkl` and `head_template_mesh.obj`; equal bytes on every call.

    Args:
        provenance: goes into a comment of the OBJ; FLAME's pickles have no place for it.
    """
    head = build_head()
    parents = np.array([2**32 - 1, *PARENTS[1:]], dtype=np.int64)
    model = {
        "v_template": head.v_template,
        "f": head.faces.astype(np.uint32),
        "shapedirs": head.shapedirs,
        "posedirs": head.posedirs,
        "J_regressor": sp.csc_matrix(head.joint_regressor),
        "kintree_table": np.stack([parents, np.arange(5)]),
        "weights": head.skinning_weights,
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }
    for name, content in (("flame2023.pkl", model), ("FLAME_masks.pkl", head.masks)):
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(pickle.dumps(content, protocol=4))
    lines = [] if provenance is None else [obj_comment(provenance)]
    lines += ["v {:.7f} {:.7f} {:.7f}".format(*v) for v in head.v_template.tolist()]
    lines += ["vt {:.6f} {:.6f}".format(*t) for t in head.uvs.tolist()]
    corners = np.stack([head.faces, head.uv_faces], -1).reshape(-1, 6) + 1
    lines += ["f {}/{} {}/{} {}/{}".format(*c) for c in corners.tolist()]
    write_text(folder / "head_template_mesh.obj", "\n".join(lines) + "\n")

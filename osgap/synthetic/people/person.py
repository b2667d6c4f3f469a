"""Random people: how the head model becomes somebody, with skin, eyes, hair, brows and a shirt.

Hair of the head and the shirt are carried by the skull and by the shoulders; hair of the face follows the skin. None
of them is part of the head model.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.spatial import cKDTree

from osgap.synthetic.config import SyntheticConfig
from osgap.synthetic.head import sculpt
from osgap.synthetic.head.assets import SyntheticHead, build_head
from osgap.synthetic.head.sculpt import smoothstep
from osgap.synthetic.people.appearance import Appearance, random_appearance
from osgap.synthetic.people.clothes import make_collar
from osgap.synthetic.people.facial_hair import Rooted, beard, brows, lashes
from osgap.synthetic.people.hair import make_hair
from osgap.synthetic.people.ribbons import Piece, unit
from osgap.synthetic.people.scene import Scene
from osgap.synthetic.people.texture import paint

Array = np.ndarray


@dataclass(frozen=True)
class Bound:
    """n vertices that follow the skin: each has a triangle, a place in it, and an offset in the triangle's frame."""

    triangles: Array
    """[n, 3] vertex ids of the head model."""
    weights: Array
    """[n, 3] barycentric."""
    offsets: Array
    """[n, 3] metres, in the triangle's frame."""
    normals: Array
    """[n, 3] unit, in the triangle's frame."""


@dataclass(frozen=True)
class Carried:
    """n vertices that move with the skull or stand still with the shoulders, or between both."""

    vertices: Array
    """[n, 3] metres, rest pose."""
    normals: Array
    """[n, 3]."""
    skull: Array
    """[n] 1 with the skull, 0 with the shoulders."""


@dataclass(frozen=True)
class Person:
    """A person. Everything but the posed head is fixed; `scene` puts it together for one instant.

    A scene's V vertices and F faces are those of the head model, then what is bound to the skin, then what is carried.
    """

    appearance: Appearance
    neutral: Array
    """[Vh, 3] float32, metres: the head model at rest with this person's identity."""
    bound: Bound
    carried: Carried
    faces: Array
    """[F, 3] int32."""
    colors: Array
    """[V, 3] float32, linear; the head's are not used, it is textured."""
    specular: Array
    """[V] float32."""
    gloss: Array
    """[V] float32."""
    uvs: Array
    """[F, 3, 2] float32."""
    textured: Array
    """[F] bool."""
    texture: Array
    """[S, S, 3] uint8 sRGB, in the head model's UV coordinates."""

    @property
    def shape(self) -> Array:
        """Identity coefficients of the head model, [300] float32."""
        return self.appearance.shape

    def scene(self, vertices: Array) -> Scene:
        """What there is to be seen when the head model is at `vertices` [Vh, 3], metres, in the world.

        Raises:
            ValueError: not as many vertices as the head model has.
        """
        vertices = np.asarray(vertices, dtype=np.float32)
        if vertices.shape != self.neutral.shape:
            raise ValueError(f"the synthetic head has vertices of shape {self.neutral.shape}, got {vertices.shape}")
        anatomy = _anatomy()
        bound, bound_normals = _follow(self.bound, vertices)
        skull, shoulders = (_rigid(self.neutral[ids], vertices[ids]) for ids in (anatomy.skull, anatomy.shoulders))
        carried, carried_normals = _carry(self.carried, skull, shoulders)
        return Scene(
            vertices=np.concatenate([vertices, bound, carried]).astype(np.float32),
            faces=self.faces,
            normals=np.concatenate([anatomy.normals(vertices), bound_normals, carried_normals]).astype(np.float32),
            colors=self.colors,
            specular=self.specular,
            gloss=self.gloss,
            uvs=self.uvs,
            textured=self.textured,
            texture=self.texture,
        )


def make_person(seed: int, config: SyntheticConfig) -> Person:
    """Somebody, decided by `seed` alone: the same person in whatever pictures `config` asks for."""
    del config
    random = np.random.default_rng(seed)
    appearance = random_appearance(random)
    texture = paint(appearance.complexion, random)
    rooted = [brows(appearance.complexion, random), lashes(appearance.complexion, random, appearance.lash_length)]
    if appearance.complexion.stubble > 0.75:
        rooted.append(beard(appearance.complexion, random))
    hair = make_hair(appearance.hair_style, appearance.hair, random)
    return _assemble(appearance, texture, rooted, hair, make_collar(appearance.shirt, random))


# ------------------------------------------------------------------------------------------------ putting together
def _assemble(appearance: Appearance, texture: Array, rooted: list[Rooted], hair: list[Piece], collar: Piece) -> Person:
    head = build_head()
    neutral = head.neutral(appearance.shape)
    moved = [*hair, collar]
    # Long hair lies on the shoulders: it goes less and less with the skull the lower it is.
    skull = [smoothstep(-135, -60, piece.vertices[:, 1]) for piece in hair] + [np.zeros(len(collar.vertices))]
    carried = Carried(
        np.concatenate([_to_person(piece.vertices, head, neutral) for piece in moved]).astype(np.float32),
        np.concatenate([piece.normals for piece in moved]).astype(np.float32),
        np.concatenate(skull).astype(np.float32),
    )
    pieces = [part.piece for part in rooted] + moved
    start = np.cumsum([len(neutral)] + [len(piece.vertices) for piece in pieces])
    faces = np.concatenate([head.faces] + [piece.faces + s for piece, s in zip(pieces, start[:-1], strict=True)])
    specular, gloss = _shine(head)
    uvs = np.zeros((len(faces), 3, 2), np.float32)
    uvs[: len(head.faces)] = head.uvs[head.uv_faces]
    sizes = [len(piece.vertices) for piece in pieces]
    return Person(
        appearance=appearance,
        neutral=neutral,
        bound=_bind(rooted, head),
        carried=carried,
        faces=faces.astype(np.int32),
        colors=np.concatenate([np.zeros_like(neutral)] + [piece.colors for piece in pieces]).astype(np.float32),
        specular=np.concatenate([specular, np.repeat([p.specular for p in pieces], sizes)]).astype(np.float32),
        gloss=np.concatenate([gloss, np.repeat([p.gloss for p in pieces], sizes)]).astype(np.float32),
        uvs=uvs,
        textured=np.arange(len(faces)) < len(head.faces),
        texture=texture,
    )


def _to_person(points: Array, head: SyntheticHead, neutral: Array) -> Array:
    """Carry points [n, 3] mm of the average head over to a person's (metres), with the skin nearest to them."""
    skin = head.mesh.parts["skin"]
    shift = neutral[skin] - head.v_template[skin]
    distance, index = cKDTree(head.mesh.vertices[skin]).query(points, k=12)
    weight = 1 / (distance + 6.0) ** 2
    weight /= weight.sum(1, keepdims=True)
    return points * 1e-3 + np.einsum("nk,nkd->nd", weight, shift[index])


def _bind(rooted: list[Rooted], head: SyntheticHead) -> Bound:
    triangles = head.faces[np.concatenate([part.faces for part in rooted])]
    weights = np.concatenate([part.weights for part in rooted])
    rest = head.mesh.vertices
    offset = np.concatenate([part.piece.vertices for part in rooted])
    offset = offset - np.einsum("nc,ncd->nd", weights, rest[triangles])
    normals = np.concatenate([part.piece.normals for part in rooted])
    frames = _frames(rest, triangles)
    offset, normals = (np.einsum("nji,nj->ni", frames, v).astype(np.float32) for v in (offset * 1e-3, normals))
    return Bound(triangles, weights.astype(np.float32), offset, normals)


def _shine(head: SyntheticHead) -> tuple[Array, Array]:
    """Specular strength and gloss [Vh] of the head model."""
    p = head.mesh.vertices
    specular, gloss = np.full(len(p), 0.28), np.full(len(p), 18.0)
    lips = (np.abs(p[:, 0]) < sculpt.MOUTH_HALF_WIDTH) & (np.abs(p[:, 1] + 41) < 9) & (p[:, 2] > 30)
    specular[lips], gloss[lips] = 0.4, 35.0
    for name, ids in head.mesh.parts.items():
        if name.startswith("eyeball"):
            specular[ids], gloss[ids] = 1.0, 300.0
        elif name.startswith("teeth"):
            specular[ids], gloss[ids] = 0.5, 60.0
        elif "pocket" in name:
            specular[ids] = 0.05
    return specular, gloss


# ------------------------------------------------------------------------------------------------ moving along
@dataclass(frozen=True)
class _Anatomy:
    """What all people share of the head model."""

    faces: Array
    gather: sp.csr_matrix
    """[Vh, Fh], 1 where a vertex is a corner of a face."""
    skull: Array
    """Vertex ids that the neck joint alone moves."""
    shoulders: Array
    """Vertex ids that the root joint alone moves."""

    def normals(self, vertices: Array) -> Array:
        """Smooth normals [Vh, 3], weighted by area."""
        a, b, c = (vertices[self.faces[:, k]] for k in range(3))
        return unit(self.gather @ np.cross(b - a, c - a))


@functools.cache
def _anatomy() -> _Anatomy:
    head = build_head()
    corners, count = head.faces.T.ravel(), len(head.faces)
    shape = (len(head.v_template), count)
    gather = sp.csr_matrix((np.ones(3 * count, np.float32), (corners, np.tile(np.arange(count), 3))), shape=shape)
    y = head.mesh.vertices[:, 1]
    skin = np.zeros(len(y), bool)
    skin[head.mesh.parts["skin"]] = True
    weights = head.skinning_weights
    skull = np.flatnonzero(skin & (y > 60) & (weights[:, 1] > 0.999))
    return _Anatomy(head.faces, gather, skull, np.flatnonzero(skin & (weights[:, 0] > 0.98)))


def _rigid(rest: Array, posed: Array) -> tuple[Array, Array]:
    """Rotation [3, 3] and translation [3] that carry `rest` [n, 3] to `posed` best (Kabsch 1976)."""
    center, target = rest.mean(0, dtype=np.float64), posed.mean(0, dtype=np.float64)
    u, _, vt = np.linalg.svd((rest - center).T @ (posed - target))
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))])
    rotation = vt.T @ flip @ u.T
    return rotation, target - rotation @ center


def _carry(piece: Carried, skull: tuple[Array, Array], shoulders: tuple[Array, Array]) -> tuple[Array, Array]:
    """Posed vertices and normals [n, 3]; `skull` and `shoulders` are rotation and translation."""
    share = piece.skull[:, None]
    points = share * (piece.vertices @ skull[0].T + skull[1])
    points += (1 - share) * (piece.vertices @ shoulders[0].T + shoulders[1])
    return points, unit(piece.normals @ skull[0].T * share + piece.normals @ shoulders[0].T * (1 - share))


def _follow(piece: Bound, vertices: Array) -> tuple[Array, Array]:
    """Posed vertices and normals [n, 3]."""
    frames = _frames(vertices, piece.triangles)
    points = np.einsum("nc,ncd->nd", piece.weights, vertices[piece.triangles])
    return points + np.einsum("nij,nj->ni", frames, piece.offsets), np.einsum("nij,nj->ni", frames, piece.normals)


def _frames(vertices: Array, triangles: Array) -> Array:
    """Orthonormal frames [n, 3, 3] of triangles [n, 3]; columns: first edge, in the plane, normal."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    first = unit(b - a)
    normal = unit(np.cross(first, c - a))
    return np.stack([first, np.cross(normal, first), normal], axis=-1)

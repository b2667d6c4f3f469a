"""Directions in which the synthetic head varies: 300 of identity, 100 of expression, 36 of pose.

The leading directions are displacement fields written down one by one; the others are smooth random fields of
decreasing size. A coefficient of 1 is one standard deviation of a plausible population. A named expression is at full
strength at a coefficient of 2 (`FULL`): lids closed, a broad smile. All lengths here are millimetres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from osgap.runtime.seeds import derive_seed
from osgap.synthetic.head import sculpt
from osgap.synthetic.head.mesh import HeadMesh
from osgap.synthetic.head.sculpt import smoothstep

Array = np.ndarray

IDENTITIES, EXPRESSIONS = 300, 100
FULL = 2.0
"""Coefficient at which a named expression is at full strength."""


@dataclass(frozen=True)
class Anatomy:
    """The head's rest vertices with what the fields need to know of each."""

    mesh: HeadMesh
    points: Array
    """[V, 3] rest positions."""
    lower: Array
    """[V] 1 on the lower lip's side of the mouth, 0 on the upper's, smooth in between round the corners."""
    eyes: Array
    """[V] 1 on the person's left eyeball and its pocket, -1 on the right ones, 0 elsewhere."""

    @property
    def x(self) -> Array:
        """`[V]` how far to the person's left each point is."""
        return self.points[:, 0]

    def bump(self, center: tuple[float, float, float], radius: float | tuple[float, float, float]) -> Array:
        """Gaussian [V] around `center` and its mirror image (x is taken as |x|)."""
        q = (np.abs(self.points * [1, 0, 0]) + self.points * [0, 1, 1] - center) / np.asarray(radius)
        return np.exp(-(q**2).sum(-1))

    def one(self, center: tuple[float, float, float], radius: float | tuple[float, float, float]) -> Array:
        """Gaussian [V] around `center` only."""
        return np.exp(-(((self.points - center) / np.asarray(radius)) ** 2).sum(-1))

    @property
    def sign(self) -> Array:
        """-1 on the right, 1 on the left, 0 on the midline, smooth over a few millimetres."""
        return np.tanh(self.x / 4.0)


Field = Callable[[Anatomy], Array]


def _along(weight: Array, direction: tuple[float, float, float]) -> Array:
    return weight[:, None] * np.asarray(direction, dtype=float)


def _sideways(a: Anatomy, weight: Array, amount: float) -> Array:
    """Outwards on both sides."""
    return _along(weight * a.sign * amount, (1, 0, 0))


def _scale_from(
    a: Anatomy, center: tuple[float, float, float], weight: Array, amount: tuple[float, float, float]
) -> Array:
    """Stretch about `center` (mirrored), by `amount` per millimetre of distance."""
    c = np.where(a.x[:, None] < 0, np.array(center) * [-1, 1, 1], center)
    return weight[:, None] * (a.points - c) * amount


# ---------------------------------------------------------------------------------------------------------------
# Identity
# ---------------------------------------------------------------------------------------------------------------


def _head_mask(a: Anatomy) -> Array:
    return smoothstep(-120, -70, a.points[:, 1])


_NOSE_TIP = (0.0, -11.0, 62.0)
_CHIN = (0.0, -72.0, 42.0)

IDENTITY_FIELDS: dict[str, Field] = {
    "head_width": lambda a: _along(_head_mask(a) * a.x * 0.03, (1, 0, 0)),
    "head_height": lambda a: _along(smoothstep(30, 140, a.points[:, 1]) * 4.0, (0, 1, 0)),
    "face_length": lambda a: _along(
        smoothstep(20, -85, a.points[:, 1]) * smoothstep(-60, 10, a.points[:, 2]) * -4.0, (0, 1, 0)
    ),
    "head_depth": lambda a: _along(_head_mask(a) * smoothstep(-20, -140, a.points[:, 2]) * -4.0, (0, 0, 1)),
    "jaw_width": lambda a: _sideways(a, a.bump((48, -45, -20), (30, 30, 40)), 3.3),
    "chin_forward": lambda a: _along(a.bump(_CHIN, (30, 24, 30)), (0, 0, 3.2)),
    "chin_width": lambda a: _sideways(a, a.bump((14, -72, 38), (18, 18, 26)), 2.8),
    "chin_height": lambda a: _along(a.bump((0, -82, 36), (34, 22, 34)), (0, -3.4, 0)),
    "nose_length": lambda a: _along(a.bump((0, -12, 58), (17, 17, 22)), (0, -2.6, 0)),
    "nose_width": lambda a: _sideways(a, a.bump((12, -15, 50), (12, 13, 18)), 2.3),
    "nose_out": lambda a: _along(a.bump(_NOSE_TIP, (15, 18, 26)), (0, 0, 3.0)),
    "nose_bridge": lambda a: _along(a.bump((0, 12, 50), (10, 18, 22)), (0, 0, 2.6)),
    "nose_tip_up": lambda a: _along(a.bump(_NOSE_TIP, (12, 12, 14)), (0, 2.4, 0)),
    "nose_bridge_width": lambda a: _sideways(a, a.bump((8, 10, 46), (9, 20, 16)), 1.5),
    "brow_ridge": lambda a: _along(a.bump((26, 42, 34), (24, 10, 22)), (0, -0.4, 2.2)),
    "forehead_slope": lambda a: _along(a.bump((0, 85, 30), (60, 34, 45)), (0, 0, 3.4)),
    "cheek_bones": lambda a: (
        _sideways(a, a.bump((54, 2, 8), (22, 18, 26)), 3.2) + _along(a.bump((46, 2, 18), 22), (0, 0, 1.2))
    ),
    "cheeks_full": lambda a: (
        _sideways(a, a.bump((46, -28, 8), (26, 26, 30)), 2.6) + _along(a.bump((38, -26, 24), 24), (0, 0, 1.8))
    ),
    "eye_distance": lambda a: _sideways(a, a.bump((32, 26, 30), (26, 18, 26)), 1.5),
    "eye_height": lambda a: _along(a.bump((32, 26, 30), (26, 20, 26)), (0, 1.5, 0)),
    "eye_depth": lambda a: _along(a.bump((32, 27, 32), (22, 17, 24)), (0, 0, -1.3)),
    "mouth_width": lambda a: _sideways(a, a.bump((22, -41, 36), (15, 16, 22)), 2.3),
    "mouth_height": lambda a: _along(a.bump((0, -41, 46), (34, 15, 34)), (0, 1.7, 0)),
    "lips_full": lambda a: (
        _along(
            a.bump((0, -35, 50), (19, 6, 14)) * (1 - a.lower) + a.bump((0, -47, 48), (18, 7, 14)) * a.lower, (0, 0, 1.3)
        )
        + _along(a.bump((0, -33, 48), (20, 5, 16)) - a.bump((0, -50.5, 46), (17, 5, 16)), (0, 1.25, 0))
    ),
    "upper_lip_length": lambda a: _along(a.bump((0, -32, 50), (26, 8, 20)), (0, -1.0, 0.5)),
    "muzzle": lambda a: _along(a.bump((0, -38, 46), (34, 20, 28)), (0, 0, 2.0)),
    "ear_size": lambda a: _scale_from(a, (70, 10, -36), a.bump((78, 10, -42), (16, 42, 30)), (0.03, 0.07, 0.07)),
    "ear_out": lambda a: _sideways(a, smoothstep(71, 90, np.abs(a.x)) * a.bump((80, 12, -50), (30, 45, 30)), 4.0),
    "neck_width": lambda a: _scale_from(a, (0, -110, -60), smoothstep(-70, -110, a.points[:, 1]), (0.06, 0.0, 0.05)),
    "temples": lambda a: _sideways(a, a.bump((62, 50, 0), (24, 26, 30)), 2.8),
}


# ---------------------------------------------------------------------------------------------------------------
# Expression
# ---------------------------------------------------------------------------------------------------------------


def _lips_apart(a: Anatomy, up: float, down: float) -> Array:
    """Part the lips at the middle by `up` and `down`; the corners stay."""
    upper = a.bump((0, -37, 46), (19, 13, 22)) * (1 - a.lower)
    lower = a.bump((0, -46, 44), (19, 16, 22)) * a.lower
    return _along(upper, (0, up, 0.1 * up)) + _along(lower, (0, -down, -0.2 * down))


def _corners(a: Anatomy, out: float, up: float, back: float, side: float | None = None) -> Array:
    """Pull the mouth's corners; cheeks follow."""
    reach = (17, 17, 24)
    weight = a.bump((24, -41, 34), reach) if side is None else a.one((24 * side, -41, 34), reach)
    return np.stack([weight * a.sign * out, weight * up, weight * -back], -1)


def _smile(a: Anatomy, side: float | None = None) -> Array:
    half = np.ones(len(a.points)) if side is None else smoothstep(-20, 20, side * a.x)
    field = _corners(a, 4.2, 4.4, 3.6, side)
    field += half[:, None] * _along(a.bump((42, -6, 30), (17, 14, 20)), (0, 2.2, 1.6))
    field += half[:, None] * _along(a.bump((0, -38, 50), (16, 10, 20)), (0, 0.7, -1.4))
    field += half[:, None] * _lips_apart(a, 0.8, 0.4)
    return field + 0.18 * half[:, None] * _lids(a, None, 0.0, 1.0)


def _brows(a: Anatomy, up: float, inner: float = 0.0, together: float = 0.0, side: float | None = None) -> Array:
    weight = a.bump((28, 44, 34), (24, 13, 24))
    inward = a.bump((10, 42, 42), (11, 12, 20))
    if side is not None:
        half = smoothstep(-8, 8, side * a.x)
        weight, inward = weight * half, inward * half
    return _along(weight, (0, up, 0.15 * up)) + _along(inward, (0, inner, 0)) + _sideways(a, inward, -together)


def _lids(a: Anatomy, side: float | None, upper_turn: float, lower_turn: float) -> Array:
    """Close the lids by shares of the opening (1, 0: the upper lid alone closes it), as full displacements."""
    field = np.zeros_like(a.points)
    for s in (1.0, -1.0):
        if side is not None and s != side:
            continue
        center = sculpt.EYE_CENTER * [s, 1, 1]
        q = a.points - center
        name = "left" if s > 0 else "right"
        upper, lower = (a.points[a.mesh.rims[f"eye_{name}_{edge}"]] - center for edge in ("upper", "lower"))
        order = np.argsort(upper[:, 0])
        along, base = upper[order, 0], [np.arctan2(e[order, 1], e[order, 2]) for e in (upper, lower)]
        top, bottom = (np.interp(q[:, 0], along, e) for e in base)
        opening = top - bottom
        elevation = np.arctan2(q[:, 1], np.maximum(q[:, 2], 1e-3))
        reach = smoothstep(30, 18, np.linalg.norm(q, axis=1)) * smoothstep(-4, 4, q[:, 2])
        above = elevation >= 0.5 * (top + bottom)
        up = smoothstep(0.75, 0.0, elevation - top) * above
        down = smoothstep(0.7, 0.0, bottom - elevation) * ~above
        turn = reach * opening * (-upper_turn * up + lower_turn * down)
        cos, sin = np.cos(turn), np.sin(turn)
        y, z = q[:, 1] * cos + q[:, 2] * sin, q[:, 2] * cos - q[:, 1] * sin
        moved = np.stack([q[:, 0], y, z], -1)
        # Stay clear of the eyeball also half-way, where straight paths cut the corner.
        share = np.abs(turn) / np.maximum(np.abs(opening), 1e-6)
        skin = np.zeros(len(q), bool)
        skin[a.mesh.parts["skin"]] = True
        radius = np.linalg.norm(moved, axis=1)
        least = sculpt.LID_RADIUS + 0.5 * share
        push = np.where(skin & (radius < least), least / radius, 1.0)
        field += np.where(a.eyes[:, None] * s == 1, 0.0, moved * push[:, None] - q)
        pocket = a.mesh.parts[f"eye_pocket_{name}"]
        columns = len(a.mesh.rims[f"eye_{name}_upper"]) - 2
        ids = pocket.reshape(-1, columns)
        if s < 0:
            ids = ids[:, ::-1]
        for row, edge in ((0, "upper"), (-1, "lower")):
            field[ids[row]] = field[a.mesh.rims[f"eye_{name}_{edge}"][1:-1]]
        for row, edge in ((1, "upper"), (-2, "lower")):
            field[ids[row]] = 0.3 * field[a.mesh.rims[f"eye_{name}_{edge}"][1:-1]]
    return field


def _pout(a: Anatomy) -> Array:
    corners = _corners(a, -5.0, 0.0, -2.5)
    return corners + _along(a.bump((0, -41, 48), (17, 13, 20)), (0, 0, 4.2)) + _lips_apart(a, 0.5, 0.5)


# Full strength; divided by FULL when the basis is built.
EXPRESSION_FIELDS: dict[str, Field] = {
    "smile": _smile,
    "frown": lambda a: _corners(a, -0.5, -5.0, 0.5) + _along(a.bump((0, -58, 44), (18, 9, 18)), (0, 1.5, 1.2)),
    "mouth_open": lambda a: _lips_apart(a, 3.0, 6.0),
    "pout": _pout,
    "brow_raise": lambda a: _brows(a, 6.5) + _along(a.bump((30, 34, 36), (18, 7, 16)), (0, 1.4, 0)),
    "brow_lower": lambda a: _brows(a, -3.6, -1.2, 2.4) + 0.12 * _lids(a, None, 1.0, 0.4),
    "blink_left": lambda a: _lids(a, 1.0, 0.98, 0.14),
    "blink_right": lambda a: _lids(a, -1.0, 0.98, 0.14),
    "cheek_puff": lambda a: (
        _sideways(a, a.bump((40, -32, 22), (20, 20, 24)), 6.5) + _along(a.bump((32, -34, 34), 20), (0, 0, 3.6))
    ),
    "lips_wide": lambda a: _corners(a, 6.0, 0.0, 3.6),
    "mouth_left": lambda a: _along(a.bump((0, -42, 46), (30, 20, 28)), (5.0, 0, 0)),
    "upper_lip_raise": lambda a: _lips_apart(a, 4.4, 0.0) + _along(a.bump((13, -16, 48), 10), (0, 1.0, 0)),
    "lower_lip_down": lambda a: _lips_apart(a, 0.0, 5.0),
    "brow_inner_up": lambda a: _brows(a, 0.8, 5.0, 1.0),
    "squint": lambda a: _lids(a, None, 0.3, 0.34) + _along(a.bump((40, 4, 34), (16, 12, 18)), (0, 1.6, 0.8)),
    "nose_wrinkle": lambda a: _along(a.bump((13, -10, 48), (10, 14, 16)), (0, 2.6, 0.4)) + _brows(a, -1.6, -0.8, 1.0),
    "lips_press": lambda a: _along(a.bump((0, -41, 48), (20, 7, 12)), (0, 0, -2.4)),
    "brow_raise_left": lambda a: _brows(a, 6.5, side=1.0),
    "brow_raise_right": lambda a: _brows(a, 6.5, side=-1.0),
    "smile_left": lambda a: _smile(a, 1.0),
    "smile_right": lambda a: _smile(a, -1.0),
    "eyes_wide": lambda a: _lids(a, None, -0.22, -0.06) + _brows(a, 2.0),
    "cheek_raise": lambda a: _along(a.bump((42, -4, 30), (17, 14, 20)), (0, 3.0, 1.6)) + 0.3 * _lids(a, None, 0.1, 0.9),
    "jaw_forward": lambda a: _along(a.lower * a.bump((0, -62, 30), (50, 34, 50)), (0, 0.4, 3.6)),
    "lip_lower_in": lambda a: _along(a.lower * a.bump((0, -46, 48), (19, 8, 14)), (0, 2.2, -4.5)),
    "chin_raise": lambda a: _along(a.bump((0, -62, 44), (22, 16, 22)), (0, 3.0, 1.8)),
    "mouth_up": lambda a: _along(a.bump((0, -41, 46), (30, 18, 28)), (0, 3.0, 0)),
}

IDENTITY_NAMES = tuple(IDENTITY_FIELDS)
EXPRESSION_NAMES = tuple(EXPRESSION_FIELDS)


# ---------------------------------------------------------------------------------------------------------------
# Bases
# ---------------------------------------------------------------------------------------------------------------


def _random_fields(a: Anatomy, name: str, wavelength: float, size: Array, symmetric: float) -> Array:
    """Smooth random fields [K, V, 3] (random Fourier features); `size` [K] is about the root mean square in mm.

    `symmetric` is 0 where left and right know nothing of each other, 1 where they are mirror images.
    """
    # Their name of old, so that the same people come of it.
    random = np.random.default_rng(derive_seed(0, "standin", name))
    features = 40
    waves = random.normal(size=(features, 3)) * (2 * np.pi / wavelength) / np.sqrt(3)
    phases = random.uniform(0, 2 * np.pi, features)
    mix = random.normal(size=(features, len(size), 3)) * np.sqrt(2 / 3 / features) * size[:, None]
    fields = np.zeros((len(a.points), len(size) * 3), np.float32)
    x, y, z = a.points.T
    for wave, phase, amount in zip(waves, phases, mix.reshape(features, -1).astype(np.float32), strict=True):
        # Not a matrix product: its last bits depend on the number of threads, and these go into a file.
        fields += np.cos(wave[0] * x + wave[1] * y + wave[2] * z + phase).astype(np.float32)[:, None] * amount
    own = fields.reshape(-1, len(size), 3)
    both = 0.5 * (own + symmetric * own[a.mesh.mirror] * np.array([-1, 1, 1], np.float32))
    return both.transpose(1, 0, 2)


def _rigid_eyes(a: Anatomy, fields: Array) -> Array:
    """Let eyeballs, their pockets and the lids' edges move as one: by the mean of the lids' motion."""
    fields = fields.copy()
    for s, name in ((1.0, "left"), (-1.0, "right")):
        center = sculpt.EYE_CENTER * [s, 1, 1]
        rim = np.concatenate([a.mesh.rims[f"eye_{name}_upper"], a.mesh.rims[f"eye_{name}_lower"]])
        motion = fields[:, rim].mean(1)
        weight = smoothstep(23, 16.5, np.linalg.norm(a.points - center, axis=1))
        weight[a.eyes == s] = 1.0
        fields += weight[:, None] * (motion[:, None] - fields)
    return fields


def _eye_size(a: Anatomy) -> Array:
    field = np.zeros_like(a.points)
    for s in (1.0, -1.0):
        center = sculpt.EYE_CENTER * [s, 1, 1]
        q = a.points - center
        weight = smoothstep(34, 17, np.linalg.norm(q, axis=1))
        weight[a.eyes == s] = 1.0
        field += weight[:, None] * q * 0.035
    return field


def _eye_tilt(a: Anatomy) -> Array:
    """Outer corners up, inner corners down."""
    weight = a.bump((32, 25, 36), (17, 8, 14)) * (a.eyes == 0)
    return _along(weight * (np.abs(a.x) - 32) / 14 * 1.3, (0, 1, 0))


def identity_basis(a: Anatomy) -> Array:
    """[300, V, 3] mm per standard deviation."""
    named = _rigid_eyes(a, np.stack([f(a) for f in IDENTITY_FIELDS.values()]))
    lids = np.stack([_eye_size(a), _lids(a, None, -0.09, -0.03), _eye_tilt(a)])
    lids[1:, a.eyes != 0] = 0.0
    count = IDENTITIES - len(named) - len(lids)
    size = 0.42 * (1 + np.arange(count)) ** -0.45
    random = _random_fields(a, "identity", 75.0, size, symmetric=0.8)
    return np.concatenate([named, lids, _rigid_eyes(a, random)])


IDENTITY_LID_NAMES = ("eye_size", "eye_opening", "eye_tilt")


def expression_basis(a: Anatomy) -> Array:
    """[100, V, 3] mm; the named ones at 1/FULL of their full strength."""
    named = np.stack([f(a) for f in EXPRESSION_FIELDS.values()]) / FULL
    count = EXPRESSIONS - len(named)
    random = _random_fields(a, "expression", 55.0, 0.22 * (1 + np.arange(count)) ** -0.5, symmetric=0.5)
    region = a.bump((0, -30, 50), (60, 48, 40))
    for s in (1.0, -1.0):
        region *= smoothstep(17, 34, np.linalg.norm(a.points - sculpt.EYE_CENTER * [s, 1, 1], axis=1))
    basis = np.concatenate([named, random * region[:, None]])
    still = np.concatenate([a.mesh.parts[k] for k in ("teeth_upper", "teeth_lower", "eyeball_left", "eyeball_right")])
    basis[:, still] = 0.0
    return basis


def pose_basis(a: Anatomy) -> Array:
    """[36, V, 3] mm per unit of (R - I), joints neck, jaw, left eye, right eye, each row-major."""
    basis = np.zeros((4, 3, 3, *a.points.shape))
    # Jaw open by angle t about x: R[2, 1] = sin t. Cheeks hollow, the chin's skin stretches back.
    basis[1, 2, 1] = _sideways(a, a.bump((44, -28, 8), (18, 24, 26)), -5.0) + _along(
        a.bump((0, -88, 8), (34, 16, 26)), (0, -3.0, 0)
    )
    # Head nods by t about x, turns by t about y (R[0, 2] = sin t): the neck's muscles swell and shorten.
    basis[0, 2, 1] = _along(a.bump((0, -98, -2), (34, 22, 24)), (0, 0, 4.0))
    basis[0, 0, 2] = _along(a.one((30, -110, -10), (18, 34, 22)) - a.one((-30, -110, -10), (18, 34, 22)), (0, 0, -5.0))
    # Lids follow the gaze: an eye looks down by t about x (R[2, 1] = sin t).
    for joint, s in ((2, 1.0), (3, -1.0)):
        opening = 0.75  # radians that a full closing of the lids stands for
        basis[joint, 2, 1] = _lids(a, s, 0.30, -0.16) / opening / 0.55
    return basis.reshape(36, *a.points.shape)

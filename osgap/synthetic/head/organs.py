"""Ears, eyeballs and teeth of the synthetic head: sheets of their own, with small islands at the bottom of the atlas.

Lengths are millimetres.
"""

from __future__ import annotations

import numpy as np

from osgap.synthetic.head import sculpt
from osgap.synthetic.head.sculpt import smoothstep
from osgap.synthetic.head.sheets import Sheets, add_disc

Array = np.ndarray

ATLAS_MARGIN = 0.012
"""Free border of the atlas, in units of its side."""
ATLAS_STRIP = 0.145
"""Height above the margin, free of skin, in which the islands of this module lie."""

# Boxes of the small islands in u, for the person's left; the right ones are their mirror images.
_EYE_BOX = (0.64, 0.765)
_EAR_BOX = (0.78, 1 - ATLAS_MARGIN)
_TEETH_BOX = (0.375, 0.625)


def _box(u: tuple[float, float], sign: float, v: tuple[float, float]) -> tuple[float, float, float, float]:
    low, high = u if sign > 0 else (1 - u[1], 1 - u[0])
    return low, v[0], high, v[1]


_STRIP_V = (ATLAS_MARGIN, ATLAS_STRIP - 0.004)

_EYE_RINGS = np.deg2rad([9, 18, 25, 30, 38, 50, 66, 86, 110, 135])
_EYE_RHO = np.array([0.16, 0.32, 0.44, 0.53, 0.63, 0.74, 0.83, 0.9, 0.95, 1.0])
_EYE_COLUMNS = 20
IRIS_ANGLE = np.deg2rad(27.0)
"""From the pupil's centre to the rim of the iris, seen from the centre of the eyeball."""
_CORNEA = 0.45  # mm that the cornea stands out


def add_eyeball(sheets: Sheets, sign: float) -> Array:
    """A ball with its pole at the pupil, a slightly bulging cornea, open at the back (inside the head)."""
    angle = np.arange(_EYE_COLUMNS) * 2 * np.pi / _EYE_COLUMNS
    bulge = _CORNEA * smoothstep(np.deg2rad(32), np.deg2rad(5), _EYE_RINGS)
    radius = (sculpt.EYE_RADIUS + bulge)[:, None, None]
    ring = _EYE_RINGS[:, None]
    flat = np.stack(np.broadcast_arrays(np.sin(ring) * np.cos(angle), np.sin(ring) * np.sin(angle), np.cos(ring)), -1)
    center = sculpt.EYE_CENTER * [sign, 1, 1]
    pole = center + np.array([0, 0, sculpt.EYE_RADIUS + _CORNEA])
    return add_disc(sheets, pole, center + radius * flat, _EYE_RHO, angle, _box(_EYE_BOX, sign, _STRIP_V))


_EAR_COLUMNS = 24
_EAR_ANGLES = np.deg2rad([0, 35, 70, 105, 140, 165, 180, 205, 250, 290, 325, 360])  # from the top, backwards
_EAR_OUTLINE = np.array([29.0, 27.0, 21.8, 18.6, 19.6, 24.0, 26.0, 20.5, 13.5, 13.5, 20.5, 29.0])
_EAR_RHO = np.array([0.16, 0.32, 0.46, 0.58, 0.7, 0.8, 0.89, 0.96, 1.0])
_EAR_BACK = np.array([[0.985, -2.0], [0.9, -3.4], [0.72, -5.0], [0.45, -18.0]])  # share of the outline, mm behind


def _ear_outline(psi: Array) -> Array:
    """Radius of the ear at angles `psi`: the tabulated outline with its corners rounded."""
    fine = np.arange(720) * np.pi / 360
    spectrum = np.fft.rfft(np.interp(fine, _EAR_ANGLES, _EAR_OUTLINE))
    rounded = np.fft.irfft(spectrum * np.exp(-((np.arange(len(spectrum)) / 9.0) ** 2)), 720)
    return np.interp(psi, fine, rounded, period=2 * np.pi)


def add_ear(sheets: Sheets, sign: float) -> Array:
    """An auricle: bowl, antihelix, rolled helix, tragus and lobe in front, a back that dives into the head."""
    # `turn` is counter-clockwise seen from outside; `psi` runs from the top of the ear to the back.
    turn = np.arange(_EAR_COLUMNS) * 2 * np.pi / _EAR_COLUMNS
    psi = np.mod(sign * (np.pi / 2 - turn), 2 * np.pi)
    radius = _ear_outline(psi)
    up = np.array([0.0, np.cos(np.deg2rad(9)), -np.sin(np.deg2rad(9))])
    back = np.array([0.0, -np.sin(np.deg2rad(9)), -np.cos(np.deg2rad(9))])

    def head_side(a: Array, b: Array) -> Array:
        """x of the head's side at ear coordinates (up, backwards)."""
        origin = sculpt.EAR_CENTER * [0, 1, 1] + a[..., None] * up + b[..., None] * back
        rays = np.broadcast_to([1.0, 0.0, 0.0], origin.shape).reshape(-1, 3)
        return sculpt.march(origin.reshape(-1, 3), rays, 5.0, 120.0)[:, 0].reshape(a.shape)

    def place(rho: Array, lift: Array) -> Array:
        """Points of the left ear; rho [..., C] share of the outline, lift [..., C] mm outwards."""
        a, b = rho * radius * np.cos(psi), rho * radius * np.sin(psi)
        # In front the ear grows out of the head; behind, it stands off at an angle.
        hinge = head_side(a, np.full_like(b, -7.0)) + 0.34 * np.maximum(b + 7, 0)
        free = smoothstep(-11, -3, b)
        x = (1 - free) * head_side(a, b) + free * hinge + lift
        point = sculpt.EAR_CENTER + a[..., None] * up + b[..., None] * back
        point[..., 0] = x
        return point

    rho = np.repeat(_EAR_RHO[:, None], _EAR_COLUMNS, axis=1)
    behind = np.clip(np.sin(psi), 0, 1)
    over = np.clip(np.cos(psi), 0, 1)
    lobe = np.clip(-np.cos(psi), 0, 1) ** 3
    ahead = np.clip(-np.sin(psi), 0, 1)
    rolled = np.clip(behind + over + 0.3 * ahead, 0, 1) * (1 - lobe)
    lift = -7.0 * np.exp(-((rho / 0.42) ** 2)) * (1 - 0.3 * over)
    lift += 2.6 * np.exp(-(((rho - 0.6) / 0.13) ** 2)) * rolled
    lift += -1.6 * np.exp(-(((rho - 0.8) / 0.09) ** 2)) * rolled
    lift += 2.2 * np.exp(-(((rho - 0.97) / 0.09) ** 2)) * rolled
    lift += 3.6 * np.exp(-(((rho - 0.62) / 0.2) ** 2)) * ahead**4
    lift += 1.0 * np.exp(-(((rho - 0.75) / 0.3) ** 2)) * lobe
    lift -= (1.5 + lift) * smoothstep(0.25, 0.8, ahead) * smoothstep(0.72, 0.95, rho)
    lift += 1.0
    front = place(rho, lift)
    back_rho = np.repeat(_EAR_BACK[:, :1], _EAR_COLUMNS, axis=1)
    edge = lift[-1]
    back_lift = np.stack([edge + drop for drop in _EAR_BACK[:, 1]])
    rings = np.concatenate([front, place(back_rho, back_lift)])
    center = place(np.zeros(_EAR_COLUMNS), np.full(_EAR_COLUMNS, -7.0))[0]
    if sign < 0:
        rings, center = rings * [-1, 1, 1], center * [-1, 1, 1]
    rho_uv = np.concatenate([0.82 * _EAR_RHO, [0.86, 0.91, 0.96, 1.0]])
    return add_disc(sheets, center, rings, rho_uv, turn, _box(_EAR_BOX, sign, _STRIP_V))


_TEETH_COLUMNS = 22


def add_teeth(sheets: Sheets, row: str) -> Array:
    """An arch of teeth, `row` upper or lower: a strip in front, the biting edge and a strip behind."""
    t = np.linspace(-1, 1, _TEETH_COLUMNS + 1)
    x = 21.5 * np.sin(t * 1.25) / np.sin(1.25)
    z = 38.5 - 24.0 * (1 - np.cos(t * 1.25)) / (1 - np.cos(1.25)) * 0.95
    if row == "upper":
        root, edge, shift = 9.0, -3.0, 0.0
        profile = [(root, 0.0), (3.5, 1.0), (edge + 0.4, 0.9), (edge, 0.0), (edge + 1.5, -3.0), (root, -4.5)]
    else:
        root, edge, shift = -9.0, -2.2, -3.0
        profile = [(root, -4.0), (edge - 1.5, -2.6), (edge, 0.0), (edge - 0.4, 0.8), (-4.5, 0.6), (root, 0.0)]
    scale = np.array([(26 + shift + dz) / 26 for _, dz in profile])[:, None]
    y = sculpt.MOUTH_Y + np.array([dy for dy, _ in profile])[:, None] + 0.0 * x
    depth = z[None] + shift + np.array([dz for _, dz in profile])[:, None]
    ids = sheets.add_vertices(np.stack(np.broadcast_arrays(x[None] * scale, y, depth), -1))
    middle = 0.5 * (_STRIP_V[0] + _STRIP_V[1])
    v0, v1 = (middle + 0.002, _STRIP_V[1]) if row == "upper" else (_STRIP_V[0], middle - 0.002)
    u = np.linspace(*_TEETH_BOX, _TEETH_COLUMNS + 1)
    v = np.linspace(v1, v0, len(profile))
    uv_ids = sheets.add_uvs(np.stack(np.broadcast_arrays(u[None], v[:, None]), -1))
    for r in range(len(profile) - 1):
        sheets.add_strip(ids[r], ids[r + 1], uv_ids[r], uv_ids[r + 1], middle=_TEETH_COLUMNS // 2)
    return ids.ravel()

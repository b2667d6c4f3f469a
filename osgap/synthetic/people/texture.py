"""Skin, lips, eyes and teeth of a person, painted into the head model's UV atlas.

Everything is placed by the average head's rest positions (millimetres), so that it lands on the same features of every
person whatever their shape. Colours are linear light until the last step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osgap.synthetic.head import sculpt
from osgap.synthetic.head.organs import IRIS_ANGLE
from osgap.synthetic.head.sculpt import smoothstep
from osgap.synthetic.people.atlas import Atlas, atlas, noise, spots
from osgap.synthetic.people.srgb import linear_to_srgb, srgb_to_linear

Array = np.ndarray


def linear(red: int, green: int, blue: int) -> Array:
    """Linear colour [3] of an 8-bit sRGB one."""
    return np.asarray(srgb_to_linear(np.array([red, green, blue]) / 255.0), dtype=np.float32)


# From light to dark.
_SKIN = np.stack(
    [
        linear(241, 205, 184),
        linear(232, 188, 160),
        linear(214, 166, 132),
        linear(188, 138, 102),
        linear(150, 102, 72),
        linear(112, 74, 52),
        linear(90, 61, 46),
    ]
)


def skin_color(tone: float) -> Array:
    """Linear colour [3] of a skin tone, 0 light to 1 dark."""
    t = tone * (len(_SKIN) - 1)
    k = min(int(t), len(_SKIN) - 2)
    return _SKIN[k] + (_SKIN[k + 1] - _SKIN[k]) * np.float32(t - k)


@dataclass(frozen=True)
class Complexion:
    """What a person's texture is painted from. Colours are [3], linear."""

    tone: float
    """Skin, 0 light to 1 dark."""
    warmth: float
    """-1 rosy to 1 olive."""
    blush: float
    """Redness of cheeks, nose and ears, 0 to 1."""
    freckles: float
    """0 none to 1 many."""
    age: float
    """0 smooth to 1 lined."""
    lips: Array
    hair: Array
    """At the scalp."""
    scalp_hair: float
    """How much of the scalp's skin is hidden by the roots of the hair, 0 to 1."""
    shaded: float
    """Darkness of ears and sides below long hair, 0 to 1."""
    beard: Array
    stubble: float
    """0 shaven to 1 dense; above 0.75 the beard has volume."""
    beard_shape: str
    """One of full, goatee, moustache."""
    brows: Array
    brow_density: float
    """How much of the skin below the brows is hidden, 0 to 1."""
    brow_thickness: float
    """1 for the average."""
    brow_arch: float
    """1 for the average; 0 is straight."""
    iris: Array


# ------------------------------------------------------------------------------------------- where hair grows
def hairline(p: Array) -> Array:
    """Height [...] of points [..., 3] mm above the average hairline; positive where hair grows."""
    x, y, z = np.abs(p[..., 0]), p[..., 1], p[..., 2]
    # Front: an arch over the forehead; sides: down in front of the ears; back: down to the nape.
    front = 92 - 0.0035 * x**2 + 3 * np.exp(-((x / 12) ** 2))
    side = np.interp(z, [-140, -120, -95, -68, -52, -44, -30, -20, -8, 4], [-48, -46, -38, -20, 14, 34, 20, 8, 40, 60])
    blend = smoothstep(14, -6, z)
    return y - (front * (1 - blend) + np.minimum(front, side) * blend)


def beard_zone(p: Array, shape: str) -> Array:
    """Density [...] 0..1 of a beard at points [..., 3] mm."""
    x, y, z = np.abs(p[..., 0]), p[..., 1], p[..., 2]
    lips = (
        (y < sculpt.upper_lip_border(x) + 1) & (y > sculpt.lower_lip_border(x) - 1) & (x < sculpt.MOUTH_HALF_WIDTH + 1)
    )
    moustache = smoothstep(30, 22, x) * smoothstep(-22, -27, y) * smoothstep(-46, -41, y) * smoothstep(24, 34, z)
    chin = smoothstep(27, 17, x) * smoothstep(-47, -54, y) * smoothstep(-4, 14, z) * smoothstep(-96, -88, y)
    upper = np.interp(z, [-44, -30, -10, 15, 35, 50], [18, 12, -16, -34, -47, -52])
    jaw = smoothstep(upper, upper - 9, y) * smoothstep(-50, -40, z) * smoothstep(-98, -86, y + 0.25 * (10 - z))
    corner = smoothstep(34, 27, x) * smoothstep(19, 26, x) * smoothstep(-28, -36, y) * smoothstep(-70, -60, y)
    zones = {
        "full": [moustache, chin, jaw, corner],
        "goatee": [moustache, chin, corner * smoothstep(20, 30, z)],
        "moustache": [moustache],
    }
    return np.where(lips | (z < -52), 0.0, np.maximum.reduce(zones[shape]))


def brow_mask(x: Array, y: Array, thickness: float, arch: float) -> Array:
    """Density [...] 0..1 of the brows in front view, mm."""
    s = (np.abs(x) - 11.0) / 37.0
    middle = 41.0 + arch * 3.6 * np.sin(np.pi * np.clip(s, 0, 1) ** 0.9 * 0.9) - 1.2 * s
    half = thickness * 3.2 * np.clip(1 - 0.72 * np.clip(s, 0, 1) ** 1.4, 0.1, 1)
    ends = smoothstep(-0.05, 0.1, s) * smoothstep(1.04, 0.86, s)
    return ends * smoothstep(1.15, 0.55, np.abs(y - middle) / half)


# ------------------------------------------------------------------------------------------------- painting
class _Canvas:
    """The texture in the making, and the coordinates by which things are placed."""

    def __init__(self, color: Array) -> None:
        self.atlas: Atlas = atlas()
        self.image = np.broadcast_to(color, self.atlas.position.shape).copy()
        self.p = self.atlas.position
        self.x, self.y, self.z = np.abs(self.p[..., 0]), self.p[..., 1], self.p[..., 2]
        self.both = np.stack([self.x, self.y, self.z], -1)
        self.face = self.atlas.of("skin")

    def around(self, center: tuple[float, float, float], radius: tuple[float, float, float]) -> Array:
        """Gaussian [S, S] around a point and its mirror image."""
        q = (self.both - np.asarray(center, np.float32)) / np.asarray(radius, np.float32)
        return np.exp(-(q * q).sum(-1))

    def tint(self, weight: Array, color: Array | tuple[float, float, float]) -> None:
        """Multiply by a colour where `weight` [S, S] is 1."""
        self.image *= 1 + weight[..., None].astype(np.float32) * (np.asarray(color, np.float32) - 1)

    def cover(self, weight: Array, color: Array) -> None:
        """Replace by a colour, [3] or [S, S, 3], where `weight` [S, S] is 1."""
        weight = np.clip(weight, 0, 1)[..., None].astype(np.float32)
        self.image += weight * (np.asarray(color, np.float32) - self.image)


def paint(person: Complexion, random: np.random.Generator) -> Array:
    """The person's texture, [S, S, 3] uint8 sRGB."""
    skin = skin_color(person.tone) * (1 + person.warmth * np.array([-0.02, 0.0, -0.07], np.float32))
    canvas = _Canvas(skin)
    mottling = 0.030 * noise(random, 14.0) + 0.022 * noise(random, 4.0) + 0.02 * noise(random, 1.0)
    canvas.image *= (1 + mottling)[..., None]
    _flush(canvas, person)
    _contours(canvas, person)
    _creases(canvas)
    _age(canvas, person, random)
    _marks(canvas, person, random)
    _lips(canvas, person, mottling, random)
    _hair_roots(canvas, person, random)
    _insides(canvas, skin, person, random)
    return (linear_to_srgb(canvas.image) * 255 + 0.5).astype(np.uint8)


def _flush(c: _Canvas, person: Complexion) -> None:
    """Blood below the skin: cheeks, nose, chin, ears; darker lids and rings below the eyes."""
    red = c.around((42, -8, 30), (18, 16, 26)) + 0.8 * c.around((0, -12, 62), (16, 11, 16))
    red += 0.35 * c.around((0, -72, 44), (18, 12, 20)) + 0.3 * c.atlas.of("ear")
    c.tint(np.clip(red, 0, 1) * (0.25 + 0.5 * person.blush) * (1 - 0.55 * person.tone), (1.02, 0.80, 0.78))
    c.tint(c.around((30, 15, 38), (15, 6.5, 14)) * (0.25 + 0.4 * person.age), (0.86, 0.78, 0.8))
    lid = np.linalg.norm(c.both - sculpt.EYE_CENTER, axis=-1)
    c.tint(smoothstep(18.5, 14.6, lid) * c.face, (0.90, 0.78, 0.77))
    # The fold of the upper lid.
    fold = np.exp(-((lid - 16.6) ** 2)) * smoothstep(29, 33, c.y) * smoothstep(20, 30, c.z)
    c.tint(fold * c.face, (0.72, 0.6, 0.58))


def _contours(c: _Canvas, person: Complexion) -> None:
    """Soft shades that flat light would lose: eye sockets, sides of the nose, cheeks, temples, below the jaw."""
    shade = 0.9 * c.around((20, 31, 40), (8, 9, 14)) + 0.5 * c.around((13, 8, 44), (5, 16, 12))
    shade += 0.5 * c.around((48, -24, 14), (12, 18, 26)) + 0.4 * c.around((58, 40, 12), (9, 22, 20))
    shade += 0.6 * c.around((0, -57, 48), (13, 4, 12)) + 0.4 * c.around((26, -44, 34), (4, 7, 12))
    shade += 0.7 * smoothstep(-84, -96, c.y) * smoothstep(-40, 0, c.z)
    c.tint(np.clip(shade, 0, 1) * c.face, (0.84, 0.76, 0.74))
    glow = c.around((0, 8, 56), (5, 22, 12)) + 0.8 * c.around((38, 8, 34), (13, 7, 14))
    glow += 0.5 * c.around((0, 68, 44), (30, 16, 20))
    c.tint(np.clip(glow, 0, 1) * c.face, (1.06, 1.06, 1.06))
    # Below long hair it is darker than a bounce of light in the colour of the skin would have it.
    sides = c.face * smoothstep(56, 68, c.x + 0.3 * (-30 - c.z)) * smoothstep(60, 40, c.y)
    c.tint(np.maximum(c.atlas.of("ear"), sides) * person.shaded, (0.55, 0.5, 0.5))


def _creases(c: _Canvas) -> None:
    """Creases everywhere, the folds round the nose's wings, nostrils."""
    c.tint(np.clip(0.85 - c.atlas.openness, 0, 1) * 0.9 * c.face, (0.62, 0.45, 0.42))
    wing = sculpt.ellipsoid(c.both, (11.2, -14.8, 48), (5.6, 6.6, 9.5))
    fold = np.exp(-(((wing - 1.2) / 1.1) ** 2)) * smoothstep(12, 16, c.x) * (c.z > 36)
    c.tint(fold * smoothstep(-5, -10, c.y) * smoothstep(-22, -17, c.y) * c.face, (0.78, 0.68, 0.66))
    c.tint(c.around((5.8, -18.8, 54.5), (3.3, 2.2, 6.0)) * c.face, (0.22, 0.14, 0.13))


def _age(c: _Canvas, person: Complexion, random: np.random.Generator) -> None:
    """Lines across the forehead, beside the eyes and from the nose to the mouth."""
    strength = max(person.age - 0.25, 0.0)
    for height in (58.0, 66.0, 74.0):
        wave = height + 1.5 * np.sin(c.p[..., 0] / 17 + random.uniform(0, 6)) - 0.004 * c.x**2
        line = np.exp(-(((c.y - wave) / 0.9) ** 2)) * smoothstep(40, 25, c.x) * (c.z > 10)
        c.tint(line * 0.7 * strength, (0.82, 0.74, 0.72))
    for slope in (-0.45, -0.1, 0.3):
        line = (
            np.exp(-(((c.y - 25 - slope * (c.x - 46)) / 0.7) ** 2)) * smoothstep(47, 50, c.x) * smoothstep(58, 53, c.x)
        )
        c.tint(line * strength * c.face, (0.78, 0.7, 0.68))
    smile = (
        np.exp(-(((c.x - 21 - 0.42 * (-18 - c.y)) / 1.3) ** 2)) * smoothstep(-14, -20, c.y) * smoothstep(-50, -38, c.y)
    )
    c.tint(smile * 0.8 * strength * (c.z > 20) * c.face, (0.76, 0.66, 0.64))


def _marks(c: _Canvas, person: Complexion, random: np.random.Generator) -> None:
    """Freckles over nose and cheeks, and a few moles."""
    if person.freckles > 0:
        where = c.around((42, -8, 30), (18, 16, 26)) + c.around((0, 4, 52), (42, 24, 34))
        c.tint(spots(random, int(2000 * person.freckles)) * np.clip(where, 0, 1) * c.face, (0.74, 0.6, 0.52))
    for _ in range(random.integers(0, 4)):
        x, y = random.uniform(-50, 50), random.uniform(-70, 70)
        mole = np.exp(-(((c.p[..., 0] - x) ** 2 + (c.y - y) ** 2) / 0.9**2)) * (c.z > 10)
        c.tint(mole * c.face, (0.45, 0.35, 0.33))


def _lips(c: _Canvas, person: Complexion, mottling: Array, random: np.random.Generator) -> None:
    up, low, line = sculpt.upper_lip_border(c.x), sculpt.lower_lip_border(c.x), sculpt.mouth_line(c.x)
    near = c.face & (c.z > 20)
    lips = smoothstep(up + 0.7, up - 0.7, c.y) * smoothstep(low - 0.9, low + 0.7, c.y)
    lips *= smoothstep(sculpt.MOUTH_HALF_WIDTH + 1.0, sculpt.MOUTH_HALF_WIDTH - 2.0, c.x) * near
    lips = np.where(c.atlas.of("mouth_pocket"), smoothstep(28, 34, c.z), lips)
    stripes = 0.03 * np.sin(c.x * 2.6 + noise(random, 4.0))
    c.cover(lips * 0.92, person.lips * (1 + mottling + stripes)[..., None])
    c.tint(lips * smoothstep(line - 1.5, up, c.y), (0.86, 0.84, 0.84))
    seam = np.exp(-(((c.y - line) / 0.8) ** 2)) * (c.x < sculpt.MOUTH_HALF_WIDTH + 1)
    c.tint(seam * near, (0.5, 0.38, 0.38))


def _hair_roots(c: _Canvas, person: Complexion, random: np.random.Generator) -> None:
    """The skin below hair of the head, beard and brows."""
    grain = np.clip(1 + 0.35 * noise(random, 1.0), 0.2, 1.8)
    edge = hairline(c.p) + 1.2 * noise(random, 4.0)
    roots = smoothstep(-3, 7, edge) * np.clip(grain + smoothstep(4, 12, edge), 0, 1.0)
    c.cover(roots * person.scalp_hair * c.face, person.hair * (0.8 + 0.2 * grain)[..., None])
    if person.stubble > 0:
        zone = beard_zone(c.p, person.beard_shape) * c.face
        c.cover(zone * person.stubble * np.clip(grain, 0, 1.2), person.beard)
    density = brow_mask(c.x, c.y, person.brow_thickness, person.brow_arch) * (c.z > 5) * c.face
    c.cover(density * person.brow_density * np.clip(0.75 + 0.5 * noise(random, 1.0), 0, 1), person.brows)


def _insides(c: _Canvas, skin: Array, person: Complexion, random: np.random.Generator) -> None:
    """The edges of the lids, the mouth, teeth and eyes."""
    pocket = c.atlas.of("eye_pocket")
    c.cover(pocket, skin * np.array([0.72, 0.46, 0.43], np.float32))
    c.tint(pocket * smoothstep(40, 34, c.z), (0.35, 0.25, 0.25))
    c.cover(c.atlas.of("mouth_pocket") * smoothstep(38, 30, c.z), linear(70, 22, 24))
    eyes = c.atlas.of("eyeball")
    c.image[eyes] = _eye_colors(c.p[eyes], person.iris, random)
    for row in ("teeth_upper", "teeth_lower"):
        teeth = c.atlas.of(row)
        c.image[teeth] = _tooth_colors(c.p[teeth], c.atlas.uv[teeth])


def _over(colors: Array, weight: Array, color: Array) -> Array:
    """`colors` [n, 3] painted over with `color` [3] or [n, 3] where `weight` [n] is 1."""
    return colors + np.clip(weight, 0, 1)[:, None] * (color - colors)


def _eye_colors(p: Array, iris: Array, random: np.random.Generator) -> Array:
    """Sclera, iris and pupil [n, 3] at points [n, 3] of both eyeballs."""
    center = np.where(p[:, :1] > 0, 1.0, -1.0) * [1, 0, 0] * sculpt.EYE_CENTER + sculpt.EYE_CENTER * [0, 1, 1]
    q = p - center
    r = np.arctan2(np.hypot(q[:, 0], q[:, 1]), q[:, 2]) / IRIS_ANGLE
    around = np.arctan2(q[:, 1], q[:, 0])
    colors = np.tile(linear(232, 226, 220), (len(p), 1))
    colors = _over(colors, smoothstep(1.3, 2.6, r) * 0.45, linear(222, 176, 166))
    fibres = np.zeros_like(r)
    for k in range(4):
        fibres += np.sin(around * (9 + 7 * k) + random.uniform(0, 6) + 1.5 * np.sin(3 * r + k)) / (k + 2)
    shade = np.clip(1 + 0.35 * fibres, 0.3, 2) * (0.75 + 0.8 * smoothstep(0.95, 0.45, r))
    shade *= 1 - 0.35 * np.clip(q[:, 1] / 6, -0.4, 1)
    colors = _over(colors, smoothstep(1.06, 0.98, r), iris * shade[:, None])
    colors = _over(colors, np.exp(-(((r - 0.99) / 0.1) ** 2)) * 0.75, 0.25 * iris)
    colors = _over(colors, smoothstep(0.47, 0.40, r), linear(8, 7, 8))
    # The upper lid's shade and a window's reflection.
    colors = _over(colors, smoothstep(1.5, 8.0, q[:, 1]) * 0.5, linear(70, 48, 44))
    glint = np.exp(-((((q[:, 0] + 1.9) / 0.8) ** 2 + ((q[:, 1] - 2.0) / 0.8) ** 2) ** 2))
    return _over(colors, glint * 0.85, linear(255, 255, 255))


def _tooth_colors(p: Array, uv: Array) -> Array:
    """Teeth with their gaps, and gums [n, 3], at points [n, 3] of one row of teeth."""
    height = np.abs(p[:, 1] - sculpt.mouth_line(np.zeros(1)))
    column = np.mod(np.abs(uv[:, 0] - 0.5) * 60 + 0.5, 1.0) - 0.5
    colors = np.tile(linear(226, 217, 198), (len(p), 1))
    colors = _over(colors, np.exp(-((column / 0.08) ** 2)) * 0.5, linear(120, 80, 62))
    return _over(colors, smoothstep(5.5, 7.0, height), linear(190, 105, 100))

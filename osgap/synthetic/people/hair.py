"""Hair styles: ribbons combed by direction fields over the average head. Lengths are millimetres."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from osgap.synthetic.head import sculpt
from osgap.synthetic.head.sculpt import smoothstep
from osgap.synthetic.people.ribbons import Piece, lock_colors, ribbons, sow, taper, unit
from osgap.synthetic.people.texture import hairline

Array = np.ndarray

Field = Callable[[Array, Array], Array]  # points [N, 3], share of the length [N] -> [N, 3] or [N]


def comb(
    roots: Array, length: Array, direction: Field, height: Field, steps: int, hug: float = 0.5, inertia: float = 0.4
) -> tuple[Array, Array]:
    """Grow paths [N, steps, 3] from `roots` [N, 3] along `direction`, at a `height` above the head; and the outward
    directions [N, steps, 3]. `hug` is how strongly a path that is too high is drawn back."""
    p = roots.copy()
    d, normal = sculpt.gradient(p)
    normal = unit(normal)
    paths, outward = [p.copy()], [normal]
    heading = unit(direction(p, np.zeros(len(p))))
    for k in range(1, steps):
        t = np.full(len(p), k / (steps - 1))
        heading = unit(inertia * heading + (1 - inertia) * unit(direction(p, t)))
        p = p + heading * (length / (steps - 1))[:, None]
        d, normal = sculpt.gradient(p)
        normal = unit(normal)
        wanted = height(p, t)
        p = p + (np.maximum(wanted - d, 0) - hug * np.maximum(d - wanted, 0))[:, None] * normal
        paths.append(p.copy())
        outward.append(normal)
    return np.stack(paths, 1), np.stack(outward, 1)


def _tangent(direction: Array, p: Array) -> Array:
    """`direction` without its component along the head's normal."""
    _, n = sculpt.gradient(p)
    n = unit(n)
    return direction - (direction * n).sum(-1, keepdims=True) * n


def _grown(p: Array) -> Array:
    return smoothstep(0.5, 4.0, hairline(p))


_CROWN = np.array([6.0, 132.0, -72.0])


def _cut(paths: Array, outward: Array, bottom: Array, steps: int) -> tuple[Array, Array]:
    """Cut paths [N, K, 3] where they pass below `bottom` [N], and resample them evenly to `steps` points."""
    count, length, _ = paths.shape
    below = paths[..., 1] < bottom[:, None]
    below[:, :2] = False
    last = np.where(below.any(1), below.argmax(1), length - 1).astype(float)
    at = np.linspace(0, 1, steps)[None] * last[:, None]
    low = np.minimum(at.astype(int), length - 2)
    f = (at - low)[..., None]
    rows = np.arange(count)[:, None]
    return tuple(q[rows, low] * (1 - f) + q[rows, low + 1] * f for q in (paths, outward))


def _ear_room(p: Array) -> Array:
    """Extra height that hair needs to pass over an ear."""
    q = (np.abs(p * [1, 0, 0]) + p * [0, 1, 1] - [78, 10, -46]) / [40, 38, 26]
    return 15.0 * np.exp(-(q**2).sum(-1))


def short(
    color: Array, random: np.random.Generator, length: float, lift: float, forward: float, part: float | None = None
) -> list[Piece]:
    """Cropped hair that grows away from the crown; `forward` -1 brushed back, 1 combed to the forehead."""
    count, steps = 1500, 6
    roots = sow(_grown, count, random)
    top = smoothstep(60, 105, roots.points[:, 1])

    def direction(p: Array, t: Array) -> Array:
        away = (p - _CROWN) * [1, 0.8, 1]
        sweep = np.array([0.25, 0.0, forward * 1.2]) * smoothstep(50, 110, p[:, 1])[:, None]
        if part is not None:
            over = np.tanh((p[:, 0] - part) / 6.0) * smoothstep(70, 105, p[:, 1])
            sweep = sweep + np.stack([1.5 * over, 0 * over, 0 * over], -1)
        down = np.array([0, -0.7, -0.25]) * smoothstep(95, 30, p[:, 1])[:, None]
        _, n = sculpt.gradient(p)
        rise = unit(n) * (0.55 * (1 - t))[:, None]
        return _tangent(unit(away) + sweep + down, p) + rise + jitter

    jitter = 0.22 * random.standard_normal((count, 3))
    layer = random.uniform(0, 1, count)
    sizes = length * (0.45 + 0.55 * top) * random.uniform(0.8, 1.2, count)

    def height(p: Array, t: Array) -> Array:
        body = lift * (0.35 + 0.65 * smoothstep(40, 110, p[:, 1])) * (0.55 + 0.6 * layer)
        return 2.0 + body * np.sin(np.pi * np.clip(t * 0.75, 0, 1))

    paths, outward = comb(roots.points, sizes, direction, height, steps, hug=0.3)
    width = taper(steps, random.uniform(1.7, 3.2, count), 2.2)
    return [ribbons(paths, outward, width, lock_colors(color, count, steps, random))]


def flowing(
    color: Array, random: np.random.Generator, bottom: float, part: float, volume: float, wave: float, fringe: bool
) -> list[Piece]:
    """Hair that falls from a parting at x = `part` to the height `bottom`."""
    count, fine, steps = 1050, 44, 11
    roots = sow(_grown, count, random)
    jitter = 0.10 * random.standard_normal((count, 3))
    phase = random.uniform(0, 2 * np.pi, count)
    layer = random.uniform(0.25, 1.0, count) ** 0.7
    own = np.where(roots.points[:, 0] > part, 1.0, -1.0)  # each hair stays on its side of the parting

    def direction(p: Array, t: Array) -> Array:
        side = own * np.maximum(np.abs(np.tanh((p[:, 0] - part) / 7.0)), 0.4 + 0.2 * smoothstep(-60, 0, p[:, 2]))
        over = smoothstep(70, 118, p[:, 1])
        d = np.stack([side * (0.15 + 1.1 * over), -1.0 + 0.55 * over, -0.30 * smoothstep(-30, 25, p[:, 2])], -1)
        face = smoothstep(-22, 6, p[:, 2]) * smoothstep(112, 84, p[:, 1])
        brow = smoothstep(112, 96, p[:, 1]) * smoothstep(60, 84, p[:, 1]) * smoothstep(-10, 12, p[:, 2])
        d += np.stack([own * 1.4 * face * smoothstep(80, 62, own * p[:, 0]), 0.55 * brow, -0.9 * face], -1)
        d[:, 0] -= np.sign(p[:, 0]) * 0.18 * smoothstep(-30, -60, p[:, 1])
        swing = (wave * smoothstep(0.25, 0.5, t) * smoothstep(0, -25, p[:, 2]))[:, None]
        sway = np.stack([np.cos(phase + 9 * t), 0 * t, np.sin(phase + 9 * t)], -1) * swing
        return d + jitter + sway

    def height(p: Array, t: Array) -> Array:
        body = volume * (0.45 + 0.75 * smoothstep(0.0, 0.4, t)) * layer
        return 3.0 + body + _ear_room(p) * (0.4 + 0.6 * layer)

    paths, outward = comb(roots.points, np.full(count, 430.0), direction, height, fine, hug=0.25, inertia=0.5)
    ends = bottom + random.uniform(-5, 9, count) + 18 * (1 - layer) * random.uniform(0, 1, count)
    paths, outward = _cut(paths, outward, ends, steps)
    width = taper(steps, random.uniform(2.6, 4.4, count), 6.0)
    pieces = [ribbons(paths, outward, width, lock_colors(color, count, steps, random))]
    if fringe:
        pieces.append(_fringe(color, random, volume))
    return pieces


def _fringe(color: Array, random: np.random.Generator, volume: float) -> Piece:
    count, steps = 190, 8
    near = sow(lambda p: _grown(p) * smoothstep(50, 38, np.abs(p[:, 0])) * smoothstep(0, 14, p[:, 2]), count, random)
    jitter = 0.08 * random.standard_normal((count, 3))

    def direction(p: Array, t: Array) -> Array:
        return _tangent(np.array([0.05, -1.0, 0.5]), p) + jitter

    def height(p: Array, t: Array) -> Array:
        body = volume * np.sin(np.pi * (0.15 + 0.7 * t)) * (0.4 + layer) * smoothstep(40, 70, p[:, 1])
        return 2.5 + 0.7 * body + 2.0 * t + 2.5 * layer

    layer = random.uniform(0, 1, count)
    paths, outward = comb(near.points, np.full(count, 95.0), direction, height, 24, hug=0.6)
    paths, outward = _cut(paths, outward, 51 + random.uniform(-3, 5, count), steps)
    width = taper(steps, random.uniform(1.9, 3.2, count), 5.0)
    return ribbons(paths, outward, width, lock_colors(color, count, steps, random))


def _drawn_back(color: Array, random: np.random.Generator, knot: tuple[float, float, float]) -> Piece:
    """All of the hair combed tightly to `knot`."""
    count, fine, steps = 1400, 30, 7
    roots = sow(_grown, count, random)
    center = np.asarray(knot)
    jitter = 0.05 * random.standard_normal((count, 3))
    layer = random.uniform(0.3, 1.0, count)

    def direction(p: Array, t: Array) -> Array:
        return _tangent(unit(center - p), p) + 0.25 * unit(center - p) + jitter

    def height(p: Array, t: Array) -> Array:
        return 1.5 + 5.5 * layer * smoothstep(0, 0.3, t)

    distance = np.linalg.norm(roots.points - center, axis=1)
    paths, outward = comb(roots.points, distance * 1.12, direction, height, fine, hug=0.5)
    kept = np.linspace(0, fine - 1, steps).astype(int)
    paths, outward = paths[:, kept], outward[:, kept]
    width = taper(steps, random.uniform(1.8, 3.0, count), 6.0)
    return ribbons(paths, outward, width, lock_colors(color, count, steps, random, 0.8))


def tied(color: Array, random: np.random.Generator, knot: tuple[float, float, float], size: float) -> list[Piece]:
    """Hair drawn back to a bun at `knot`."""
    turns, steps = 170, 12
    axis = unit(random.standard_normal((turns, 3)) * [1, 0.6, 1])
    start = unit(np.cross(axis, random.standard_normal((turns, 3))))
    angle = np.linspace(0, 2.4, steps)[None, :, None]
    circle = np.cos(angle) * start[:, None] + np.sin(angle) * np.cross(axis, start)[:, None]
    radius = size * random.uniform(0.86, 1.0, (turns, 1, 1))
    width = taper(steps, random.uniform(3.0, 5.0, turns), 4.0)
    ball = np.asarray(knot) + circle * radius * [1.05, 0.9, 1.0]
    bun = ribbons(ball, circle, width, lock_colors(color, turns, steps, random, 0.7))
    return [_drawn_back(color, random, knot), bun]


def ponytail(color: Array, random: np.random.Generator) -> list[Piece]:
    """Hair drawn back and falling behind the head, to one side so that it is seen from the front."""
    knot = np.array([0.0, 96.0, -142.0])
    side = random.choice([-1.0, 1.0])
    count, steps = 240, 12
    t = np.linspace(0, 1, steps)[None, :, None]
    spread = np.clip(random.standard_normal((count, 1, 3)), -1.7, 1.7) * [8, 5, 7]
    arc = np.sin(np.pi * np.minimum(t * 1.1, 1))
    fall = np.array([side * 30.0, -215.0, -8.0]) * t + np.array([side * 14.0, 20.0, -42.0]) * arc
    bulge = 0.4 + 1.1 * np.sin(np.pi * np.clip(t * 0.8, 0, 1))
    paths = knot + fall * random.uniform(0.85, 1.05, (count, 1, 1)) + spread * bulge
    outward = unit(spread / 8 + 0.5 * random.standard_normal((count, 1, 3)) + 0 * paths)
    width = taper(steps, random.uniform(3.4, 5.4, count), 4.0)
    tail = ribbons(paths, outward, width, lock_colors(color, count, steps, random, 0.8))
    return [_drawn_back(color, random, (0.0, 96.0, -136.0)), tail]


def curly(color: Array, random: np.random.Generator, length: float, curl: float) -> list[Piece]:
    """Curls that stand away from the head; `curl` is their radius."""
    count, steps = 1000, 12
    roots = sow(_grown, count, random)
    _, normal = sculpt.gradient(roots.points)
    normal = unit(normal)
    away = unit(roots.points - [0, 40, -50])
    t = np.linspace(0, 1, steps)[None, :, None]
    size = length * random.uniform(0.35, 1.05, count) ** 0.8
    size *= 0.62 + 0.38 * smoothstep(20, 90, roots.points[:, 1])
    size *= 1 - 0.55 * smoothstep(-10, 30, roots.points[:, 2]) * smoothstep(110, 85, roots.points[:, 1])
    lean = unit(0.8 * normal + 0.5 * away + 0.3 * random.standard_normal((count, 3)))
    droop = np.array([0, -0.45, 0]) * t**2
    spine = roots.points[:, None] + size[:, None, None] * (lean[:, None] * t + droop)
    u = unit(np.cross(lean, random.standard_normal((count, 3))))
    v = np.cross(lean, u)
    turn = random.uniform(0, 2 * np.pi, (count, 1, 1)) + t * random.uniform(7, 12, (count, 1, 1))
    paths = spine + curl * np.minimum(t * 3, 1) * (np.cos(turn) * u[:, None] + np.sin(turn) * v[:, None])
    outward = np.repeat(unit(lean + 0.4 * away)[:, None], steps, axis=1)
    width = taper(steps, random.uniform(1.8, 3.4, count), 4.0)
    return [ribbons(paths, outward, width, lock_colors(color, count, steps, random, 0.9))]


def buzzed(color: Array, random: np.random.Generator) -> list[Piece]:
    """Hair of a few millimetres: mostly texture, with a rough edge."""
    count, steps = 2200, 3
    roots = sow(_grown, count, random)

    def direction(p: Array, t: Array) -> Array:
        return unit(p - _CROWN) * 0.6 + unit(p - [0, 40, -50]) + jitter

    jitter = 0.3 * random.standard_normal((count, 3))
    paths, outward = comb(roots.points, random.uniform(3, 5, count), direction, lambda p, t: 1.5 * t, steps, 0.0)
    width = taper(steps, random.uniform(0.7, 1.3, count), 3.0)
    return [ribbons(paths, outward, width, lock_colors(1.2 * color, count, steps, random, 0.5))]


Style = Callable[[Array, np.random.Generator], list[Piece]]

_STYLES: dict[str, Style] = {
    "short": lambda color, random: short(color, random, 36, 11, 0.5),
    "crop": lambda color, random: short(color, random, 24, 6, 0.9),
    "brushed": lambda color, random: short(color, random, 52, 17, -1.2),
    "parted": lambda color, random: short(color, random, 46, 13, 0.15, part=float(random.choice([-22.0, 22.0]))),
    "bob": lambda color, random: flowing(
        color, random, random.uniform(-72, -54), random.choice([-26.0, 0.0, 26.0]), 10, 0.0, random.random() < 0.6
    ),
    "long": lambda color, random: flowing(
        color, random, -150, random.choice([-24.0, 0.0, 24.0]), 9, 0.0, random.random() < 0.3
    ),
    "wavy": lambda color, random: flowing(
        color, random, random.uniform(-130, -90), random.choice([-24.0, 24.0]), 13, 0.6, False
    ),
    "bun": lambda color, random: tied(color, random, (0.0, 137.0, -112.0), 27.0),
    "ponytail": ponytail,
    "curly": lambda color, random: curly(color, random, 34, 4.5),
    "afro": lambda color, random: curly(color, random, 48, 4.0),
    "buzz": buzzed,
    "bald": lambda color, random: [],
}

STYLES = tuple(_STYLES)
"""Names of the styles."""


def make_hair(style: str, color: Array, random: np.random.Generator) -> list[Piece]:
    """The hair of a style (one of `STYLES`) in a linear colour [3]."""
    return _STYLES[style](color, random)

"""The shape of the average synthetic head, as a signed distance function.

All lengths in this module are millimetres, in the axes of the head model: x to the person's left, y up, z to where
the face looks. The head is symmetric, so every primitive is evaluated at |x|. Proportions follow textbook
anthropometry of adults (head height about 222 mm from chin to vertex, eyes half-way, pupils 63 mm apart); the
primitives and the polynomial smooth minimum are Inigo Quilez's (https://iquilezles.org/articles/distfunctions/,
https://iquilezles.org/articles/smin/).
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray

EYE_CENTER = np.array([31.5, 26.0, 25.5])
EYE_RADIUS = 13.0
LID_RADIUS = 14.3
MOUTH_Y = -41.0
MOUTH_HALF_WIDTH = 24.0
JAW_JOINT = np.array([0.0, 2.0, -33.0])
NECK_JOINT = np.array([0.0, -45.0, -58.0])
ROOT_JOINT = np.array([0.0, -112.0, -74.0])
EAR_CENTER = np.array([70.0, 9.0, -42.0])
VERTEX = np.array([0.0, 138.0, -46.0])


def smooth_min(a: Array, b: Array, k: float) -> Array:
    """Smooth union of two distances, blended over `k` mm."""
    h = np.maximum(k - np.abs(a - b), 0.0) / k
    return np.minimum(a, b) - h * h * (k / 4.0)


def smooth_max(a: Array, b: Array, k: float) -> Array:
    """Smooth intersection of two distances, blended over `k` mm."""
    return -smooth_min(-a, -b, k)


def ellipsoid(p: Array, center: tuple[float, float, float], radii: tuple[float, float, float]) -> Array:
    """Approximate distance [N] of points [N, 3] to an axis-aligned ellipsoid (exact at its surface)."""
    x, y, z = ((p[..., axis] - center[axis]) / radii[axis] for axis in range(3))
    k0 = np.sqrt(x * x + y * y + z * z)
    x, y, z = x / radii[0], y / radii[1], z / radii[2]
    return k0 * (k0 - 1.0) / np.maximum(np.sqrt(x * x + y * y + z * z), 1e-9)


def cone(p: Array, a: tuple[float, float, float], b: tuple[float, float, float], ra: float, rb: float) -> Array:
    """Distance [N] of points [N, 3] to a capsule from `a` to `b` whose radius goes from `ra` to `rb`."""
    q = [p[..., axis] - a[axis] for axis in range(3)]
    axes = [b[axis] - a[axis] for axis in range(3)]
    t = (q[0] * axes[0] + q[1] * axes[1] + q[2] * axes[2]) / (axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2)
    t = np.clip(t, 0.0, 1.0)
    x, y, z = (q[axis] - t * axes[axis] for axis in range(3))
    return np.sqrt(x * x + y * y + z * z) - (ra + (rb - ra) * t)


def smoothstep(low: float | Array, high: float | Array, x: Array | float) -> Array:
    """Hermite step from 0 at `low` to 1 at `high` (`low` may be the larger one)."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def mouth_line(x: Array) -> Array:
    """Height of the line where the lips meet, at `x`."""
    s = np.abs(x) / MOUTH_HALF_WIDTH
    return MOUTH_Y - 0.7 * np.exp(-((s / 0.18) ** 2)) + 0.6 * np.exp(-(((s - 0.42) / 0.3) ** 2)) + 0.9 * s**3


def upper_lip_border(x: Array) -> Array:
    """Height of the upper lip's red border, with a cupid's bow, at `x`."""
    s = np.clip(np.abs(x) / MOUTH_HALF_WIDTH, 0.0, 1.0)
    arch = 8.3 * (1.0 - s**1.7) ** 0.9
    return mouth_line(x) + arch - 1.2 * np.exp(-((s / 0.11) ** 2)) + 0.3 * np.exp(-(((s - 0.23) / 0.12) ** 2))


def lower_lip_border(x: Array) -> Array:
    """Height of the lower lip's red border at `x`."""
    s = np.clip(np.abs(x) / MOUTH_HALF_WIDTH, 0.0, 1.0)
    return mouth_line(x) - 9.2 * (1.0 - s**2.4) ** 0.9


def distance(points: Array) -> Array:
    """Signed distance [N], mm, of `points` [N, 3], mm, to the average head without ears and eyeballs."""
    # One contiguous row per axis: the primitives work axis by axis.
    p = np.ascontiguousarray(points.T, dtype=float)
    np.abs(p[0], out=p[0])
    p = p.T
    x, y = p[..., 0], p[..., 1]

    # Skull and face.
    d = ellipsoid(p, (0, 50, -48), (75, 88, 96))
    d = smooth_min(d, ellipsoid(p, (0, 62, -10), (57, 56, 55)), 30)
    d = smooth_min(d, ellipsoid(p, (0, -4, -12), (58, 78, 50)), 30)
    # Mandible: ramus, body, chin.
    d = smooth_min(d, cone(p, (54, 2, -36), (41.5, -40, -30), 10, 10), 26)
    d = smooth_min(d, cone(p, (40.5, -41, -28), (10, -71, 30), 11.5, 10.5), 20)
    d = smooth_min(d, ellipsoid(p, (0, -71, 34.5), (15.5, 12.5, 13.5)), 15)
    # Muzzle, cheek bones and cheeks.
    d = smooth_min(d, ellipsoid(p, (0, -38, 21), (30, 27, 24)), 18)
    d = smooth_min(d, ellipsoid(p, (44, 3, 13), (18, 13, 18)), 20)
    d = smooth_min(d, ellipsoid(p, (35, -22, 12), (20, 26, 21)), 24)
    d = smooth_min(d, cone(p, (50, 6, 10), (63, 8, -28), 9, 7), 20)
    # Brow ridge.
    d = smooth_min(d, cone(p, (10, 41, 37.5), (40, 43, 24), 7.5, 9), 14)
    # Neck.
    d = smooth_min(d, neck(p), 20)
    # Eye sockets, then the lids that cover the eyeballs.
    d = smooth_max(d, -ellipsoid(p, (32, 27, 49), (21, 12, 14.5)), 14)
    d = smooth_max(d, -ellipsoid(p, (17, 24, 50), (8, 9, 10)), 11)
    lids = np.sqrt(((p - EYE_CENTER) ** 2).sum(-1)) - LID_RADIUS
    d = smooth_min(d, lids, 5)
    # Nose: bridge, tip, septum; wings with their crease; nostrils.
    nose = cone(p, (0, 28, 35), (0, -6, 54.5), 7.0, 7.8)
    nose = smooth_min(nose, ellipsoid(p, (0, -10, 58), (8.6, 8.0, 9.5)), 7)
    nose = smooth_min(nose, cone(p, (0, -13.5, 57.5), (0, -20, 45), 4.2, 4.6), 5)
    d = smooth_min(d, nose, 10)
    d = smooth_min(d, ellipsoid(p, (11.2, -14.8, 48), (5.6, 6.6, 9.5)), 4.5)
    d = smooth_max(d, -ellipsoid(p, (6.6, -21.0, 52.5), (3.0, 3.6, 5.5)), 4)
    # Fold from the nose's wing towards the corner of the mouth, philtrum, fold above the chin.
    d = smooth_max(d, -cone(p, (20, -17, 46), (31, -40, 37), 0.4, 0.4), 6)
    d = smooth_max(d, -cone(p, (0, -24, 52.5), (0, -31, 53), 1.6, 2.2), 5)
    d = smooth_max(d, -cone(p, (0, -57, 51), (10, -57, 48), 2.5, 1.0), 8)
    # Lips: two swellings that follow the borders, parted by a groove along the line where they meet.
    line = mouth_line(x)
    upper, lower = upper_lip_border(x) - line, line - lower_lip_border(x)
    arch = 45.2 - 0.0172 * x**2
    ends = np.maximum(x - MOUTH_HALF_WIDTH, 0.0)
    up = (y - line - 0.44 * upper) ** 2 + (p[..., 2] - arch) ** 2 + ends**2
    low = (y - line + 0.46 * lower) ** 2 + (p[..., 2] - arch + 0.9) ** 2 + ends**2
    lips = smooth_min(np.sqrt(up) - (0.9 + 0.6 * upper), np.sqrt(low) - (0.9 + 0.62 * lower), 1.0)
    return smooth_min(d, lips, 5)


def neck(p: Array) -> Array:
    """Distance to the neck (p has |x|)."""
    y = p[..., 1]
    t = smoothstep(-50, -155, y)
    half_width = 43.5 + 5 * t + 22 * smoothstep(-122, -168, y) ** 2
    center = -55 - 15 * t
    depth = 47 + 6 * t
    q = np.stack([p[..., 0] / half_width, (p[..., 2] - center) / depth], -1)
    r = np.sqrt((q**2).sum(-1))
    d = (r - 1.0) * np.minimum(half_width, depth)
    # The muscles from behind the ears to the collar bones.
    d = smooth_min(d, cone(p, (42, -25, -60), (17, -150, -22), 11, 8), 12)
    return smooth_max(d, y + 20, 30)


_TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.05


def gradient(points: Array) -> tuple[Array, Array]:
    """Distance [N] and its gradient [N, 3], from the four corners of a small tetrahedron around each point."""
    n = len(points)
    folded = np.abs(points * [1, 0, 0]) + points * [0, 1, 1]  # the corners are not symmetric, so one side decides
    d = distance((folded[None] + _TETRAHEDRON[:, None]).reshape(-1, 3)).reshape(4, n)
    slope = d.T @ _TETRAHEDRON / (4 * 0.05**2)
    slope[:, 0] *= np.sign(points[:, 0])
    return d.mean(0), slope


def project(points: Array, steps: int = 3) -> Array:
    """Move `points` [N, 3] to the surface along the distance's gradient (Newton steps of at most 4 mm)."""
    p = np.array(points, dtype=float)
    for _ in range(steps):
        d, g = gradient(p)
        length = np.maximum((g * g).sum(-1), 0.05)
        p -= np.clip(d / length, -4, 4)[:, None] * g
    return p


def march(origins: Array, directions: Array, near: float, far: float, steps: int = 40) -> Array:
    """The last point [N, 3] of each ray (origin inside the head) where it leaves the head, by search from outside."""
    t = np.full(len(origins), float(far))
    for _ in range(steps):
        d = distance(origins + t[:, None] * directions)
        t = np.maximum(t - 0.8 * d, near)
        if np.abs(d).max() < 0.02:
            break
    return origins + t[:, None] * directions

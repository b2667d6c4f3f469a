"""Topology, rest positions and UV atlas of the average synthetic head.

The skin is one sheet: a grid of columns (from the back of the head, round its right side, the face, the left side and
to the back again) and rows (from the vertex down to the collar) that is wrapped onto `osgap.synthetic.head.sculpt`.
The grid is cut along parts of two rows, for the eyes and the mouth; each cut is closed behind by a pocket, so that
nothing is seen through it. Ears, eyeballs and teeth are sheets of their own. Lengths are millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from osgap.synthetic.head import sculpt
from osgap.synthetic.head.organs import ATLAS_MARGIN, ATLAS_STRIP, add_ear, add_eyeball, add_teeth
from osgap.synthetic.head.sculpt import smoothstep
from osgap.synthetic.head.sheets import Sheets

Array = np.ndarray

# Columns: x (mm, at the depth of the eyes) of those that face the front, then steps of azimuth towards the back.
_FRONT_X = np.array(
    [0, 3, 6, 9, 12, 15, 17.8, 19.9, 21.9, 24, 26.4, 29, 31.6, 34.2, 36.7, 39.1, 41.3, 43.4, 45.3, 48, 51.3]
)
_INNER, _OUTER, _CORNER = 6, 18, 9  # columns of the eye's corners and of the mouth's
_SIDE_COLUMNS = 16
_AXIS_Z = -46.0
_EYE_PLANE = 85.0  # distance of the eyes from the axis

# Rows: elevation (degrees) above the brow, then heights (mm) at the front.
_ELEVATIONS = np.array([81, 71, 61, 52, 43.5, 36, 29.5, 23.5, 18, 13, 8.5, 4.5, 1])
_BROW_Y = 45.0
_EYE_Y = 25.0
_HEIGHTS = np.concatenate(
    [
        [42, 39, 36.2, 33.6, 31.2, 29, 27, _EYE_Y, 23, 21, 18.8, 16.4, 13.8, 10.8, 7.6, 4.4, 1.2, -2, -5],
        [-8, -11, -13.8, -16.4, -19, -21.4, -23.8, -26.4, -29, -31.6, -34, -36.2, -38, -39.6, sculpt.MOUTH_Y],
        [-42.4, -44, -46, -48.4, -51, -53.8, -56.8, -60, -63.5, -67.2, -71, -74.8, -78.4, -81.8, -85],
        [-88.2, -91.5, -95, -99, -104, -110, -117, -125, -134, -144, -154],
    ]
)
_BACK_BOTTOM = -138.0

# UV atlas: the skin fills all but a strip at the bottom, in which the small parts lie.
_FRONT_SHARE = 0.66
_EYE_HOLE, _MOUTH_HOLE = 0.018, 0.026


@dataclass(frozen=True)
class HeadMesh:
    """The average head. Left and right are the person's."""

    vertices: Array
    """[V, 3] mm."""
    faces: Array
    """[F, 3] vertex ids."""
    uvs: Array
    """[VT, 2] u right, v up."""
    uv_faces: Array
    """[F, 3] UV vertex ids."""
    parts: dict[str, Array]
    """Vertex ids by sheet: skin, eye_pocket_*, mouth_pocket, ear_*, eyeball_*, teeth_upper, teeth_lower."""
    rims: dict[str, Array]
    """Vertex ids along the cuts, corner to corner: eye_{left,right}_{upper,lower} (inner to outer), mouth_{upper,lower}
    (right to left)."""
    collar: Array
    """Vertex ids of the last row, back to back."""
    mirror: Array
    """[V] id of each vertex's mirror image."""


def build_mesh() -> HeadMesh:
    """Build the average head (about a second)."""
    sheets = Sheets()
    skin = _Skin(sheets)
    parts = {"skin": np.arange(sheets.vertex_count)}
    for side in ("left", "right"):
        parts[f"eye_pocket_{side}"] = skin.close_eye(side)
    parts["mouth_pocket"] = skin.close_mouth()
    for side, sign in (("left", 1.0), ("right", -1.0)):
        parts[f"ear_{side}"] = add_ear(sheets, sign)
        parts[f"eyeball_{side}"] = add_eyeball(sheets, sign)
    for row in ("upper", "lower"):
        parts[f"teeth_{row}"] = add_teeth(sheets, row)
    vertices = np.concatenate(sheets.vertices)
    mirror = _mirror(vertices)
    vertices = 0.5 * (vertices + vertices[mirror] * [-1, 1, 1])
    return HeadMesh(
        vertices=vertices,
        faces=np.array(sheets.faces),
        uvs=np.concatenate(sheets.uvs),
        uv_faces=np.array(sheets.uv_faces),
        parts=parts,
        rims=skin.rims(),
        collar=skin.below[-1],
        mirror=mirror,
    )


def _mirror(vertices: Array) -> Array:
    """For each vertex, the id of the vertex at its mirror image."""
    from scipy.spatial import cKDTree

    # The two sides of a closed cut nearly coincide, but are built in mirrored order: break ties by position only.
    distance, index = cKDTree(vertices).query(vertices * [-1, 1, 1])
    if distance.max() > 0.02 or len(np.unique(index)) != len(index):
        raise AssertionError(f"the synthetic head is not symmetric: {distance.max():.3f} mm")
    return index


def eye_rim(s: Array, upper: bool) -> tuple[Array, Array]:
    """Front view (x, y) of a lid's edge; `s` runs from the inner corner (0) to the outer (1)."""
    x = _FRONT_X[_INNER] + (_FRONT_X[_OUTER] - _FRONT_X[_INNER]) * s
    base = 24.0 + 2.6 * s
    if upper:
        bump = (s**0.8 * (1 - s) ** 0.95) / (0.457**0.8 * 0.543**0.95)
        return x, base + 5.6 * bump**0.9
    bump = (s**1.05 * (1 - s) ** 0.8) / (0.568**1.05 * 0.432**0.8)
    return x, base - 4.0 * bump**0.9


_CARUNCLE = (0.95, 0.75, 0.3)  # how far the lids' margins close the opening, by column from the inner corner


def _unit_rows(v: Array) -> Array:
    """Rows of `v` [n, 3] at unit length."""
    return v / np.linalg.norm(v, axis=1, keepdims=True)


class _Skin:
    """The skin sheet: ids by row and column (`above` seen from the quads above a row, `below` from those below)."""

    def __init__(self, sheets: Sheets) -> None:
        self.sheets = sheets
        azimuth = np.arctan(_FRONT_X / _EYE_PLANE)
        step0 = azimuth[-1] - azimuth[-2]
        ramp = np.linspace(0, 1, _SIDE_COLUMNS)
        growth = (np.pi - azimuth[-1] - _SIDE_COLUMNS * step0) / ramp.sum()
        azimuth = np.concatenate([azimuth, azimuth[-1] + np.cumsum(step0 + growth * ramp)])
        self.half = len(azimuth) - 1
        self.azimuth = np.concatenate([-azimuth[:0:-1], azimuth])  # both ends are the back of the head
        self.rows = len(_ELEVATIONS) + len(_HEIGHTS)
        self.eye_row = len(_ELEVATIONS) + int(np.flatnonzero(_HEIGHTS == _EYE_Y)[0])
        self.mouth_row = len(_ELEVATIONS) + int(np.flatnonzero(_HEIGHTS == sculpt.MOUTH_Y)[0])
        self.cuts = {
            "right": (self.eye_row, self.half - _OUTER, self.half - _INNER),
            "left": (self.eye_row, self.half + _INNER, self.half + _OUTER),
            "mouth": (self.mouth_row, self.half - _CORNER, self.half + _CORNER),
        }
        self._make_vertices()
        self._make_uvs()
        self._make_faces()

    def _make_vertices(self) -> None:
        columns = 2 * self.half
        ids = np.arange(self.rows * columns).reshape(self.rows, columns)
        self.above = np.concatenate([ids, ids[:, :1]], axis=1)
        self.below = self.above.copy()
        count = ids.size
        for row, first, last in self.cuts.values():
            inner = last - first - 1
            self.below[row, first + 1 : last] = count + np.arange(inner)
            count += inner
        self.pole = count
        points = np.zeros((count + 1, 3))
        start = self._start()
        points[self.above] = start
        points[self.below] = start
        points[self.pole] = sculpt.VERTEX
        pinned = np.zeros(count + 1, bool)
        for name, (row, first, last) in self.cuts.items():
            upper, lower = self._rim_targets(name)
            points[self.above[row, first : last + 1]] = upper
            points[self.below[row, first : last + 1]] = lower
            pinned[self.above[row, first : last + 1]] = True
            pinned[self.below[row, first : last + 1]] = True
        pinned[self.above[-1]] = True
        mirror = np.arange(len(points))
        for ids in (self.above, self.below):
            mirror[ids] = ids[:, ::-1]
        self.sheets.add_vertices(_relax(points, self._edges(), pinned, mirror))

    def _start(self) -> Array:
        """First guess of the grid [rows, columns, 3]: rays from the head's axis."""
        azimuth = self.azimuth[None]
        flat = np.stack([np.sin(azimuth), np.zeros_like(azimuth), np.cos(azimuth)], -1)
        elevation = np.deg2rad(_ELEVATIONS)[:, None, None]
        up = np.array([0.0, 1.0, 0.0])
        dome = np.cos(elevation) * flat + np.sin(elevation) * up
        dome_origin = np.broadcast_to([0.0, _BROW_Y, _AXIS_Z], dome.shape)
        x = np.tan(np.clip(self.azimuth, -1.2, 1.2)) * _EYE_PLANE
        front = self._front_heights(x)
        rear = np.linspace(_BROW_Y - 5, _BACK_BOTTOM, len(_HEIGHTS))[:, None]
        blend = smoothstep(np.deg2rad(35), np.pi, np.abs(azimuth))
        height = front + (rear - front) * blend
        wall_origin = np.zeros((*height.shape, 3))
        wall_origin[..., 1] = height
        wall_origin[..., 2] = _AXIS_Z - 14 * smoothstep(20, -110, height)
        wall = np.broadcast_to(flat, wall_origin.shape)
        origins = np.concatenate([dome_origin, wall_origin])
        directions = np.concatenate([dome, wall])
        return sculpt.march(origins.reshape(-1, 3), directions.reshape(-1, 3), 5.0, 160.0).reshape(origins.shape)

    def _front_heights(self, x: Array) -> Array:
        """Heights [rows below the brow, columns] at the front: rows make way for the eyes and follow the lips."""
        y = np.repeat(_HEIGHTS[:, None], len(x), axis=1)
        s = (np.abs(x) - _FRONT_X[_INNER]) / (_FRONT_X[_OUTER] - _FRONT_X[_INNER])
        inside = np.clip(s, 0, 1)
        fade = np.exp(-((np.maximum(np.abs(s - 0.5) - 0.5, 0) / 0.25) ** 2))
        top, bottom = eye_rim(inside, True)[1] - _EYE_Y, eye_rim(inside, False)[1] - _EYE_Y
        reach_up, reach_down = 20.0, 19.0
        shift_up = top * fade * np.clip(1 - (y - _EYE_Y) / reach_up, 0, 1)
        shift_down = bottom * fade * np.clip(1 - (_EYE_Y - y) / reach_down, 0, 1)
        y = y + np.where(y > _EYE_Y, shift_up, np.where(y < _EYE_Y, shift_down, 0.5 * (shift_up + shift_down)))
        line = (sculpt.mouth_line(np.minimum(np.abs(x), 30)) - sculpt.MOUTH_Y) * np.exp(-((x / 30) ** 4))
        return y + line * np.clip(1 - np.abs(y - sculpt.MOUTH_Y) / 14, 0, 1)

    def _rim_targets(self, name: str) -> tuple[Array, Array]:
        """Where the vertices of a cut's two edges lie, corner to corner by column, [n, 3] each."""
        forward = np.array([0.0, 0.0, 1.0])
        if name == "mouth":
            x = np.concatenate([-_FRONT_X[_CORNER:0:-1], _FRONT_X[: _CORNER + 1]])
            origin = np.stack([x, sculpt.mouth_line(x), np.zeros_like(x)], -1)
            line = sculpt.march(origin, np.broadcast_to(forward, origin.shape), 0.0, 120.0)
            gap = 0.12 * (1 - (x / x[-1]) ** 2)
            return line + gap[:, None] * [0, 1, 0], line - gap[:, None] * [0, 1, 0]
        s = (_FRONT_X[_INNER : _OUTER + 1] - _FRONT_X[_INNER]) / (_FRONT_X[_OUTER] - _FRONT_X[_INNER])
        edges = []
        for upper in (True, False):
            x, y = eye_rim(s, upper)
            origin = np.stack([x, y, np.zeros_like(x)], -1)
            edge = sculpt.march(origin, np.broadcast_to(forward, origin.shape), 0.0, 120.0)
            edges.append(edge if name == "left" else edge[::-1] * [-1, 1, 1])
        return edges[0], edges[1]

    def _edges(self) -> Array:
        """Grid edges [E, 2] (no diagonals), cut edges on both sides."""
        pairs = [np.stack([self.below[:-1], self.above[1:]], -1)[:, :-1].reshape(-1, 2)]
        for ids in (self.above, self.below):
            pairs.append(np.stack([ids[:, :-1], ids[:, 1:]], -1).reshape(-1, 2))
        pairs.append(np.stack([np.full(2 * self.half, self.pole), self.above[0, :-1]], -1))
        return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)

    def _make_uvs(self) -> None:
        points = np.concatenate(self.sheets.vertices)
        front = np.linspace(0, 1, len(_FRONT_X))
        # Columns near the midline get a little more: u' decreases by a third from the nose to the temple.
        front = (front - 0.17 * front**2) / 0.83
        side = np.diff(self.azimuth[self.half + len(_FRONT_X) - 1 :])
        side = np.cumsum(side**0.8) / (side**0.8).sum()
        half = np.concatenate([_FRONT_SHARE * front, _FRONT_SHARE + (1 - _FRONT_SHARE) * side]) / 2
        u = 0.5 + (1 - 2 * ATLAS_MARGIN) * np.concatenate([-half[:0:-1], half])
        middle = points[self.above[:, self.half]]
        length = np.linalg.norm(np.diff(middle, axis=0, prepend=sculpt.VERTEX[None]), axis=1)
        y = middle[:, 1]
        share = np.where(y > 60, 0.5, 1.0) * np.where(y < -84, 0.42, 1.0)
        share[0] = 0.12
        share = np.convolve(np.pad(length * share, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
        share[0] *= 0.4
        v = 1 - ATLAS_MARGIN - (1 - 2 * ATLAS_MARGIN - ATLAS_STRIP) * np.cumsum(share) / share.sum()
        grid = np.stack(np.broadcast_arrays(u[None], v[:, None]), -1)
        upper, lower = grid.copy(), grid.copy()
        for name, (row, first, last) in self.cuts.items():
            opening = np.zeros(len(u))
            s = (u[first : last + 1] - u[first]) / (u[last] - u[first])
            opening[first : last + 1] = (_MOUTH_HOLE if name == "mouth" else _EYE_HOLE) * np.sin(np.pi * s) ** 0.7
            reach = np.clip(1 - np.abs(np.arange(self.rows) - row) / 9, 0, 1)[:, None]
            side_sign = np.sign(row - np.arange(self.rows))[:, None]
            for target, cut_sign in ((upper, 1.0), (lower, -1.0)):
                sign = np.where(side_sign == 0, cut_sign, side_sign)
                target[..., 1] += sign * reach * opening[None]
        self.uv_above = self.sheets.add_uvs(upper)
        self.uv_below = self.uv_above.copy()
        for row, first, last in self.cuts.values():
            self.uv_below[row, first + 1 : last] = self.sheets.add_uvs(lower[row, first + 1 : last])
        self.uv_pole = self.sheets.add_uvs(
            np.stack([0.5 * (u[1:] + u[:-1]), np.full(len(u) - 1, 1 - ATLAS_MARGIN)], axis=-1)
        )

    def _make_faces(self) -> None:
        for c in range(2 * self.half):
            self.sheets.faces.append((self.pole, int(self.above[0, c]), int(self.above[0, c + 1])))
            self.sheets.uv_faces.append((int(self.uv_pole[c]), int(self.uv_above[0, c]), int(self.uv_above[0, c + 1])))
        for r in range(self.rows - 1):
            self.sheets.add_strip(
                self.below[r], self.above[r + 1], self.uv_below[r], self.uv_above[r + 1], middle=self.half
            )

    def rims(self) -> dict[str, Array]:
        """Vertex ids along the cuts' edges."""
        result = {}
        for name, (row, first, last) in self.cuts.items():
            for edge, ids in (("upper", self.above), ("lower", self.below)):
                rim = ids[row, first : last + 1]
                key = "mouth" if name == "mouth" else f"eye_{name}"
                result[f"{key}_{edge}"] = rim[::-1] if name == "right" else rim
        return result

    def _close(self, name: str, rows: list[Array], middle: int) -> Array:
        """Close a cut by rows of points [columns strictly inside the cut, 3], listed from the upper edge down."""
        row, first, last = self.cuts[name]
        uv_all = np.concatenate(self.sheets.uvs)
        upper, lower = self.above[row, first : last + 1], self.below[row, first : last + 1]
        uv_upper, uv_lower = self.uv_above[row, first : last + 1], self.uv_below[row, first : last + 1]
        ids, uv_ids, added = [upper], [uv_upper], []
        for k, points in enumerate(rows, start=1):
            line, uv_line = upper.copy(), uv_upper.copy()
            line[1:-1] = self.sheets.add_vertices(points)
            t = k / (len(rows) + 1)
            uv_line[1:-1] = self.sheets.add_uvs((uv_all[uv_upper] * (1 - t) + uv_all[uv_lower] * t)[1:-1])
            ids.append(line)
            uv_ids.append(uv_line)
            added.append(line[1:-1])
        ids.append(lower)
        uv_ids.append(uv_lower)
        for k in range(len(ids) - 1):
            self.sheets.add_strip(ids[k], ids[k + 1], uv_ids[k], uv_ids[k + 1], middle=middle)
        return np.concatenate(added)

    def close_eye(self, side: str) -> Array:
        """The pocket behind an eye's opening: the lids' thickness, then round the back of the eyeball."""
        sign = 1.0 if side == "left" else -1.0
        center = sculpt.EYE_CENTER * [sign, 1, 1]
        row, first, last = self.cuts[side]
        points = np.concatenate(self.sheets.vertices)

        def around(rim: Array, turn: float, radius: float) -> Array:
            """Rim points turned about the eye's horizontal axis by `turn` degrees, at a distance from its centre."""
            q = points[rim] - center
            q = q / np.linalg.norm(q, axis=1, keepdims=True)
            angle = np.deg2rad(turn)
            y = q[:, 1] * np.cos(angle) + q[:, 2] * np.sin(angle)
            z = q[:, 2] * np.cos(angle) - q[:, 1] * np.sin(angle)
            return center + radius * np.stack([q[:, 0], y, z], -1)

        upper, lower = self.above[row, first + 1 : last], self.below[row, first + 1 : last]
        thin, wide = sculpt.EYE_RADIUS + 0.15, sculpt.EYE_RADIUS + 0.6
        rows = [around(upper, 4, thin), around(upper, 40, wide), around(upper, 110, wide)]
        rows += [around(lower, -110, wide), around(lower, -40, wide), around(lower, -4, thin)]
        # The caruncle: near the inner corner both lids' margins meet in front of the eyeball.
        plug = np.zeros((len(upper), 1))
        plug[: len(_CARUNCLE), 0] = _CARUNCLE
        if side == "right":
            plug = plug[::-1]
        bridge = center + _unit_rows(0.5 * (points[upper] + points[lower]) - center) * (sculpt.EYE_RADIUS + 0.5)
        for k in (0, -1):
            rows[k] = rows[k] + plug * (bridge - rows[k])
        return self._close(side, rows, middle=0 if side == "left" else last - first)

    def close_mouth(self) -> Array:
        """The inside of the mouth: inner lips, the space before and behind the teeth, the throat."""
        row, first, last = self.cuts["mouth"]
        points = np.concatenate(self.sheets.vertices)
        upper, lower = points[self.above[row, first + 1 : last]], points[self.below[row, first + 1 : last]]

        def inward(rim: Array, dy: float, dz: float) -> Array:
            s = np.abs(rim[:, :1]) / sculpt.MOUTH_HALF_WIDTH
            shrink = 1 - 0.0035 * abs(dz)
            bulge = np.clip(1 - s**3, 0, 1)
            return np.concatenate([rim[:, :1] * shrink, rim[:, 1:2] + dy * bulge, rim[:, 2:] + dz], axis=1)

        # Behind their edges the lips press into each other by a hair, so that a closed mouth shows nothing inside.
        touch = 0.5 * (upper + lower)
        rows = [inward(touch, -0.1, -1.2), inward(upper, 2.5, -4.0), inward(upper, 10, -6), inward(upper, 12, -16)]
        rows += [inward(upper, 5, -36), inward(lower, -3, -36)]
        rows += [inward(lower, -5, -16), inward(lower, -10, -7), inward(lower, -2.5, -4.0), inward(touch, 0.1, -1.2)]
        return self._close("mouth", rows, middle=(last - first) // 2)


def _relax(points: Array, edges: Array, pinned: Array, mirror: Array, iterations: int = 14) -> Array:
    """Even out a wrapped grid: neighbours' averages, back onto the surface; pinned vertices stay, both sides agree."""
    n = len(points)
    rows, cols = np.concatenate([edges[:, 0], edges[:, 1]]), np.concatenate([edges[:, 1], edges[:, 0]])
    adjacency = sp.csr_matrix((np.ones(len(rows)), (rows, cols)), shape=(n, n))
    average = sp.diags(1 / np.asarray(adjacency.sum(1)).ravel()) @ adjacency
    free = ~pinned
    for _ in range(iterations):
        points = points.copy()
        points[free] += 0.5 * (average @ points - points)[free]
        points[free] = sculpt.project(points[free], steps=1)
        points = 0.5 * (points + points[mirror] * [-1, 1, 1])
    points[free] = sculpt.project(points[free], steps=2)
    return points

"""Compiled kernels of the CPU renderer; `osgap.splat.backends.cpu` calls them.

The image is cut into tiles of `TILE_HEIGHT` rows and at most `TILE_WIDTH` columns. Each tile blends its Gaussians
front to back, one row at a time, in groups of `LANES` pixels that start wherever the Gaussian's bounding box does, so
that a small Gaussian costs one group per row. What a tile keeps per pixel (transmittance, colours, ...) are planes of
one scratch array: their distances are compile-time constants, which is what lets LLVM vectorise the loops over lanes.

Every loop has one fixed order and every tile and every chunk of Gaussians writes to its own memory, so results do not
depend on how the work is spread over threads. All kernels compile for float32 and float64 and release the GIL.

Numba notices a change to a cached kernel by the time stamp of its file alone, and would go on with what it compiled of
another file: everything that the kernels call or read is in this one for that reason, however long it gets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

# What defines the picture; `osgap.splat.render.render` says where each enters.
ALPHA_CUT = 1 / 255
TRANSMITTANCE_STOP = 1e-4
LOW_PASS = 0.3  # added to the variances of the projected Gaussian, pixels squared
JACOBIAN_MARGIN = 0.15  # how far outside the image the Jacobian is linearised at most, in image widths and heights
DEPTH_FLOOR = 1e-10  # alpha is at least this where the depth is divided by it

LANES = 16  # one AVX-512 register of float32, two of AVX2
GROUP = np.uint64(LANES)
REFRESH = 32  # Gaussians between two looks at which groups of pixels have ended
TILE_HEIGHT = 8
TILE_WIDTH = 112  # at most; a group of lanes that starts in the last column still fits into PITCH
PITCH = 128
PLANE = TILE_HEIGHT * PITCH
CHUNK = 1024  # Gaussians per unit of work

# Columns of `records`, one row per camera and Gaussian. With h = dx - SHEAR dy the alpha at (dx, dy) from (X, Y) is
# 2^(LOG_OPACITY - ALONG h^2 - ACROSS dy^2): the conic as a sum of squares, so that thin Gaussians lose no digits.
X, Y, ALONG, SHEAR, ACROSS, LOG_OPACITY, RED, GREEN, BLUE, DEPTH, FEATURES = range(11)
# Columns of the gradients of one (tile, Gaussian) pair: sums over the pixels of e = dL/d(ln alpha) and its moments,
# then the gradients of what is blended.
E, E_H, E_HH, E_HY, E_Y, E_YY, G_RED, G_GREEN, G_BLUE, G_DEPTH, G_FEATURES = range(11)
# Where the planes of the scratch arrays start. Unsigned, because Numba lets a signed index count from the end and that
# test would stop LLVM; offsets instead of views, because views are reference counted.
_PLANES = [np.uint64(plane * PLANE) for plane in range(9)]
# Forward pass. LAST is how far down the list the pixel went; a pixel that ended has its TRANSMITTANCE negated.
F_PLANES = 7
TRANSMITTANCE, LAST, WEIGHT, F_RED, F_GREEN, F_BLUE, F_DEPTH = _PLANES[:F_PLANES]
# Backward pass, the first three as before. BEHIND is the product of what lies behind the current Gaussian with its
# gradient, DOT that of the Gaussian's features with theirs.
B_PLANES = 9
BEHIND, DOT, B_RED, B_GREEN, B_BLUE, B_DEPTH = _PLANES[3:B_PLANES]

# Reassociation and contraction vectorise the sums; NaN and infinity keep their meaning.
_FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


def _jit(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`numba.njit`, cached on disk where there is a place to write to."""
    options = {"fastmath": _FASTMATH, "error_model": "numpy", "nogil": True, **options}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache folder is writable
            return numba.njit(**options)(function)

    return decorate


def _exp2(t: float) -> float:
    """2^t for -126 <= t < 128."""
    raise NotImplementedError("compiled code only")


@overload(_exp2, jit_options={"fastmath": _FASTMATH, "error_model": "numpy"})
def _exp2_overload(t):
    if t != types.float32:
        return lambda t: np.exp2(t)

    def polynomial(t):
        # Minimax polynomial of 2^f on [-1, 0] with p(0) = 1 (relative error 2e-9), times 2^n through the exponent.
        n = np.int32(t - np.float32(128.0)) + np.int32(128)  # rounds up: the conversion drops the fraction
        f = t - np.float32(n)
        p = np.float32(0.0001090232437612193)
        p = p * f + np.float32(0.0012747483379668134)
        p = p * f + np.float32(0.009579179716427869)
        p = p * f + np.float32(0.055490757096681956)
        p = p * f + np.float32(0.2402243678238163)
        p = p * f + np.float32(0.693147064327522)
        p = p * f + np.float32(1.0)
        return p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)

    return polynomial


# ----------------------------------------------------------------------------------------------------------------
# Projection


@_jit()
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@_jit()
def _cross(a, b):
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


@_jit()
def _sum(p, a, q, b):
    """p a + q b for 3-vectors a and b."""
    return (p * a[0] + q * b[0], p * a[1] + q * b[1], p * a[2] + q * b[2])


@_jit()
def _columns(m):
    return ((m[0][0], m[1][0], m[2][0]), (m[0][1], m[1][1], m[2][1]), (m[0][2], m[1][2], m[2][2]))


@_jit()
def _row(a, i):
    return (a[i, 0], a[i, 1], a[i, 2])


@_jit()
def _unit_quaternion(q):
    """The unit quaternion and 1 / norm; a zero quaternion counts as no rotation, with gradient 0."""
    one = type(q[0])(1)
    zero = type(q[0])(0)
    square = q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3]
    if not square > zero:
        return (one, zero, zero, zero), zero
    inverse = one / np.sqrt(square)
    return (q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse), inverse


@_jit()
def _rotation(q):
    """Rows of the rotation matrix of a unit quaternion wxyz."""
    w, x, y, z = q
    one = type(w)(1)
    two = type(w)(2)
    return (
        (one - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y)),
        (two * (x * y + w * z), one - two * (x * x + z * z), two * (y * z - w * x)),
        (two * (x * z - w * y), two * (y * z + w * x), one - two * (x * x + y * y)),
    )


@_jit()
def _rotation_gradient(q, g):
    """Gradient of a unit quaternion from the gradient (rows) of its rotation matrix."""
    w, x, y, z = q
    two = type(w)(2)
    a = g[2][1] - g[1][2]
    b = g[0][2] - g[2][0]
    c = g[1][0] - g[0][1]
    xy = g[0][1] + g[1][0]
    xz = g[0][2] + g[2][0]
    yz = g[1][2] + g[2][1]
    return (
        two * (x * a + y * b + z * c),
        two * (w * a + y * xy + z * xz - two * x * (g[1][1] + g[2][2])),
        two * (w * b + x * xy + z * yz - two * y * (g[0][0] + g[2][2])),
        two * (w * c + x * xz + y * yz - two * z * (g[0][0] + g[1][1])),
    )


@_jit()
def _limited(offset, center, size):
    """A pixel offset from the principal point, limited to the image and a margin; and whether it was inside."""
    margin = type(offset)(JACOBIAN_MARGIN) * size
    low = -(center + margin)
    high = size - center + margin
    if offset < low:
        return low, False
    if offset > high:
        return high, False
    return offset, True


@_jit()
def _project(point, rows, axes, focal, center, size):
    """Project a camera-space point and the Gaussian around it.

    `rows` are those of the camera's rotation W, `axes` the rows of R diag(s). Returns the pixel offsets (u, v) from
    the principal point; those in the Jacobian, each with whether it was within the limits; the rows of J W and of
    J W R diag(s); and the covariance (xx, xy, yy) with its determinant.
    """
    x, y, z = point
    one = type(x)(1)
    low_pass = type(x)(LOW_PASS)
    inverse = one / z
    u = focal[0] * x * inverse
    v = focal[1] * y * inverse
    limited_u = _limited(u, center[0], size[0])
    limited_v = _limited(v, center[1], size[1])
    first = _sum(focal[0] * inverse, rows[0], -limited_u[0] * inverse, rows[2])
    second = _sum(focal[1] * inverse, rows[1], -limited_v[0] * inverse, rows[2])
    c0, c1, c2 = _columns(axes)
    m0 = (_dot(first, c0), _dot(first, c1), _dot(first, c2))
    m1 = (_dot(second, c0), _dot(second, c1), _dot(second, c2))
    xx = _dot(m0, m0)
    yy = _dot(m1, m1)
    minors = _cross(m0, m1)
    # Cauchy-Binet: a sum of squares, where xx yy - xy^2 would cancel.
    determinant = _dot(minors, minors) + low_pass * (xx + yy) + low_pass * low_pass
    covariance = (xx + low_pass, _dot(m0, m1), yy + low_pass)
    return u, v, limited_u, limited_v, first, second, m0, m1, covariance, determinant


@_jit()
def _camera(world_to_camera, intrinsics, width, height):
    real = world_to_camera.dtype.type
    rows = (_row(world_to_camera, 0), _row(world_to_camera, 1), _row(world_to_camera, 2))
    translation = (world_to_camera[0, 3], world_to_camera[1, 3], world_to_camera[2, 3])
    focal = (intrinsics[0, 0], intrinsics[1, 1])
    center = (intrinsics[0, 2], intrinsics[1, 2])
    return rows, translation, focal, center, (real(width), real(height))


@_jit()
def _scaled_axes(q, s):
    """Rows of R diag(s)."""
    r = _rotation(q)
    return (
        (r[0][0] * s[0], r[0][1] * s[1], r[0][2] * s[2]),
        (r[1][0] * s[0], r[1][1] * s[1], r[1][2] * s[2]),
        (r[2][0] * s[0], r[2][1] * s[1], r[2][2] * s[2]),
    )


@_jit()
def _quaternion(a, i):
    return (a[i, 0], a[i, 1], a[i, 2], a[i, 3])


@_jit()
def _all_finite(means, rotations, scales, opacities, colors, features, n):
    total = opacities[n]
    for i in range(3):
        total += means[n, i] + scales[n, i] + colors[n, i]
    for i in range(4):
        total += rotations[n, i]
    for i in range(features.shape[1]):
        total += features[n, i]
    return math.isfinite(total)  # a NaN or an infinity anywhere makes the sum one


@_jit()
def project(
    means, rotations, scales, opacities, colors, features, world_to_camera, intrinsics, width, height, near,
    tile_width, first, stop, records, boxes, depths,
):  # fmt: skip
    """Project Gaussians `first` to `stop` of one set into one camera.

    Fills their rows of `records`, their bounding boxes in pixels `boxes` (x0, x1, y0, y1, half open, empty for what is
    not drawn) and their `depths`. Returns the number of (tile, Gaussian) pairs and the first Gaussian with a value
    that is not finite, or -1. Long, because its parts would hand each other a dozen values.
    """
    real = means.dtype.type
    zero = real(0)
    half = real(0.5)
    infinity = real(np.inf)
    to_base_two = real(0.5 / math.log(2.0))
    rows, translation, focal, center, size = _camera(world_to_camera, intrinsics, width, height)
    pairs = 0
    bad = -1
    for n in range(first, stop):
        boxes[n, 0] = boxes[n, 1] = boxes[n, 2] = boxes[n, 3] = 0
        if bad < 0 and not _all_finite(means, rotations, scales, opacities, colors, features, n):
            bad = n
        mean = _row(means, n)
        point = (
            _dot(rows[0], mean) + translation[0],
            _dot(rows[1], mean) + translation[1],
            _dot(rows[2], mean) + translation[2],
        )
        depths[n] = point[2]
        opacity = opacities[n]
        if not (point[2] >= near and opacity >= real(ALPHA_CUT)):
            continue
        q, _ = _unit_quaternion(_quaternion(rotations, n))
        axes = _scaled_axes(q, _row(scales, n))
        u, v, _, _, _, _, _, _, (xx, xy, yy), determinant = _project(point, rows, axes, focal, center, size)
        if not determinant < infinity:
            continue
        x = u + center[0]
        y = v + center[1]
        # Where alpha falls to ALPHA_CUT, with room for rounding; the exact test is made per pixel.
        square = real(2) * np.log(opacity / real(ALPHA_CUT)) + real(1e-4)
        reach_x = np.sqrt(square * xx) + real(1e-3)
        reach_y = np.sqrt(square * yy) + real(1e-3)
        x0 = max(np.ceil(x - reach_x - half), zero)
        x1 = min(np.floor(x + reach_x + half), size[0])
        y0 = max(np.ceil(y - reach_y - half), zero)
        y1 = min(np.floor(y + reach_y + half), size[1])
        if not (x0 < x1 and y0 < y1):
            continue
        boxes[n, 0] = int(x0)
        boxes[n, 1] = int(x1)
        boxes[n, 2] = int(y0)
        boxes[n, 3] = int(y1)
        records[n, X] = x
        records[n, Y] = y
        records[n, ALONG] = to_base_two * yy / determinant
        records[n, SHEAR] = xy / yy
        records[n, ACROSS] = to_base_two / yy
        records[n, LOG_OPACITY] = np.log2(opacity)
        for i in range(3):
            records[n, RED + i] = colors[n, i]
        records[n, DEPTH] = point[2]
        for i in range(features.shape[1]):
            records[n, FEATURES + i] = features[n, i]
        tx0, tx1, ty0, ty1 = _tiles(boxes[n], tile_width)
        pairs += (tx1 - tx0) * (ty1 - ty0)
    return pairs, bad


# ----------------------------------------------------------------------------------------------------------------
# Tiles


@_jit()
def _tiles(box, tile_width):
    """The half-open range of tile columns and rows that a box that is not empty meets."""
    return (
        box[0] // tile_width,
        (box[1] - 1) // tile_width + 1,
        box[2] // TILE_HEIGHT,
        (box[3] - 1) // TILE_HEIGHT + 1,
    )


@_jit()
def _depth_order(boxes, depth_bits):
    """Indices of the Gaussians that are drawn, by depth and then by index: radix sort of the (positive) floats."""
    count = 0
    order = np.empty(boxes.shape[0], np.int32)
    for n in range(boxes.shape[0]):
        if boxes[n, 1] > boxes[n, 0]:
            order[count] = n
            count += 1
    order = order[:count]
    other = np.empty(count, np.int32)
    starts = np.empty(2049, np.int64)
    for digit in range((8 * depth_bits.itemsize + 10) // 11):
        shift = depth_bits.dtype.type(11 * digit)
        mask = depth_bits.dtype.type(2047)
        starts[:] = 0
        for i in range(count):
            starts[np.int64((depth_bits[order[i]] >> shift) & mask) + 1] += 1
        for i in range(2048):
            starts[i + 1] += starts[i]
        for i in range(count):
            key = np.int64((depth_bits[order[i]] >> shift) & mask)
            other[starts[key]] = order[i]
            starts[key] += 1
        order, other = other, order
    return order


@_jit()
def bin_pairs(boxes, depth_bits, tile_width, columns, tile_starts, slot_starts, pair_gaussians, pair_slots):
    """List the Gaussians of every tile of one camera, front to back.

    Tile t holds the pairs `tile_starts[t]` to `tile_starts[t + 1]`. Each pair names its Gaussian and a slot: those of
    Gaussian n are `slot_starts[n]` to `slot_starts[n + 1]`, so that its gradients lie side by side.
    """
    order = _depth_order(boxes, depth_bits)
    tile_starts[:] = 0
    slot_starts[0] = 0
    for n in range(boxes.shape[0]):
        slot_starts[n + 1] = slot_starts[n]
        if boxes[n, 1] > boxes[n, 0]:
            tx0, tx1, ty0, ty1 = _tiles(boxes[n], tile_width)
            slot_starts[n + 1] += (tx1 - tx0) * (ty1 - ty0)
            for ty in range(ty0, ty1):
                for tx in range(tx0, tx1):
                    tile_starts[ty * columns + tx + 1] += 1
    for t in range(tile_starts.size - 1):
        tile_starts[t + 1] += tile_starts[t]
    filled = tile_starts[:-1].copy()
    for n in order:
        slot = slot_starts[n]
        tx0, tx1, ty0, ty1 = _tiles(boxes[n], tile_width)
        for ty in range(ty0, ty1):
            for tx in range(tx0, tx1):
                t = ty * columns + tx
                pair_gaussians[filled[t]] = n
                pair_slots[filled[t]] = slot
                filled[t] += 1
                slot += 1


# ----------------------------------------------------------------------------------------------------------------
# Forward


@_jit(forceinline=True)
def _light(scratch, offset):
    """What a group of pixels still lets through, 0 when all have ended."""
    zero = scratch.dtype.type(0)
    total = zero
    for i in range(LANES):
        transmittance = scratch[offset + np.uint64(i) + TRANSMITTANCE]
        total += transmittance if transmittance > zero else zero
    return total


@_jit(forceinline=True)
def _blend(scratch, offset, index, h0, along, log_alpha, red, green, blue, depth):
    """Blend one Gaussian into the group of pixels that starts at `offset`: at h = `h0`, `h0 + 1`, ..."""
    real = scratch.dtype.type
    zero = real(0)
    one = real(1)
    floor = real(-30)  # far below ALPHA_CUT, and the exponent stays in range
    cut = real(ALPHA_CUT)
    stop = real(TRANSMITTANCE_STOP)
    for i in range(LANES):
        j = offset + np.uint64(i)
        h = h0 + real(i)
        t = log_alpha - along * h * h
        alpha = _exp2(t if t > floor else floor)
        hit = alpha >= cut
        before = scratch[j + TRANSMITTANCE]
        after = before * (one - alpha)
        blends = hit & (after > stop)
        ended = -abs(before) if hit else before
        weight = alpha * before if blends else zero
        scratch[j + TRANSMITTANCE] = after if blends else ended
        scratch[j + LAST] = index if blends else scratch[j + LAST]
        scratch[j + WEIGHT] = weight
        scratch[j + F_RED] += weight * red
        scratch[j + F_GREEN] += weight * green
        scratch[j + F_BLUE] += weight * blue
        scratch[j + F_DEPTH] += weight * depth


@_jit()
def _blend_features(scratch, offset, records, n, features, y, x):
    """Blend one Gaussian's features into the same group of pixels, which starts at (y, x) of the image."""
    for i in range(LANES):
        weight = scratch[offset + np.uint64(i) + WEIGHT]
        if weight > 0:
            for k in range(features.shape[2]):
                features[y, x + i, k] += weight * records[n, FEATURES + k]


@_jit()
def rasterize(
    records, boxes, tile_starts, pair_gaussians, background, tile_width, columns, first, stop,
    rgb, alpha, depth, features, transmittance, last,
):  # fmt: skip
    """Render tiles `first` to `stop` of one camera into the images; see `osgap.splat.render.render`.

    `features` must be zero before. Also keeps the last `transmittance` and how far down its tile's list each pixel
    went (`last`, 0 for not at all). Long, because its parts would hand each other a dozen values.
    """
    real = records.dtype.type
    half = real(0.5)
    height, width = alpha.shape
    scratch = np.empty(F_PLANES * PLANE, records.dtype)
    light = np.empty(PLANE // LANES, records.dtype)  # per aligned group of pixels
    for tile in range(first, stop):
        top = (tile // columns) * TILE_HEIGHT
        left = (tile % columns) * tile_width
        bottom = min(top + TILE_HEIGHT, height)
        right = min(left + tile_width, width)
        scratch[:PLANE] = -1  # outside the tile nothing is alive
        scratch[PLANE:] = 0
        for row in range(bottom - top):
            scratch[row * PITCH : row * PITCH + right - left] = 1

        for p in range(tile_starts[tile], tile_starts[tile + 1]):
            if (p - tile_starts[tile]) % REFRESH == 0:
                for i in range(light.size):
                    light[i] = _light(scratch, np.uint64(i * LANES))
            n = pair_gaussians[p]
            index = real(p - tile_starts[tile] + 1)
            x = records[n, X] - real(left) - half
            along = records[n, ALONG]
            x0 = max(boxes[n, 0] - left, 0)
            x1 = min(boxes[n, 1], right) - left
            for row in range(max(boxes[n, 2], top) - top, min(boxes[n, 3], bottom) - top):
                dy = real(row + top) + half - records[n, Y]
                log_alpha = records[n, LOG_OPACITY] - records[n, ACROSS] * dy * dy
                center = x + records[n, SHEAR] * dy
                for column in range(x0, x1, LANES):
                    offset = np.uint64(row * PITCH + column)
                    if light[offset // GROUP] + light[(offset + GROUP) // GROUP] == 0:
                        continue
                    _blend(
                        scratch, offset, index, real(column) - center, along, log_alpha,
                        records[n, RED], records[n, GREEN], records[n, BLUE], records[n, DEPTH],
                    )  # fmt: skip
                    if features.shape[2] > 0:
                        _blend_features(scratch, offset, records, n, features, row + top, column + left)

        for row in range(bottom - top):
            y = row + top
            for column in range(right - left):
                x = column + left
                j = np.uint64(row * PITCH + column)
                left_over = abs(scratch[j + TRANSMITTANCE])
                transmittance[y, x] = left_over
                last[y, x] = scratch[j + LAST]
                alpha[y, x] = real(1) - left_over
                rgb[y, x, 0] = scratch[j + F_RED] + left_over * background[0]
                rgb[y, x, 1] = scratch[j + F_GREEN] + left_over * background[1]
                rgb[y, x, 2] = scratch[j + F_BLUE] + left_over * background[2]
                depth[y, x] = scratch[j + F_DEPTH] / max(alpha[y, x], real(DEPTH_FLOOR))


# ----------------------------------------------------------------------------------------------------------------
# Backward


@_jit(forceinline=True)
def _unblend(scratch, offset, sums, index, h0, dy, along, log_alpha, red, green, blue, depth):
    """Take one Gaussian out of a group of pixels again (back to front) and add up its gradients per lane.

    With G the gradient of the blended channels, d(loss)/d(alpha) = T color.G - behind / (1 - alpha): what the Gaussian
    shows against what it hides. Only the product of the latter with G is carried, one number per pixel.
    """
    real = scratch.dtype.type
    zero = real(0)
    one = real(1)
    floor = real(-30)  # far below ALPHA_CUT, and the exponent stays in range
    cut = real(ALPHA_CUT)
    for i in range(LANES):
        j = offset + np.uint64(i)
        h = h0 + real(i)
        t = log_alpha - along * h * h
        alpha = _exp2(t if t > floor else floor)
        blended = (alpha >= cut) & (scratch[j + LAST] >= index)
        g_red = scratch[j + B_RED]
        g_green = scratch[j + B_GREEN]
        g_blue = scratch[j + B_BLUE]
        g_depth = scratch[j + B_DEPTH]
        dot = scratch[j + DOT] + red * g_red + green * g_green + blue * g_blue + depth * g_depth
        inverse = one / (one - alpha)
        after = scratch[j + TRANSMITTANCE]
        before = after * inverse
        behind = scratch[j + BEHIND]
        weight = alpha * before if blended else zero
        e = alpha * (before * dot - behind * inverse)
        e = e if blended else zero
        scratch[j + TRANSMITTANCE] = before if blended else after
        scratch[j + BEHIND] = behind + weight * dot
        scratch[j + WEIGHT] = weight
        e_h = e * h
        e_y = e * dy
        sums[E * LANES + i] += e
        sums[E_H * LANES + i] += e_h
        sums[E_HH * LANES + i] += e_h * h
        sums[E_HY * LANES + i] += e_h * dy
        sums[E_Y * LANES + i] += e_y
        sums[E_YY * LANES + i] += e_y * dy
        sums[G_RED * LANES + i] += weight * g_red
        sums[G_GREEN * LANES + i] += weight * g_green
        sums[G_BLUE * LANES + i] += weight * g_blue
        sums[G_DEPTH * LANES + i] += weight * g_depth


@_jit()
def _feature_dots(scratch, offset, index, records, n, g_features, y, x):
    """Product of one Gaussian's features with their gradient at each pixel of a group."""
    for i in range(LANES):
        j = offset + np.uint64(i)
        total = scratch.dtype.type(0)
        if scratch[j + LAST] >= index:
            for k in range(g_features.shape[2]):
                total += records[n, FEATURES + k] * g_features[y, x + i, k]
        scratch[j + DOT] = total


@_jit()
def _sum_features(scratch, offset, g_features, y, x, pair_gradients, slot):
    """Add up the gradients of one Gaussian's features over a group of pixels."""
    for i in range(LANES):
        weight = scratch[offset + np.uint64(i) + WEIGHT]
        if weight > 0:
            for k in range(g_features.shape[2]):
                pair_gradients[slot, G_FEATURES + k] += weight * g_features[y, x + i, k]


@_jit(forceinline=True)
def _sum_lanes(sums, start):
    total = sums.dtype.type(0)
    for i in range(LANES):
        total += sums[start + np.uint64(i)]
    return total


@_jit()
def rasterize_backward(
    records, boxes, tile_starts, pair_gaussians, pair_slots, background, tile_width, columns, first, stop,
    transmittance, last, depth, g_rgb, g_alpha, g_depth, g_features, pair_gradients,
):  # fmt: skip
    """Gradients of every (tile, Gaussian) pair of tiles `first` to `stop` of one camera, into the pairs' slots.

    Long, because its parts would hand each other a dozen values.
    """
    real = records.dtype.type
    zero = real(0)
    half = real(0.5)
    height, width = transmittance.shape
    channels = g_features.shape[2]
    scratch = np.empty(B_PLANES * PLANE, records.dtype)
    sums = np.empty(G_FEATURES * LANES, records.dtype)
    reached = np.empty(PLANE // LANES, records.dtype)  # largest LAST per aligned group of pixels
    for tile in range(first, stop):
        top = (tile // columns) * TILE_HEIGHT
        left = (tile % columns) * tile_width
        bottom = min(top + TILE_HEIGHT, height)
        right = min(left + tile_width, width)
        scratch[:] = 0
        reached[:] = 0
        deepest = zero
        for row in range(bottom - top):
            y = row + top
            for column in range(right - left):
                x = column + left
                j = np.uint64(row * PITCH + column)
                left_over = transmittance[y, x]
                alpha = real(1) - left_over
                share = g_depth[y, x] / max(alpha, real(DEPTH_FLOOR))
                # d(loss)/d(last transmittance), through the background, alpha and the depth's denominator.
                g_left_over = -g_alpha[y, x]
                if alpha > real(DEPTH_FLOOR):
                    g_left_over += share * depth[y, x]
                for c in range(3):
                    g_left_over += background[c] * g_rgb[y, x, c]
                scratch[j + B_RED] = g_rgb[y, x, 0]
                scratch[j + B_GREEN] = g_rgb[y, x, 1]
                scratch[j + B_BLUE] = g_rgb[y, x, 2]
                scratch[j + B_DEPTH] = share
                scratch[j + TRANSMITTANCE] = left_over
                scratch[j + LAST] = last[y, x]
                scratch[j + BEHIND] = left_over * g_left_over
                reached[j // GROUP] = max(reached[j // GROUP], last[y, x])
                deepest = max(deepest, last[y, x])

        for p in range(tile_starts[tile + 1] - 1, tile_starts[tile] - 1, -1):
            slot = pair_slots[p]
            for i in range(G_FEATURES + channels):
                pair_gradients[slot, i] = 0
            index = real(p - tile_starts[tile] + 1)
            if index > deepest:
                continue
            n = pair_gaussians[p]
            x = records[n, X] - real(left) - half
            along = records[n, ALONG]
            x0 = max(boxes[n, 0] - left, 0)
            x1 = min(boxes[n, 1], right) - left
            sums[:] = 0
            for row in range(max(boxes[n, 2], top) - top, min(boxes[n, 3], bottom) - top):
                dy = real(row + top) + half - records[n, Y]
                log_alpha = records[n, LOG_OPACITY] - records[n, ACROSS] * dy * dy
                center = x + records[n, SHEAR] * dy
                for column in range(x0, x1, LANES):
                    offset = np.uint64(row * PITCH + column)
                    if max(reached[offset // GROUP], reached[(offset + GROUP) // GROUP]) < index:
                        continue
                    if channels > 0:
                        _feature_dots(scratch, offset, index, records, n, g_features, row + top, column + left)
                    _unblend(
                        scratch, offset, sums, index, real(column) - center, dy, along, log_alpha,
                        records[n, RED], records[n, GREEN], records[n, BLUE], records[n, DEPTH],
                    )  # fmt: skip
                    if channels > 0:
                        _sum_features(scratch, offset, g_features, row + top, column + left, pair_gradients, slot)
            for i in range(G_FEATURES):
                pair_gradients[slot, i] = _sum_lanes(sums, np.uint64(i * LANES))


@_jit()
def project_backward(
    means, rotations, scales, opacities, world_to_camera, intrinsics, width, height, first, stop,
    records, boxes, slot_starts, pair_gradients,
    g_means, g_rotations, g_scales, g_opacities, g_colors, g_features, g_camera,
):  # fmt: skip
    """Add the gradients of Gaussians `first` to `stop` through one camera to those of its set, and to its own.

    `g_camera` is (rotation 9 row-major, translation 3, fx, fy, cx, cy). Long, because its parts would hand each
    other a dozen values.
    """
    real = means.dtype.type
    half = real(0.5)
    one = real(1)
    two = real(2)
    channels = g_features.shape[1]
    rows, translation, focal, center, size = _camera(world_to_camera, intrinsics, width, height)
    total = np.zeros(G_FEATURES + channels, means.dtype)
    for n in range(first, stop):
        if slot_starts[n] == slot_starts[n + 1]:
            continue
        total[:] = 0
        for slot in range(slot_starts[n], slot_starts[n + 1]):
            for j in range(total.size):
                total[j] += pair_gradients[slot, j]
        g_opacities[n] += total[E] / opacities[n]
        for i in range(3):
            g_colors[n, i] += total[G_RED + i]
        for i in range(channels):
            g_features[n, i] += total[G_FEATURES + i]

        mean = _row(means, n)
        point = (
            _dot(rows[0], mean) + translation[0],
            _dot(rows[1], mean) + translation[1],
            _dot(rows[2], mean) + translation[2],
        )
        q, inverse_norm = _unit_quaternion(_quaternion(rotations, n))
        s = _row(scales, n)
        axes = _scaled_axes(q, s)
        _, _, (limited_u, free_u), (limited_v, free_v), jw0, jw1, m0, m1, (_, xy, yy), determinant = _project(
            point, rows, axes, focal, center, size
        )

        # ln alpha = ln opacity - (along h^2 + across dy^2) / 2, h = dx - shear dy
        along = yy / determinant
        across = one / yy
        shear = xy * across
        g_x = along * total[E_H]
        g_y = across * total[E_Y] - shear * g_x
        g_along = -half * total[E_HH]
        g_shear = along * total[E_HY]
        g_across = -half * total[E_YY]

        # to the covariance: along = yy / (xx yy - xy^2), shear = xy / yy, across = 1 / yy
        g_xx = -along * along * g_along
        g_xy = -two * shear * g_xx + g_shear * across
        g_yy = shear * shear * g_xx - across * (shear * g_shear + across * g_across)

        # to the axes R diag(s) and to J W
        g_m0 = _sum(two * g_xx, m0, g_xy, m1)
        g_m1 = _sum(two * g_yy, m1, g_xy, m0)
        g_jw0 = (_dot(axes[0], g_m0), _dot(axes[1], g_m0), _dot(axes[2], g_m0))
        g_jw1 = (_dot(axes[0], g_m1), _dot(axes[1], g_m1), _dot(axes[2], g_m1))
        g_axes = (
            _sum(jw0[0], g_m0, jw1[0], g_m1),
            _sum(jw0[1], g_m0, jw1[1], g_m1),
            _sum(jw0[2], g_m0, jw1[2], g_m1),
        )
        g_columns = _columns(g_axes)
        r_columns = _columns(_rotation(q))
        for i in range(3):
            g_scales[n, i] += _dot(g_columns[i], r_columns[i])
        g_rotation = (
            (g_axes[0][0] * s[0], g_axes[0][1] * s[1], g_axes[0][2] * s[2]),
            (g_axes[1][0] * s[0], g_axes[1][1] * s[1], g_axes[1][2] * s[2]),
            (g_axes[2][0] * s[0], g_axes[2][1] * s[1], g_axes[2][2] * s[2]),
        )
        g_q = _rotation_gradient(q, g_rotation)
        radial = q[0] * g_q[0] + q[1] * g_q[1] + q[2] * g_q[2] + q[3] * g_q[3]
        for i in range(4):
            g_rotations[n, i] += (g_q[i] - q[i] * radial) * inverse_norm

        # J W = (1/z) (f W_row - limited offset W_2)
        inverse = one / point[2]
        g_limited_u = -inverse * _dot(g_jw0, rows[2])
        g_limited_v = -inverse * _dot(g_jw1, rows[2])
        g_fx = inverse * _dot(g_jw0, rows[0])
        g_fy = inverse * _dot(g_jw1, rows[1])
        g_inverse = (
            focal[0] * _dot(g_jw0, rows[0])
            - limited_u * _dot(g_jw0, rows[2])
            + focal[1] * _dot(g_jw1, rows[1])
            - limited_v * _dot(g_jw1, rows[2])
        )
        g_u = g_x
        g_v = g_y
        g_cx = g_x
        g_cy = g_y
        if free_u:
            g_u += g_limited_u
        else:  # either limit is a constant minus cx
            g_cx -= g_limited_u
        if free_v:
            g_v += g_limited_v
        else:
            g_cy -= g_limited_v

        # u = fx x / z, v = fy y / z
        g_fx += g_u * point[0] * inverse
        g_fy += g_v * point[1] * inverse
        g_inverse += g_u * focal[0] * point[0] + g_v * focal[1] * point[1]
        g_point = (
            g_u * focal[0] * inverse,
            g_v * focal[1] * inverse,
            total[G_DEPTH] - inverse * inverse * g_inverse,
        )
        w_columns = _columns(rows)
        for i in range(3):
            g_means[n, i] += _dot(w_columns[i], g_point)
            g_camera[i] += g_point[0] * mean[i] + focal[0] * inverse * g_jw0[i]
            g_camera[3 + i] += g_point[1] * mean[i] + focal[1] * inverse * g_jw1[i]
            g_camera[6 + i] += g_point[2] * mean[i] - inverse * (limited_u * g_jw0[i] + limited_v * g_jw1[i])
            g_camera[9 + i] += g_point[i]
        g_camera[12] += g_fx
        g_camera[13] += g_fy
        g_camera[14] += g_cx
        g_camera[15] += g_cy

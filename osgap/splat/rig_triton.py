"""`osgap.splat.rig.pose` on CUDA, forward and backward in one pass each.

Every Gaussian makes the frame of its triangle anew (nine loads that the cache answers) instead of reading one that was
stored. Backward, the frame's rotation is moved by an infinitesimal turn w: axes by w x axis, quaternions by
(0, w) q / 2. With a, n, b the axes (along the first edge e = v1 - v0, the normal, and their cross product), s = v2 - v0
and L = |e|, the parts of w and the change of the scale k = (L + |s.b|) / 2 are

    w.n = -(b.de) / L        w.b = (n.de) / L        w.a = ((n.de) (s.a) / L - n.ds) / (s.b)
    dL  = a.de               d(s.b) = b.ds - (b.de) (s.a) / L

so that the gradients of the three corners follow from the torque on the frame and the gradients of its scale and
centre. Attributes that all images share have their gradients added up in registers, image after image, in a fixed
order; those of vertices arrive by atomics.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from osgap.head.triangles import MIN_LENGTH
from osgap.splat.attributes import CHANNELS, MIN_SQUARED_LENGTH, SH_C0

_BLOCK = 128
_AT: dict[str, int] = {name.upper(): channels.start for name, channels in CHANNELS.items()}
_CONSTANTS: dict[str, Any] = {
    **_AT,
    "SH_C0": SH_C0,
    "MIN_LENGTH": MIN_LENGTH,
    "MIN_SQUARED_LENGTH": MIN_SQUARED_LENGTH,
    "BLOCK": _BLOCK,
}


def pose(channels: Tensor, vertices: Tensor, corners: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """World-space Gaussians, activated; differentiable in channels and vertices.

    Args:
        channels: `[N, C]` attributes that all images share, or `[B, N, C]`; float32.
        vertices: `[B, V, 3]` float32.
        corners: `[N, 3]` int64 vertex ids of each Gaussian's triangle.

    Returns:
        Means `[B, N, 3]`, rotations `[B, N, 4]`, scales `[B, N, 3]`, and with the leading dimension of `channels`
        opacities `[..., N]` and colours `[..., N, 3]`.
    """
    return _Pose.apply(channels.contiguous(), vertices.contiguous(), corners.contiguous())


class _Pose(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, channels: Tensor, vertices: Tensor, corners: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        batch, count = vertices.shape[0], corners.shape[0]
        means, rotations, scales = (vertices.new_empty(batch, count, width) for width in (3, 4, 3))
        opacities, colors = channels.new_empty(channels.shape[:-1]), channels.new_empty(*channels.shape[:-1], 3)
        with torch.cuda.device_of(vertices):
            _forward[(triton.cdiv(count, _BLOCK), batch)](
                channels, vertices, corners, means, rotations, scales, opacities, colors,
                count, vertices.shape[1], channels.shape[-1], SHARED=channels.ndim == 2, **_CONSTANTS,
            )  # fmt: skip
        ctx.save_for_backward(channels, vertices, corners)
        return means, rotations, scales, opacities, colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        channels, vertices, corners = ctx.saved_tensors
        batch, count = vertices.shape[0], corners.shape[0]
        shared = channels.ndim == 2
        attributes, moved = torch.zeros_like(channels), torch.zeros_like(vertices)
        with torch.cuda.device_of(vertices):
            _backward[(triton.cdiv(count, _BLOCK), 1 if shared else batch)](
                channels, vertices, corners, *(gradient.contiguous() for gradient in gradients), attributes, moved,
                count, vertices.shape[1], channels.shape[-1], batch if shared else 1,
                MOVING=ctx.needs_input_grad[1], **_CONSTANTS,
            )  # fmt: skip
        return attributes, moved, None


@triton.jit
def _dot(ax, ay, az, bx, by, bz):
    return ax * bx + ay * by + az * bz


@triton.jit
def _cross(ax, ay, az, bx, by, bz):
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@triton.jit
def _product(aw, ax, ay, az, bw, bx, by, bz):
    """Hamilton product of quaternions."""
    w = aw * bw - ax * bx - ay * by - az * bz
    x = aw * bx + ax * bw + ay * bz - az * by
    y = aw * by - ax * bz + ay * bw + az * bx
    z = aw * bz + ax * by - ay * bx + az * bw
    return w, x, y, z


@triton.jit
def _vector(pointer, place, mask):
    x = tl.load(pointer + place, mask=mask, other=0.0)
    y = tl.load(pointer + place + 1, mask=mask, other=0.0)
    z = tl.load(pointer + place + 2, mask=mask, other=0.0)
    return x, y, z


@triton.jit
def _store3(pointer, place, x, y, z, mask):
    tl.store(pointer + place, x, mask=mask)
    tl.store(pointer + place + 1, y, mask=mask)
    tl.store(pointer + place + 2, z, mask=mask)


@triton.jit
def _unit_quaternion(pointer, place, mask, MIN_SQUARED_LENGTH: tl.constexpr):
    """The quaternion at `place` over its length, and one over that length."""
    w = tl.load(pointer + place, mask=mask, other=1.0)
    x, y, z = _vector(pointer, place + 1, mask)
    inverse = 1 / tl.sqrt(tl.maximum(w * w + _dot(x, y, z, x, y, z), MIN_SQUARED_LENGTH))
    return w * inverse, x * inverse, y * inverse, z * inverse, inverse


@triton.jit
def _frame(vertices_ptr, v0, v1, v2, mask, MIN_LENGTH: tl.constexpr):
    """Axes a, n, b, centre, length of the first edge, and the other edge along a and along b."""
    x0, y0, z0 = _vector(vertices_ptr, v0, mask)
    x1, y1, z1 = _vector(vertices_ptr, v1, mask)
    x2, y2, z2 = _vector(vertices_ptr, v2, mask)
    ex, ey, ez = x1 - x0, y1 - y0, z1 - z0
    sx, sy, sz = x2 - x0, y2 - y0, z2 - z0
    length = tl.sqrt(tl.maximum(_dot(ex, ey, ez, ex, ey, ez), MIN_LENGTH * MIN_LENGTH))
    ax, ay, az = ex / length, ey / length, ez / length
    nx, ny, nz = _cross(ax, ay, az, sx, sy, sz)
    height = tl.sqrt(tl.maximum(_dot(nx, ny, nz, nx, ny, nz), MIN_LENGTH * MIN_LENGTH))
    nx, ny, nz = nx / height, ny / height, nz / height
    bx, by, bz = _cross(ax, ay, az, nx, ny, nz)
    cx, cy, cz = (x0 + x1 + x2) / 3, (y0 + y1 + y2) / 3, (z0 + z1 + z2) / 3
    along, across = _dot(sx, sy, sz, ax, ay, az), _dot(sx, sy, sz, bx, by, bz)
    return ax, ay, az, nx, ny, nz, bx, by, bz, cx, cy, cz, length, along, across


@triton.jit
def _frame_quaternion(ax, ay, az, nx, ny, nz, bx, by, bz, MIN_LENGTH: tl.constexpr):
    """Of the rotation with columns a, n, b, from the largest of its components (Shepperd 1978)."""
    ww, xx, yy, zz = 1 + ax + ny + bz, 1 + ax - ny - bz, 1 - ax + ny - bz, 1 - ax - ny + bz
    wx, wy, wz = nz - by, bx - az, ay - nx
    xy, xz, yz = nx + ay, bx + az, by + nz
    first = tl.maximum(ww, xx) >= tl.maximum(yy, zz)
    second, last = xx > ww, zz > yy
    w = tl.where(first, tl.where(second, wx, ww), tl.where(last, wz, wy))
    x = tl.where(first, tl.where(second, xx, wx), tl.where(last, xz, xy))
    y = tl.where(first, tl.where(second, xy, wy), tl.where(last, yz, yy))
    z = tl.where(first, tl.where(second, xz, wz), tl.where(last, zz, yz))
    inverse = 1 / tl.sqrt(tl.maximum(w * w + _dot(x, y, z, x, y, z), MIN_LENGTH * MIN_LENGTH))
    return w * inverse, x * inverse, y * inverse, z * inverse


@triton.jit
def _forward(
    channels_ptr, vertices_ptr, corners_ptr, means_ptr, rotations_ptr, scales_ptr, opacities_ptr, colors_ptr,
    count, vertex_count, width,
    SHARED: tl.constexpr, POSITION: tl.constexpr, ROTATION: tl.constexpr, SCALE: tl.constexpr, OPACITY: tl.constexpr,
    COLOR: tl.constexpr, SH_C0: tl.constexpr, MIN_LENGTH: tl.constexpr, MIN_SQUARED_LENGTH: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64)
    mask = index < count
    row = image * count + index  # of the Gaussian in this image
    source = row if not SHARED else index.to(tl.int64)
    local = source * width
    px, py, pz = _vector(channels_ptr, local + POSITION, mask)
    lw, lx, ly, lz, _ = _unit_quaternion(channels_ptr, local + ROTATION, mask, MIN_SQUARED_LENGTH)
    gx, gy, gz = _vector(channels_ptr, local + SCALE, mask)

    corner = corners_ptr + index.to(tl.int64) * 3
    v0 = tl.load(corner, mask=mask, other=0) * 3
    v1 = tl.load(corner + 1, mask=mask, other=0) * 3
    v2 = tl.load(corner + 2, mask=mask, other=0) * 3
    mesh = vertices_ptr + image * vertex_count * 3
    ax, ay, az, nx, ny, nz, bx, by, bz, cx, cy, cz, length, _, across = _frame(mesh, v0, v1, v2, mask, MIN_LENGTH)
    k = (length + tl.abs(across)) / 2
    tw, tx, ty, tz = _frame_quaternion(ax, ay, az, nx, ny, nz, bx, by, bz, MIN_LENGTH)

    mx = k * (ax * px + nx * py + bx * pz) + cx
    my = k * (ay * px + ny * py + by * pz) + cy
    mz = k * (az * px + nz * py + bz * pz) + cz
    _store3(means_ptr, row * 3, mx, my, mz, mask)
    qw, qx, qy, qz = _product(tw, tx, ty, tz, lw, lx, ly, lz)
    tl.store(rotations_ptr + row * 4, qw, mask=mask)
    _store3(rotations_ptr, row * 4 + 1, qx, qy, qz, mask)
    _store3(scales_ptr, row * 3, tl.exp(gx) * k, tl.exp(gy) * k, tl.exp(gz) * k, mask)

    if not SHARED or image == 0:
        opacity = tl.load(channels_ptr + local + OPACITY, mask=mask, other=0.0)
        tl.store(opacities_ptr + source, 1 / (1 + tl.exp(-opacity)), mask=mask)
        red, green, blue = _vector(channels_ptr, local + COLOR, mask)
        red, green, blue = 0.5 + SH_C0 * red, 0.5 + SH_C0 * green, 0.5 + SH_C0 * blue
        _store3(colors_ptr, source * 3, tl.maximum(red, 0.0), tl.maximum(green, 0.0), tl.maximum(blue, 0.0), mask)


@triton.jit
def _backward(
    channels_ptr, vertices_ptr, corners_ptr,
    g_means_ptr, g_rotations_ptr, g_scales_ptr, g_opacities_ptr, g_colors_ptr, attributes_ptr, moved_ptr,
    count, vertex_count, width, images,
    MOVING: tl.constexpr, POSITION: tl.constexpr, ROTATION: tl.constexpr, SCALE: tl.constexpr, OPACITY: tl.constexpr,
    COLOR: tl.constexpr, SH_C0: tl.constexpr, MIN_LENGTH: tl.constexpr, MIN_SQUARED_LENGTH: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of Gaussians over all images; where vertices move, of theirs too, added up atomically.

    Long, because it goes once over the images with all its sums in registers.
    """
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    own = tl.program_id(1).to(tl.int64)  # set of attributes: 0 where all images share one
    mask = index < count
    source = own * count + index
    local = source * width
    px, py, pz = _vector(channels_ptr, local + POSITION, mask)
    lw, lx, ly, lz, inverse = _unit_quaternion(channels_ptr, local + ROTATION, mask, MIN_SQUARED_LENGTH)
    gx, gy, gz = _vector(channels_ptr, local + SCALE, mask)
    gx, gy, gz = tl.exp(gx), tl.exp(gy), tl.exp(gz)
    corner = corners_ptr + index.to(tl.int64) * 3
    v0 = tl.load(corner, mask=mask, other=0) * 3
    v1 = tl.load(corner + 1, mask=mask, other=0) * 3
    v2 = tl.load(corner + 2, mask=mask, other=0) * 3

    zero = tl.zeros([BLOCK], tl.float32)
    dpx, dpy, dpz = zero, zero, zero  # position
    dlw, dlx, dly, dlz = zero, zero, zero, zero  # unit quaternion
    dgx, dgy, dgz = zero, zero, zero  # logarithm of the scale
    for step in range(images):
        image = own + step
        row = image * count + index
        shift = image * vertex_count * 3
        ax, ay, az, nx, ny, nz, bx, by, bz, _, _, _, length, along, across = _frame(
            vertices_ptr + shift, v0, v1, v2, mask, MIN_LENGTH
        )
        k = (length + tl.abs(across)) / 2
        tw, tx, ty, tz = _frame_quaternion(ax, ay, az, nx, ny, nz, bx, by, bz, MIN_LENGTH)

        mx, my, mz = _vector(g_means_ptr, row * 3, mask)
        turned_x = ax * px + nx * py + bx * pz
        turned_y = ay * px + ny * py + by * pz
        turned_z = az * px + nz * py + bz * pz
        dpx += k * _dot(mx, my, mz, ax, ay, az)
        dpy += k * _dot(mx, my, mz, nx, ny, nz)
        dpz += k * _dot(mx, my, mz, bx, by, bz)

        qw = tl.load(g_rotations_ptr + row * 4, mask=mask, other=0.0)
        qx, qy, qz = _vector(g_rotations_ptr, row * 4 + 1, mask)
        w, x, y, z = _product(tw, -tx, -ty, -tz, qw, qx, qy, qz)
        dlw += w
        dlx += x
        dly += y
        dlz += z

        sx, sy, sz = _vector(g_scales_ptr, row * 3, mask)
        dgx += sx * gx * k
        dgy += sy * gy * k
        dgz += sz * gz * k

        if MOVING:
            d_k = _dot(mx, my, mz, turned_x, turned_y, turned_z) + _dot(sx, sy, sz, gx, gy, gz)
            # The torque: of the position's lever, and of the quaternion in world space.
            ux, uy, uz = _cross(k * turned_x, k * turned_y, k * turned_z, mx, my, mz)
            ow, ox, oy, oz = _product(tw, tx, ty, tz, lw, lx, ly, lz)
            _, rx, ry, rz = _product(qw, qx, qy, qz, ow, -ox, -oy, -oz)
            ux, uy, uz = ux + rx / 2, uy + ry / 2, uz + rz / 2
            about_a = _dot(ux, uy, uz, ax, ay, az)
            about_n = _dot(ux, uy, uz, nx, ny, nz)
            about_b = _dot(ux, uy, uz, bx, by, bz)

            per_length = tl.where(length > MIN_LENGTH, 1 / length, 0.0)
            per_across = tl.where(tl.abs(across) > MIN_LENGTH, 1 / across, 0.0)
            sign = tl.where(across < 0, -1.0, 1.0)
            # Gradients of the edges e and s along the axes.
            e_a = d_k / 2
            e_n = (about_b + about_a * along * per_across) * per_length
            e_b = -(about_n + sign * d_k / 2 * along) * per_length
            s_n = -about_a * per_across
            s_b = sign * d_k / 2
            ex, ey, ez = e_a * ax + e_n * nx + e_b * bx, e_a * ay + e_n * ny + e_b * by, e_a * az + e_n * nz + e_b * bz
            fx, fy, fz = s_n * nx + s_b * bx, s_n * ny + s_b * by, s_n * nz + s_b * bz
            mx, my, mz = mx / 3, my / 3, mz / 3
            mesh = moved_ptr + shift
            tl.atomic_add(mesh + v0, mx - ex - fx, mask=mask, sem="relaxed")
            tl.atomic_add(mesh + v0 + 1, my - ey - fy, mask=mask, sem="relaxed")
            tl.atomic_add(mesh + v0 + 2, mz - ez - fz, mask=mask, sem="relaxed")
            tl.atomic_add(mesh + v1, mx + ex, mask=mask, sem="relaxed")
            tl.atomic_add(mesh + v1 + 1, my + ey, mask=mask, sem="relaxed")
            tl.atomic_add(mesh + v1 + 2, mz + ez, mask=mask, sem="relaxed")
            tl.atomic_add(mesh + v2, mx + fx, mask=mask, sem="relaxed")
            tl.atomic_add(mesh + v2 + 1, my + fy, mask=mask, sem="relaxed")
            tl.atomic_add(mesh + v2 + 2, mz + fz, mask=mask, sem="relaxed")

    _store3(attributes_ptr, local + POSITION, dpx, dpy, dpz, mask)
    # The unit quaternion's gradient, less its part along the quaternion, over the length. A quaternion that is too
    # short for its length to be used keeps that part.
    long_enough = inverse * inverse * MIN_SQUARED_LENGTH < 1.0
    radial = tl.where(long_enough, lw * dlw + _dot(lx, ly, lz, dlx, dly, dlz), 0.0)
    tl.store(attributes_ptr + local + ROTATION, (dlw - lw * radial) * inverse, mask=mask)
    _store3(
        attributes_ptr, local + ROTATION + 1,
        (dlx - lx * radial) * inverse, (dly - ly * radial) * inverse, (dlz - lz * radial) * inverse, mask,
    )  # fmt: skip
    _store3(attributes_ptr, local + SCALE, dgx, dgy, dgz, mask)
    opacity = 1 / (1 + tl.exp(-tl.load(channels_ptr + local + OPACITY, mask=mask, other=0.0)))
    g_opacity = tl.load(g_opacities_ptr + source, mask=mask, other=0.0)
    tl.store(attributes_ptr + local + OPACITY, g_opacity * opacity * (1 - opacity), mask=mask)
    red, green, blue = _vector(channels_ptr, local + COLOR, mask)
    g_red, g_green, g_blue = _vector(g_colors_ptr, source * 3, mask)
    _store3(
        attributes_ptr, local + COLOR,
        tl.where(0.5 + SH_C0 * red >= 0, SH_C0 * g_red, 0.0),
        tl.where(0.5 + SH_C0 * green >= 0, SH_C0 * g_green, 0.0),
        tl.where(0.5 + SH_C0 * blue >= 0, SH_C0 * g_blue, 0.0), mask,
    )  # fmt: skip

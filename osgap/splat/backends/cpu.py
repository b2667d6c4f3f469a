"""The CPU renderer: tiles, threads and automatic differentiation around the compiled kernels.

Threads: the work of one call is spread over up to `torch.get_num_threads()` threads (`torch.set_num_threads` or
`OMP_NUM_THREADS` change it; DataLoader workers have one), and over fewer when it is little: a millisecond of work is
not worth the wait for a thread that the system has put aside for another process. The threads belong to a pool of this
module and run compiled code without the GIL; Numba's own threading layers are not used, so calls may come from any
thread and from forked or spawned workers, and need neither OpenMP nor TBB. The result does not depend on the number of
threads, bit for bit.

Compilation takes some seconds once per machine and package version; Numba caches it beside the package, in
`NUMBA_CACHE_DIR`, or in the user's cache folder, whichever can be written first.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from osgap.splat.backends import cpu_kernels as kernels
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians


def rasterize(
    gaussians: Gaussians, cameras: Cameras, background: Tensor, near: float, depth: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """`osgap.splat.render.Backend` on the CPU; the kernels blend the depth whether or not it is asked for."""
    features = gaussians.features
    rgb, alpha, blended_depth, blended = _Rasterize.apply(
        gaussians.means,
        gaussians.rotations,
        gaussians.scales,
        gaussians.opacities,
        gaussians.colors,
        gaussians.means.new_zeros(gaussians.count, 0) if features is None else features,
        cameras.world_to_camera,
        cameras.intrinsics,
        background,
        (cameras.width, cameras.height),
        near,
    )
    return rgb, alpha, blended_depth if depth else None, None if features is None else blended


_FIELDS = ("means", "rotations", "scales", "opacities", "colors", "features")


@dataclass(frozen=True)
class _Binned:
    """What the forward pass leaves for the backward pass (B cameras, N Gaussians, P (tile, Gaussian) pairs)."""

    records: np.ndarray  # [B, N, 10 + K]
    boxes: np.ndarray  # [B, N, 4]
    tile_starts: np.ndarray  # [B, tiles + 1]
    slot_starts: np.ndarray  # [B, N + 1]
    pair_gaussians: list[np.ndarray]  # B x [P]
    pair_slots: list[np.ndarray]  # B x [P]
    tile_width: int
    columns: int

    @property
    def pairs(self) -> int:
        """P, summed over the cameras."""
        return sum(len(slots) for slots in self.pair_slots)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, (width, height), near = arguments
        inputs = [tensor.detach().contiguous() for tensor in tensors]
        *fields, world_to_camera, intrinsics, background = [tensor.numpy() for tensor in inputs]
        batch, count, channels = len(world_to_camera), fields[0].shape[-2], fields[5].shape[-1]
        binned = _bin(per_camera(fields), count, channels, world_to_camera, intrinsics, width, height, near)

        dtype = fields[0].dtype
        rgb = np.empty((batch, height, width, 3), dtype)
        alpha, depth, transmittance, last = (np.empty((batch, height, width), dtype) for _ in range(4))
        features = np.zeros((batch, height, width, channels), dtype)

        def task(b: int, first: int, stop: int) -> None:
            kernels.rasterize(
                binned.records[b], binned.boxes[b], binned.tile_starts[b], binned.pair_gaussians[b], background[b],
                binned.tile_width, binned.columns, first, stop,
                rgb[b], alpha[b], depth[b], features[b], transmittance[b], last[b],
            )  # fmt: skip

        _in_parallel(task, _tile_ranges(binned), binned.pairs)

        outputs = tuple(torch.from_numpy(image) for image in (rgb, alpha, depth, features))
        ctx.save_for_backward(*inputs, outputs[2])
        ctx.kept = (binned, transmittance, last, width, height)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        binned, transmittance, last, width, height = ctx.kept
        *fields, world_to_camera, intrinsics, background, depth = [tensor.numpy() for tensor in ctx.saved_tensors]
        g_rgb, g_alpha, g_depth, g_features = [gradient.contiguous().numpy() for gradient in gradients]
        (batch, count), channels = binned.boxes.shape[:2], g_features.shape[-1]
        dtype = fields[0].dtype
        pair_gradients = [np.empty((len(pairs), kernels.G_FEATURES + channels), dtype) for pairs in binned.pair_slots]

        def tiles(b: int, first: int, stop: int) -> None:
            kernels.rasterize_backward(
                binned.records[b], binned.boxes[b], binned.tile_starts[b], binned.pair_gaussians[b],
                binned.pair_slots[b], background[b], binned.tile_width, binned.columns, first, stop,
                transmittance[b], last[b], depth[b], g_rgb[b], g_alpha[b], g_depth[b], g_features[b],
                pair_gradients[b],
            )  # fmt: skip

        _in_parallel(tiles, _tile_ranges(binned), binned.pairs)

        g_fields = [np.zeros_like(field) for field in fields]
        sets, g_sets = per_camera(fields), per_camera(g_fields)
        ranges = _ranges(count, kernels.CHUNK)
        g_cameras = np.zeros((len(ranges), batch, 16), dtype)

        def chunk(index: int) -> None:
            for b in range(batch):
                kernels.project_backward(
                    *(field(b) for field in sets[:4]), world_to_camera[b], intrinsics[b], width, height, *ranges[index],
                    binned.records[b], binned.boxes[b], binned.slot_starts[b], pair_gradients[b],
                    *(gradient(b) for gradient in g_sets), g_cameras[index, b],
                )  # fmt: skip

        _in_parallel(chunk, [(index,) for index in range(len(ranges))], batch * count)

        g_camera = g_cameras.sum(0, dtype=np.float64).astype(dtype)
        g_world_to_camera = np.zeros_like(world_to_camera)
        g_world_to_camera[:, :3, :3] = g_camera[:, :9].reshape(batch, 3, 3)
        g_world_to_camera[:, :3, 3] = g_camera[:, 9:12]
        g_intrinsics = np.zeros_like(intrinsics)
        g_intrinsics[:, (0, 1, 0, 1), (0, 1, 2, 2)] = g_camera[:, 12:]
        g_background = (transmittance[..., None] * g_rgb).sum((1, 2)) if ctx.needs_input_grad[8] else None
        results = (*g_fields, g_world_to_camera, g_intrinsics, g_background)
        return (*(None if result is None else torch.from_numpy(result) for result in results), None, None)


def _bin(
    sets: list[Callable[[int], np.ndarray]],
    count: int,
    channels: int,
    world_to_camera: np.ndarray,
    intrinsics: np.ndarray,
    width: int,
    height: int,
    near: float,
) -> _Binned:
    """Project all Gaussians into all cameras and list those of every tile, front to back."""
    batch, dtype = len(world_to_camera), world_to_camera.dtype
    columns = -(-width // kernels.TILE_WIDTH)
    tile_width = -(-width // columns)
    tiles = columns * -(-height // kernels.TILE_HEIGHT)
    ranges = _ranges(count, kernels.CHUNK)
    records = np.empty((batch, count, kernels.FEATURES + channels), dtype)
    boxes = np.empty((batch, count, 4), np.int32)
    depths = np.empty((batch, count), dtype)
    pairs = np.zeros((batch, len(ranges)), np.int64)
    bad = np.full((batch, len(ranges)), -1)

    def chunk(index: int) -> None:
        for b in range(batch):
            pairs[b, index], bad[b, index] = kernels.project(
                *(field(b) for field in sets), world_to_camera[b], intrinsics[b], width, height, near, tile_width,
                *ranges[index], records[b], boxes[b], depths[b],
            )  # fmt: skip

    _in_parallel(chunk, [(index,) for index in range(len(ranges))], batch * count)
    if (bad >= 0).any() or not (np.isfinite(world_to_camera).all() and np.isfinite(intrinsics).all()):
        raise ValueError(not_finite(sets, world_to_camera, intrinsics))

    totals = pairs.sum(1)
    binned = _Binned(
        records,
        boxes,
        np.empty((batch, tiles + 1), np.int64),
        np.empty((batch, count + 1), np.int64),
        [np.empty(total, np.int32) for total in totals],
        [np.empty(total, np.int32) for total in totals],
        tile_width,
        columns,
    )
    bits = depths.view(np.uint32 if dtype == np.float32 else np.uint64)

    def camera(b: int) -> None:
        kernels.bin_pairs(
            boxes[b], bits[b], tile_width, columns,
            binned.tile_starts[b], binned.slot_starts[b], binned.pair_gaussians[b], binned.pair_slots[b],
        )  # fmt: skip

    _in_parallel(camera, [(b,) for b in range(batch)], batch * count)
    return binned


def per_camera(fields: list[np.ndarray]) -> list[Callable[[int], np.ndarray]]:
    """For each field the set that camera b sees: its own, or the one without leading dimension that all share."""

    def accessor(field: np.ndarray, dims: int) -> Callable[[int], np.ndarray]:
        return (lambda b: field) if field.ndim == dims else (lambda b: field[b])

    return [accessor(field, 1 if name == "opacities" else 2) for name, field in zip(_FIELDS, fields, strict=True)]


def not_finite(sets: list[Callable[[int], np.ndarray]], *cameras: np.ndarray) -> str:
    """Say which value is not finite; called only when one is not."""
    for name, array in zip(("world_to_camera", "intrinsics"), cameras, strict=True):
        for b in np.flatnonzero(~np.isfinite(array).all((1, 2))).tolist():
            return f"{name} of camera {b} is not finite: {array[b].tolist()}"
    found = []
    for b in range(len(cameras[0])):
        for name, field in zip(_FIELDS, sets, strict=True):
            values = field(b).reshape(len(field(b)), -1)
            for n in np.flatnonzero(~np.isfinite(values).all(1)).tolist():
                found.append(f"{name} of Gaussian {n} (camera {b}): {values[n].tolist()}")
        if found:
            break
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"Gaussians must be finite; found {found[0] if found else 'values too large to add'}{more}"


def _ranges(count: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def _tile_ranges(binned: _Binned) -> list[tuple[int, int, int]]:
    """(camera, first tile, last tile + 1): some ranges per thread, so that they finish together."""
    batch, tiles = len(binned.tile_starts), binned.tile_starts.shape[1] - 1
    size = max(1, batch * tiles // (4 * torch.get_num_threads()))
    return [(b, *tile_range) for b in range(batch) for tile_range in _ranges(tiles, size)]


_GRAIN = 16384
"""Gaussians or pairs that are worth a thread: the smallest takes about a millisecond."""

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process (threads do not survive a fork) and size


def _in_parallel(task: Callable[..., None], items: Sequence[tuple[int, ...]], cost: int) -> None:
    """Call `task(*item)` for all items, on this thread and the pool's; each must write to its own memory.

    `cost` is how many Gaussians or pairs there are in all.
    """
    threads = min(torch.get_num_threads(), len(items), 1 + cost // _GRAIN)
    if threads <= 1:
        for item in items:
            task(*item)
        return
    key = (os.getpid(), threads - 1)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads - 1, thread_name_prefix="osgap-render")
    remaining = itertools.count()  # next() is atomic under the GIL

    def work() -> None:
        for index in remaining:
            if index >= len(items):
                return
            task(*items[index])

    helpers = [_pools[key].submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        started = [helper for helper in helpers if not helper.cancel()]
        wait(started)
    for helper in started:
        helper.result()

"""The CUDA renderer: gsplat's kernels (Ye et al. 2024, "gsplat: an open-source library for Gaussian splatting").

What gsplat 1.5 defines agrees with `osgap.splat.render.render`: the 0.3-pixel low-pass, alphas cut below 1/255, the
pixel's end at a transmittance of 1e-4 or less, the Jacobian limited to 0.15 image sizes outside the image around the
principal point, order by depth and then by index. (Its limit of 0.999 for alphas no opacity reaches.) What is left is
rounding:

* float32 only. Inputs in float64 are rendered in float32.
* Determinants of projected covariances are differences of products, so a needle that covers s pixels has its width off
  by some 2e-7 s^2 of itself: nothing for Gaussians of a head, percents for one that spans hundreds of pixels.
* The backward pass starts from 1 - alpha, which keeps four digits where a pixel is nearly opaque.
* Where rounding decides whether an alpha is below 1/255, a pixel differs by up to that much of a colour.

The backward pass adds with atomics: gradients differ between runs in their last digits; images do not. One host sync
per call, inside gsplat (it allocates the list of tiles once it knows its length); the check for values that are not
finite rides on it. gsplat has no gradient for intrinsics: where they require one, the projection runs as torch
operations instead, which is several times slower.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch import Tensor
from torch.nn.functional import pad

from osgap.runtime.errors import UserError
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians

INSTALL = "python -m pip install 'gsplat>=1.5.3,<1.6'"

_LOW_PASS = 0.3
_JACOBIAN_MARGIN = 0.15
_DEPTH_FLOOR = 1e-10
_FAR = torch.finfo(torch.float32).max
_TILE = 16
_TRAINING_TILE = 8
"""Pixels along a side of a tile, without and with gradients. Small ones make longer lists and skip more: that pays once
there is a backward pass (`docs/performance.md`). Images are the same."""
_WARP = 32
_WIDEST = 33
"""Most channels in one pass over the tiles: gsplat keeps three arrays of them in registers and one in shared memory."""


def rasterize(
    gaussians: Gaussians, cameras: Cameras, background: Tensor, near: float, depth: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """`osgap.splat.render.Backend` on CUDA.

    Raises:
        UserError: when gsplat cannot be loaded or compiled.
    """
    gsplat = load()
    finite = _FiniteCheck(gaussians, cameras)
    dtype, batch = gaussians.means.dtype, len(cameras)
    if dtype != torch.float32:
        gaussians, cameras = gaussians.to(torch.float32), cameras.to(torch.float32)
    gaussians = _padded(gaussians, cameras)
    radii, means, depths, conics, opacities = _project(gsplat, gaussians, cameras, near)

    channels = [_per_image(gaussians.colors, 2, batch)]
    if gaussians.features is not None:
        channels.append(_per_image(gaussians.features, 2, batch))
    if depth:
        channels.append(depths[..., None])
    values = torch.cat(channels, dim=-1) if len(channels) > 1 else channels[0]
    trained = torch.is_grad_enabled() and any(field.requires_grad for field in (means, conics, values, opacities))

    tile = _TRAINING_TILE if trained else _TILE
    columns, rows = math.ceil(cameras.width / tile), math.ceil(cameras.height / tile)
    _, pairs, pair_gaussians = gsplat.isect_tiles(means, radii, depths, tile, columns, rows)
    finite.after_sync()
    starts = gsplat.isect_offset_encode(pairs, batch, columns, rows)

    blended, alphas = [], []
    first = 0
    for size in _passes(values.shape[-1]):
        behind = _widened(background.float(), size) if first == 0 else None
        image, alpha = gsplat.rasterize_to_pixels(
            means,
            conics,
            values[..., first : first + size],
            opacities,
            cameras.width,
            cameras.height,
            tile,
            starts,
            pair_gaussians,
            backgrounds=behind,
        )
        blended.append(image)
        alphas.append(alpha)
        first += size
    images = (torch.cat(blended, dim=-1) if len(blended) > 1 else blended[0]).to(dtype)
    alpha = alphas[0][..., 0].to(dtype)
    return (
        images[..., :3],
        alpha,
        images[..., -1] / alpha.clamp_min(_DEPTH_FLOOR) if depth else None,
        images[..., 3 : images.shape[-1] - depth] if gaussians.features is not None else None,
    )


def _widened(background: Tensor, channels: int) -> Tensor:
    """The background `[B, channels]`: everything but colour is over zero."""
    return background if channels == 3 else pad(background, (0, channels - 3))


def _passes(channels: int) -> list[int]:
    """Sizes of the passes that blend so many channels, nearly equal, the first with at least the three of colour."""
    count = math.ceil(channels / _WIDEST)
    size = math.ceil(channels / count)
    return [min(size, channels - start) for start in range(0, channels, size)]


def _per_image(field: Tensor, dims: int, batch: int) -> Tensor:
    return field if field.ndim > dims else field.expand(batch, *field.shape)


def _is_shared(gaussians: Gaussians) -> bool:
    """Whether all images see one geometry (colours and features may be their own)."""
    geometry = ((gaussians.means, 2), (gaussians.rotations, 2), (gaussians.scales, 2), (gaussians.opacities, 1))
    return all(field.ndim == dims for field, dims in geometry)


def _padded(gaussians: Gaussians, cameras: Cameras) -> Gaussians:
    """Add transparent Gaussians until sets start at multiples of a warp, where it matters.

    gsplat adds up gradients over the lanes of a warp that have the same Gaussian's (camera's) number, without asking
    whether they belong to the same set: sets that share a warp would get each other's. It cannot take empty sets.
    """
    count = gaussians.count
    own_sets = not _is_shared(gaussians)
    if count and not (own_sets and (count < _WARP or cameras.world_to_camera.requires_grad)):
        return gaussians
    more = -count % _WARP or (0 if count else _WARP)
    if not more:
        return gaussians
    features = gaussians.features
    return Gaussians(
        pad(gaussians.means, (0, 0, 0, more)),
        pad(gaussians.rotations, (0, 0, 0, more)),
        pad(gaussians.scales, (0, 0, 0, more)),
        pad(gaussians.opacities, (0, more)),
        pad(gaussians.colors, (0, 0, 0, more)),
        None if features is None else pad(features, (0, 0, 0, more)),
    )


def _project(
    gsplat: Any, gaussians: Gaussians, cameras: Cameras, near: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What is drawn in each image.

    Returns:
        Radii `[B, N, 2]` (0 for what is not drawn), means `[B, N, 2]` in pixels, depths `[B, N]`, conics `[B, N, 3]`
        and opacities `[B, N]`.
    """
    batch, count = len(cameras), gaussians.count
    means, rotations, scales, opacities = gaussians.means, gaussians.rotations, gaussians.scales, gaussians.opacities
    world_to_camera, intrinsics = cameras.world_to_camera, cameras.intrinsics
    if not _is_shared(gaussians):  # B sets with a camera each; otherwise one set with B cameras
        means, rotations, scales = (_per_image(field, 2, batch) for field in (means, rotations, scales))
        opacities = _per_image(opacities, 1, batch)
        world_to_camera, intrinsics = world_to_camera[:, None], intrinsics[:, None]
    unrotated = (rotations == 0).all(dim=-1, keepdim=True)
    rotations = torch.where(unrotated, _no_rotation(rotations.device), rotations)  # as everywhere; not NaN
    with torch.set_grad_enabled(torch.is_grad_enabled() and not intrinsics.requires_grad):
        radii, centers, depths, conics, _ = gsplat.fully_fused_projection(
            means,
            None,
            rotations,
            scales,
            world_to_camera,
            intrinsics,
            cameras.width,
            cameras.height,
            eps2d=_LOW_PASS,
            near_plane=near,
            far_plane=_FAR,
            opacities=opacities,
        )
    # A covariance that overflows has a conic of zeros or NaN, which would cover the whole image: not drawn. The radii
    # are changed behind autograd's back because gsplat's backward pass skips a Gaussian by these very numbers.
    with torch.no_grad():
        radii.data.mul_((conics[..., 0] * conics[..., 2] > 0)[..., None])
    radii, centers = radii.view(batch, count, 2), centers.view(batch, count, 2)
    depths, conics = depths.view(batch, count), conics.view(batch, count, 3)
    if torch.is_grad_enabled() and intrinsics.requires_grad:
        centers, depths, conics = _project_in_torch(means, rotations, scales, cameras, (radii > 0).all(dim=-1))
    return radii, centers, depths, conics, _per_image(opacities, 1, batch)


@functools.cache
def _no_rotation(device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # outlives the call; autograd refuses inference tensors
        return torch.tensor([1.0, 0, 0, 0], device=device)


def _project_in_torch(
    means: Tensor, rotations: Tensor, scales: Tensor, cameras: Cameras, drawn: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Means, depths and conics as `_project` has them, differentiable in the intrinsics too."""
    size = means.new_tensor([cameras.width, cameras.height])
    world_rotation = cameras.world_to_camera[:, :3, :3]
    focal = cameras.intrinsics.diagonal(dim1=1, dim2=2)[:, None, :2]
    center = cameras.intrinsics[:, None, :2, 2]
    points = means @ world_rotation.transpose(1, 2) + cameras.world_to_camera[:, None, :3, 3]
    points = torch.where(drawn[..., None], points, points.new_tensor([0.0, 0, 1]))  # no 1/0 in gradients of the others
    scales = torch.where(drawn[..., None], scales, 0.0)
    slopes = points[..., :2] / points[..., 2:]
    low, high = -center - _JACOBIAN_MARGIN * size, (1 + _JACOBIAN_MARGIN) * size - center
    limited = torch.minimum(torch.maximum(slopes * focal, low), high)
    to_camera = world_rotation[:, None] @ (_rotation_matrices(rotations) * scales[..., None, :])
    rows = focal[..., None] * to_camera[..., :2, :] - limited[..., None] * to_camera[..., 2:, :]
    rows = rows / points[..., 2:, None]
    covariance = rows @ rows.transpose(-1, -2)
    xx, xy, yy = covariance[..., 0, 0] + _LOW_PASS, covariance[..., 0, 1], covariance[..., 1, 1] + _LOW_PASS
    minors = torch.linalg.cross(rows[..., 0, :], rows[..., 1, :])  # Cauchy-Binet, as on the CPU
    low_passed = _LOW_PASS * (covariance[..., 0, 0] + covariance[..., 1, 1]) + _LOW_PASS**2
    determinant = minors.square().sum(dim=-1) + low_passed
    return slopes * focal + center, points[..., 2], torch.stack([yy, -xy, xx], dim=-1) / determinant[..., None]


def _rotation_matrices(quaternions: Tensor) -> Tensor:
    """`[..., 3, 3]` of quaternions wxyz of any length."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(dim=-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


class _FiniteCheck:
    """Whether all inputs are finite: asked of the GPU at once, answered when something else has waited for it."""

    def __init__(self, gaussians: Gaussians, cameras: Cameras) -> None:
        features = gaussians.means.new_zeros(gaussians.count, 0) if gaussians.features is None else gaussians.features
        fields = (gaussians.means, gaussians.rotations, gaussians.scales, gaussians.opacities, gaussians.colors)
        self._fields = [field.detach() for field in (*fields, features)]
        self._cameras = [cameras.world_to_camera.detach(), cameras.intrinsics.detach()]
        filled = [field for field in (*self._fields, *self._cameras) if field.numel()]
        largest = torch.stack(torch._foreach_norm(filled, math.inf))
        self._largest = torch.empty(largest.shape, dtype=largest.dtype, pin_memory=largest.is_cuda)
        self._largest.copy_(largest, non_blocking=True)
        self._copied = torch.cuda.Event() if largest.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def after_sync(self) -> None:
        """Raise ValueError if a value is not finite. Waits only where nothing has waited for the GPU before."""
        if self._copied is not None:
            self._copied.synchronize()
        if not all(map(math.isfinite, self._largest.tolist())):
            from osgap.splat.backends import cpu  # says which one it is

            fields = [field.cpu().numpy() for field in self._fields]
            raise ValueError(cpu.not_finite(cpu.per_camera(fields), *(field.cpu().numpy() for field in self._cameras)))


# ----------------------------------------------------------------------------------------------------------------
# Loading


@functools.cache
def load() -> Any:
    """The `gsplat` module with its CUDA kernels, compiled where they have not been yet.

    torch keeps what is compiled in `TORCH_EXTENSIONS_DIR` or the user's cache folder. A lock beside it makes processes
    that start together wait for the one that compiles; the system takes it from a process that dies.

    Raises:
        UserError: when gsplat is not installed, has no compiler, or does not compile.
    """
    if importlib.util.find_spec("gsplat") is None:
        raise UserError(f"rendering on a GPU needs gsplat, which is not installed. Install it: {INSTALL}")
    from torch.utils.cpp_extension import _get_build_directory  # where gsplat, too, asks for it

    log = logging.getLogger(__name__)
    try:
        folder = Path(_get_build_directory("gsplat_cuda", verbose=False))
        lock = _acquired(folder.parent / "osgap-gsplat.lock", log)
    except OSError as error:
        raise UserError(
            f"gsplat's CUDA kernels are compiled into {error.filename}, which cannot be written: {error.strerror}. Set "
            f"TORCH_EXTENSIONS_DIR to a folder of yours"
        ) from error
    try:
        compiles = not any((folder / f"gsplat_cuda{ending}").exists() for ending in (".so", ".pyd"))
        compiles = compiles and not any(_package().glob("csrc*"))  # a wheel that brings its kernels
        start = time.perf_counter()
        if compiles:
            log.info("compiling gsplat's CUDA kernels into %s: once per machine, takes about a minute", folder)
        with contextlib.redirect_stdout(sys.stderr):  # gsplat reports on stdout, which may be a command's JSON
            kernels = importlib.import_module("gsplat.cuda._backend")._C
        if kernels is None:
            raise UserError(
                f"gsplat has to compile its CUDA kernels and finds no compiler (nvcc). Install the CUDA toolkit "
                f"{torch.version.cuda or ''} that torch is built for, and set CUDA_HOME to its folder"
            )
        if compiles:
            log.info("compiled gsplat's CUDA kernels in %.0f s", time.perf_counter() - start)
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"gsplat's CUDA kernels cannot be compiled or loaded: {_last_line(error)}. With VERBOSE=1 in the "
            f"environment the compiler's output is shown; what there is of the build lies in {folder}"
        ) from error
    finally:
        lock.release()
    return importlib.import_module("gsplat")


def _acquired(path: Path, log: logging.Logger) -> BaseFileLock:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process that compiles or loads gsplat's CUDA kernels (it holds %s)", path)
        lock.acquire()
    return lock


def _package() -> Path:
    spec = importlib.util.find_spec("gsplat")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__

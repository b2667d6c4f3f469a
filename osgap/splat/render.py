"""Rendering: world-space Gaussians and a batch of cameras to colour, alpha, depth and features.

The one entry point, `render`, picks a backend by the tensors' device; callers never name one. All backends compute
what 3D Gaussian splatting defines (Kerbl et al. 2023, sections 4 and 6; Zwicker et al. 2001, "EWA volume splatting",
for the projection), with the constants below. The CPU's (`osgap.splat.backends.cpu`) and gsplat's
(`osgap.splat.backends.gsplat_backend`) differ by rounding alone; diff_gauss, which stands in for gsplat where only
that is installed, cuts Gaussians off at three standard deviations (`osgap.splat.backends.diff_gauss_backend`).
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from osgap.runtime.errors import UserError
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians

_MOST_OPAQUE = 0.99
"""What opacities are limited to. A pixel ends before the Gaussian that would leave it 1e-4 of transmittance: were a
Gaussian allowed 0.999, as by gsplat, a pixel that is covered to 0.9 by others in front of it would stay at that."""

Backend = Callable[[Gaussians, Cameras, Tensor, float, bool], tuple[Tensor, Tensor, Tensor | None, Tensor | None]]
"""(Gaussians, Cameras [B], background [B, 3], near, depth) -> rgb [B,H,W,3], alpha [B,H,W], depth [B,H,W], features.

The last two are None when they are not asked for: depth by the flag, features by Gaussians that have some. Everything
a backend gets is on one device, in one floating-point type and checked for shape, and no opacity is above
`_MOST_OPAQUE`; each field of the Gaussians has the leading dimension B or none.
"""


@dataclass(frozen=True)
class Rendered:
    """Images of B cameras (without the leading dimension where neither cameras nor Gaussians had one)."""

    rgb: Tensor
    """`[B, H, W, 3]` blended colours over the background."""
    alpha: Tensor
    """`[B, H, W]` 1 - transmittance, in [0, 1)."""
    depth: Tensor | None
    """`[B, H, W]` expected camera-space z of what is visible, in world units, 0 where nothing is; None when it was not
    asked for."""
    features: Tensor | None
    """`[B, H, W, K]` blended features over zero, or None when they were not asked for."""


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    background: Tensor | None = None,
    features: bool = False,
    depth: bool = False,
    near: float = 0.01,
) -> Rendered:
    """Render Gaussians into every camera; differentiable in all tensors, those of the cameras included.

    A Gaussian (mean m, covariance S = R diag(s)^2 R^T) is seen by a camera (world-to-camera rotation W, translation t)
    as a 2D Gaussian with mean `(fx x/z + cx, fy y/z + cy)`, `(x, y, z) = W m + t`, and covariance
    `J W S W^T J^T + 0.3 I` (pixels squared), where J is the projection's Jacobian

        J = [[fx/z, 0, -fx x'/z], [0, fy/z, -fy y'/z]]

    and x', y' are x/z, y/z limited to 0.15 image widths (heights) outside the image. At distance d from the 2D mean
    its alpha is `min(0.99, opacity) exp(-d^T cov^-1 d / 2)`; below 1/255 it is skipped. Front to back in z (ties by
    index) the Gaussian gets the weight `w = alpha T` and leaves the transmittance `T (1 - alpha)`; the first one that
    would leave 1e-4 or less is not added and ends the pixel, which happens at an alpha of 0.99 at the least. Then
    `rgb = sum(w color) + T background`, `alpha = 1 - T`, `depth = sum(w z) / max(alpha, 1e-10)`,
    `features = sum(w feature)`.

    The gradients are those of these formulas, but for opacities above 0.99: theirs is what it would be without the
    limit, so that what has become opaque can become transparent again.

    Args:
        gaussians: one set (without leading dimension, or with B = 1), shared by all cameras, or B sets, one per camera.
        cameras: B cameras, or one that all sets of Gaussians share.
        background: `[3]` or `[B, 3]` RGB. Default is black.
        features: also blend `gaussians.features`. Default is False.
        depth: also blend the depth. Default is False.
        near: Gaussians with z below it are not drawn, in world units. Default is 0.01.

    Raises:
        ValueError: when shapes or devices do not fit, or a Gaussian or camera has a value that is not finite; the
            message names the field and the index.
        UserError: when the tensors are on a device that no backend renders on, or on a GPU without gsplat.
    """
    if features and gaussians.features is None:
        raise ValueError("render(features=True) needs Gaussians with features; these have none")
    if not near > 0:
        raise ValueError(f"near must be a distance above 0; got {near}")
    batch = _batch(gaussians, cameras)
    dtype = torch.float64 if gaussians.means.dtype == torch.float64 else torch.float32
    backend = _backend(gaussians, cameras, background)

    size = 1 if batch is None else batch
    gaussians = _sets(gaussians, dtype, size, features)
    cameras = Cameras(
        cameras.world_to_camera.to(dtype).expand(size, 4, 4),
        cameras.intrinsics.to(dtype).expand(size, 3, 3),
        cameras.width,
        cameras.height,
    )
    images = backend(gaussians, cameras, _background(background, gaussians.means, size), near, depth)
    if batch is None:
        rgb, alpha, *others = images
        return Rendered(rgb[0], alpha[0], *(None if image is None else image[0] for image in others))
    return Rendered(*images)


def _batch(gaussians: Gaussians, cameras: Cameras) -> int | None:
    sizes = {size for size in (gaussians.batch, cameras.batch) if size is not None}
    if len(sizes - {1}) > 1:
        raise ValueError(
            f"{gaussians.batch} sets of Gaussians cannot be rendered into {cameras.batch} cameras; pass one set, "
            f"or as many sets as cameras"
        )
    return max(sizes, default=None)


def _sets(gaussians: Gaussians, dtype: torch.dtype, batch: int, features: bool) -> Gaussians:
    """The Gaussians as backends get them; without features where these are not asked for."""
    return Gaussians(
        _set(gaussians.means.to(dtype), 2, batch),
        _set(gaussians.rotations.to(dtype), 2, batch),
        _set(gaussians.scales.to(dtype), 2, batch),
        _set(_limited(gaussians.opacities.to(dtype)), 1, batch),
        _set(gaussians.colors.to(dtype), 2, batch),
        _set(gaussians.features.to(dtype), 2, batch) if features and gaussians.features is not None else None,
    )


def _limited(opacities: Tensor) -> Tensor:
    return opacities - (opacities.detach() - _MOST_OPAQUE).clamp_min(0)


def _set(field: Tensor, dims: int, batch: int) -> Tensor:
    """The field with a leading dimension of `batch`, or without one where all cameras share it."""
    return field[0] if field.ndim > dims and field.shape[0] == 1 != batch else field


def _background(background: Tensor | None, like: Tensor, batch: int) -> Tensor:
    if background is None:
        return like.new_zeros(batch, 3)
    if background.shape not in ((3,), (batch, 3)):
        raise ValueError(f"background must be [3] or [{batch}, 3]; got {list(background.shape)}")
    return background.to(like.dtype).expand(batch, 3)


def _backend(gaussians: Gaussians, cameras: Cameras, background: Tensor | None) -> Backend:
    """The backend for the device that all tensors share. A further device needs one more branch here."""
    devices = {
        "means": gaussians.means.device,
        "rotations": gaussians.rotations.device,
        "scales": gaussians.scales.device,
        "opacities": gaussians.opacities.device,
        "colors": gaussians.colors.device,
        "world_to_camera": cameras.world_to_camera.device,
        "intrinsics": cameras.intrinsics.device,
    }
    if gaussians.features is not None:
        devices["features"] = gaussians.features.device
    if background is not None:
        devices["background"] = background.device
    if len(set(devices.values())) > 1:
        shown = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"render needs all tensors on one device; got {shown}")
    device = gaussians.means.device
    if device.type == "cpu":
        from osgap.splat.backends import cpu  # compiled code: loaded by those who render on the CPU only

        return cpu.rasterize
    if device.type == "cuda":
        return _cuda_backend()
    raise UserError(
        f"the Gaussians are on {device}, but osgap renders on CPUs and CUDA devices; move Gaussians and cameras with "
        f".to('cpu') or .to('cuda')"
    )


@functools.cache
def _cuda_backend() -> Backend:
    """gsplat; or the reference code's renderer where only that is installed."""
    if importlib.util.find_spec("gsplat") is None and importlib.util.find_spec("diff_gauss") is not None:
        from osgap.splat.backends import diff_gauss_backend

        return diff_gauss_backend.rasterize
    from osgap.splat.backends import gsplat_backend

    gsplat_backend.load()
    return gsplat_backend.rasterize

"""The reference code's CUDA renderer (the `diff_gauss` package), for those who have it and not gsplat.

One image at a time. Differences from `osgap.splat.render.render`, which this package's compiled kernels fix:

* A Gaussian ends at three standard deviations (3.33 elsewhere, where alpha falls to 1/255): up to 0.011 of alpha less.
* The Jacobian is limited around the middle of the image, not around the principal point.
* No gradients for cameras.

It draws nothing nearer than 0.2 units; the world is scaled here so that this becomes `near`, which changes no image.
Built from its public source, on an H200 (torch 2.11, CUDA 13), it came within 0.011 of gsplat's images and 0.6 % of its
gradients, in six times the time (docs/performance.md). The tests run this file against an emulation of the package.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians

_NEAR = 0.2
_MOST_CHANNELS = 34
_DEPTH_FLOOR = 1e-10


def rasterize(
    gaussians: Gaussians, cameras: Cameras, background: Tensor, near: float, depth: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """`osgap.splat.render.Backend` with diff_gauss.

    Raises:
        ValueError: when a camera requires gradients, or a value is not finite.
    """
    if cameras.world_to_camera.requires_grad or cameras.intrinsics.requires_grad:
        raise ValueError("diff_gauss has no gradients for cameras; install gsplat, or render on the CPU")
    dtype = gaussians.means.dtype
    gaussians, cameras = gaussians.to(torch.float32), cameras.to(torch.float32)
    for name, tensor in {**vars(gaussians), "intrinsics": cameras.intrinsics}.items():
        if tensor is not None and not tensor.isfinite().all():
            raise ValueError(f"Gaussians and cameras must be finite; found a value in {name} that is not")
    images = [_image(gaussians, cameras, b, near, depth) for b in range(len(cameras))]
    rgb, alpha, extra = (torch.stack(parts).to(dtype) for parts in zip(*images, strict=True))
    return (
        rgb + (1 - alpha)[..., None] * background[:, None, None],
        alpha,
        extra[..., -1] / alpha.clamp_min(_DEPTH_FLOOR) if depth else None,
        extra[..., : extra.shape[-1] - depth] if gaussians.features is not None else None,
    )


def _image(gaussians: Gaussians, cameras: Cameras, b: int, near: float, depth: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Colour over black `[H, W, 3]`, alpha `[H, W]` and the further channels (features, then w z) `[H, W, K]`."""
    from diff_gauss import GaussianRasterizer

    def of_image(field: Tensor, dims: int) -> Tensor:
        return field[b] if field.ndim > dims else field

    unit = _NEAR / near
    means = of_image(gaussians.means, 2)
    rotations = torch.nn.functional.normalize(of_image(gaussians.rotations, 2), dim=-1)  # the kernels do not
    world_to_camera = cameras.world_to_camera[b]
    extra = []
    if gaussians.features is not None:
        extra.append(of_image(gaussians.features, 2))
    if depth:
        extra.append(means @ world_to_camera[2, :3, None] + world_to_camera[2, 3])
    rasterizer = GaussianRasterizer(raster_settings=_settings(cameras, b, unit))
    channels = torch.cat(extra, dim=-1) if extra else None
    images = []
    for part in (None,) if channels is None else channels.split(_MOST_CHANNELS, dim=-1):
        rgb, _, _, alpha, _, blended = rasterizer(
            means3D=unit * means,
            means2D=torch.zeros_like(means),
            opacities=of_image(gaussians.opacities, 1)[:, None],
            colors_precomp=of_image(gaussians.colors, 2),
            scales=unit * of_image(gaussians.scales, 2),
            rotations=rotations,
            extra_attrs=None if part is None else part.contiguous(),
        )
        images.append((rgb, alpha, blended))
    rgb, alpha, _ = images[0]
    empty = rgb.new_zeros(0, cameras.height, cameras.width)
    blended = empty if channels is None else torch.cat([image for _, _, image in images])
    return rgb.permute(1, 2, 0), alpha[0], blended.permute(1, 2, 0)


def _settings(cameras: Cameras, b: int, unit: float) -> Any:
    """Of the package, for one camera in a world that is `unit` times as large."""
    from diff_gauss import GaussianRasterizationSettings

    scaled = cameras.world_to_camera[b].clone()  # the other one may be saved for the depth's gradient
    scaled[:3, 3] *= unit
    width, height = cameras.width, cameras.height
    fx, fy, cx, cy = cameras.intrinsics[b][(0, 1, 0, 1), (0, 1, 2, 2)].tolist()
    # Pixel u is at 2 u / width - 1 in clip space; the principal point is a shift that grows with z.
    projection = scaled.new_tensor(
        [
            [2 * fx / width, 0, 2 * cx / width - 1, 0],
            [0, 2 * fy / height, 2 * cy / height - 1, 0],
            [0, 0, 1, 0],
            [0, 0, 1, 0],
        ]
    )
    return GaussianRasterizationSettings(
        image_height=height,
        image_width=width,
        tanfovx=width / (2 * fx),
        tanfovy=height / (2 * fy),
        bg=scaled.new_zeros(3),
        scale_modifier=1.0,
        viewmatrix=scaled.T.contiguous(),
        projmatrix=(projection @ scaled).T.contiguous(),
        sh_degree=0,
        campos=scaled.new_zeros(3),  # enters spherical harmonics and normals only
        prefiltered=False,
        debug=False,
    )

"""The objective of a fit: photometric terms and the regularisers that keep Gaussians on their triangles."""

from __future__ import annotations

import torch
from torch import Tensor

from osgap.splat.image_metrics import ssim


def photometric_loss(images: Tensor, targets: Tensor, ssim_weight: float) -> Tensor:
    """`(1 - w) L1 + w (1 - SSIM)` (Kerbl et al. 2023, eq. 7), averaged over images.

    Args:
        images: `[B, H, W, 3]`, rendered, 0..1.
        targets: `[B, H, W, 3]`, 0..1.
        ssim_weight: w; 0.2 in the paper.
    """
    l1 = (images - targets).abs().mean()
    if ssim_weight == 0:
        return l1
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim(images, targets).mean())


def position_loss(position: Tensor, visible: Tensor, threshold: float) -> Tensor:
    """Mean over visible Gaussians of `relu(|x| - threshold)` (Qian et al. 2024, section 3.4).

    Args:
        position: `[N, 3]`, triangle-local, in triangle units.
        visible: `[N]`, in how many images of the batch each Gaussian is seen.
        threshold: distance from the triangle's centre that costs nothing.
    """
    return _weighted_mean((position.norm(dim=-1) - threshold).relu(), visible)


def scale_loss(scale: Tensor, visible: Tensor, threshold: float) -> Tensor:
    """Mean over visible Gaussians of `||relu(exp(scale) - threshold)||` (Qian et al. 2024, section 3.4).

    Args:
        scale: `[N, 3]`, log, relative to the triangle.
        visible: `[N]`, in how many images of the batch each Gaussian is seen.
        threshold: scale that costs nothing, in triangle units.
    """
    excess = (scale.exp() - threshold).relu()
    # The norm's gradient at zero is 0/0: sqrt(max(., tiny)) has the same value and a zero gradient there.
    return _weighted_mean(excess.square().sum(dim=-1).clamp_min(1e-20).sqrt(), visible)


def anchor_loss(channels: Tensor, initial: Tensor) -> Tensor:
    """Mean over Gaussians of the squared distance from the initial attributes, summed over channels.

    Every Gaussian counts, seen or not. Channels are before activation: triangle units, quaternion components, log
    units, logits and SH coefficients, all of order one.

    Args:
        channels: `[N, C]`.
        initial: `[N, C]`.
    """
    return (channels - initial).square().sum(dim=-1).mean()


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1)


def visibility(
    means: Tensor, radii: Tensor, world_to_camera: Tensor, intrinsics: Tensor, size: tuple[int, int]
) -> Tensor:
    """In how many images of a batch each Gaussian is seen: in front of the camera and not beyond the image.

    Occlusion does not count, as in 3D Gaussian splatting (radius > 0).

    Args:
        means: `[B, N, 3]`, world.
        radii: `[B, N]`, three standard deviations along the longest axis, in world units.
        world_to_camera: `[B, 4, 4]`, OpenCV axes.
        intrinsics: `[B, 3, 3]`, pixels.
        size: width and height in pixels.

    Returns:
        `[N]` floats.
    """
    camera = means @ world_to_camera[:, :3, :3].transpose(1, 2) + world_to_camera[:, None, :3, 3]
    depth = camera[..., 2].clamp_min(1e-6)
    focal = intrinsics.diagonal(dim1=1, dim2=2)[:, None, :2]
    pixel = camera[..., :2] / depth[..., None] * focal + intrinsics[:, None, :2, 2]
    reach = radii[..., None] / depth[..., None] * focal
    bounds = torch.tensor(size, dtype=pixel.dtype, device=pixel.device)
    inside = ((pixel + reach > 0) & (pixel - reach < bounds)).all(dim=-1) & (camera[..., 2] > 0)
    return inside.to(means.dtype).sum(dim=0)

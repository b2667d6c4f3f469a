"""The objective of a fit: photometric terms and the regularisers that keep Gaussians on their triangles."""

from __future__ import annotations

import torch
from torch import Tensor

from osgap.metrics.definitions import check_images
from osgap.metrics.image_metrics import ssim
from osgap.runtime.pixels import to_float
from osgap.splat.cameras import Cameras

_SIGMAS = 3.0  # a Gaussian reaches this many standard deviations, as in 3D Gaussian splatting
_MIN_DEPTH = 1e-6  # metres, least divisor of a projection


def photometric_loss(images: Tensor, targets: Tensor, ssim_weight: float) -> Tensor:
    """`(1 - w) L1 + w (1 - SSIM)` (Kerbl et al. 2023, eq. 7), averaged over images.

    Args:
        images: `[B, H, W, 3]`, rendered, 0..1.
        targets: `[B, H, W, 3]`: uint8 in 0..255, or floats in 0..1. Float32 images on CUDA with targets of bytes or
            float32 take compiled kernels, which differentiate with respect to the images only, and once.
        ssim_weight: w; 0.2 in the paper.

    Raises:
        ValueError: when the shapes differ.
    """
    check_images(images, targets)
    compiled = images.dtype == torch.float32 and targets.dtype in (torch.uint8, torch.float32)
    if compiled and images.is_cuda and images.numel() and ssim_weight and not targets.requires_grad:
        from osgap.metrics import ssim_triton  # compiled code: loaded by those who need it only

        return ssim_triton.photometric_loss(images, targets, ssim_weight)
    if targets.dtype == torch.uint8:
        targets = to_float(targets, images.dtype)
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


def visibility(means: Tensor, scales: Tensor, cameras: Cameras) -> Tensor:
    """In how many images of a batch each Gaussian is seen: in front of the camera and not beyond the image.

    A Gaussian reaches three standard deviations along its longest axis. Occlusion does not count, as in 3D Gaussian
    splatting (radius > 0). Not differentiable.

    Args:
        means: `[B, N, 3]`, world units.
        scales: `[B, N, 3]` standard deviations, world units.
        cameras: `[B]`.

    Returns:
        `[N]` floats.
    """
    means, scales = means.detach(), scales.detach()
    if means.is_cuda and means.dtype == torch.float32:
        from osgap.fit import visibility_triton  # compiled code: loaded by those who need it only

        return visibility_triton.count(means, scales, cameras, _SIGMAS, _MIN_DEPTH)
    world_to_camera, intrinsics = cameras.world_to_camera, cameras.intrinsics
    camera = means @ world_to_camera[:, :3, :3].transpose(1, 2) + world_to_camera[:, None, :3, 3]
    depth = camera[..., 2].clamp_min(_MIN_DEPTH)
    focal = intrinsics.diagonal(dim1=1, dim2=2)[:, None, :2]
    pixel = camera[..., :2] / depth[..., None] * focal + intrinsics[:, None, :2, 2]
    reach = _SIGMAS * scales.amax(dim=-1)[..., None] / depth[..., None] * focal
    bounds = pixel.new_tensor([cameras.width, cameras.height])
    inside = ((pixel + reach > 0) & (pixel - reach < bounds)).all(dim=-1) & (camera[..., 2] > 0)
    return inside.to(means.dtype).sum(dim=0)

"""A renderer straight from the definition: every Gaussian at every pixel, one after the other, in plain autograd.

Slow and simple on purpose: no tiles, no bounding boxes, no hand-written gradient. It shares no code with osgap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reference:
    rgb: Tensor  # [H, W, 3]
    alpha: Tensor  # [H, W]
    depth: Tensor  # [H, W]
    features: Tensor  # [H, W, K]
    margin: Tensor
    """[H, W]: how close (relative) any decision at this pixel was: the cut of alpha, the end of the pixel."""


def rotation_matrix(quaternion: Tensor) -> Tensor:
    """[3, 3] from wxyz: v -> q v q*, column by column."""
    w, xyz = quaternion[0], quaternion[1:]
    columns = []
    for axis in torch.eye(3, dtype=quaternion.dtype):
        t = 2 * torch.linalg.cross(xyz, axis)
        columns.append(axis + w * t + torch.linalg.cross(xyz, t))
    return torch.stack(columns, dim=1)


def render_reference(
    means: Tensor,  # [N, 3]
    rotations: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    colors: Tensor,  # [N, 3]
    features: Tensor,  # [N, K]
    world_to_camera: Tensor,  # [4, 4]
    intrinsics: Tensor,  # [3, 3]
    background: Tensor,  # [3]
    width: int,
    height: int,
    near: float = 0.01,
) -> Reference:
    dtype = means.dtype
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    world_rotation, translation = world_to_camera[:3, :3], world_to_camera[:3, 3]
    points = means @ world_rotation.T + translation
    channels = torch.cat([colors, points[:, 2:], features], dim=1)

    v, u = torch.meshgrid(
        torch.arange(height, dtype=dtype) + 0.5, torch.arange(width, dtype=dtype) + 0.5, indexing="ij"
    )
    transmittance = torch.ones(height, width, dtype=dtype)
    blended = torch.zeros(height, width, channels.shape[1], dtype=dtype)
    running = torch.ones(height, width, dtype=torch.bool)
    margin = torch.full((height, width), torch.inf, dtype=dtype)

    for n in torch.argsort(points[:, 2].detach(), stable=True).tolist():
        x, y, z = points[n]
        if z < near:
            continue
        tan_x, tan_y = width / 2 / fx, height / 2 / fy
        slope_x = torch.clamp(x / z, -cx / fx - 0.3 * tan_x, (width - cx) / fx + 0.3 * tan_x)
        slope_y = torch.clamp(y / z, -cy / fy - 0.3 * tan_y, (height - cy) / fy + 0.3 * tan_y)
        zero = torch.zeros((), dtype=dtype)
        jacobian = torch.stack(
            [torch.stack([fx / z, zero, -fx * slope_x / z]), torch.stack([zero, fy / z, -fy * slope_y / z])]
        )
        rotation = rotation_matrix(rotations[n] / rotations[n].norm())
        covariance = rotation @ torch.diag(scales[n] ** 2) @ rotation.T
        to_pixels = jacobian @ world_rotation
        projected = to_pixels @ covariance @ to_pixels.T + 0.3 * torch.eye(2, dtype=dtype)
        offset = torch.stack([u - (fx * x / z + cx), v - (fy * y / z + cy)], dim=-1)
        power = 0.5 * ((offset @ torch.linalg.inv(projected)) * offset).sum(-1)
        # Limited to 0.99, with the gradient of no limit: the same derivative, another value.
        opacity = opacities[n] if opacities[n] <= 0.99 else opacities[n] - opacities[n].detach() + 0.99
        alpha = opacity * torch.exp(-power)

        hit = running & (alpha >= 1 / 255)
        after = transmittance * (1 - alpha)
        ends = hit & (after <= 1e-4)
        adds = hit & ~ends
        with torch.no_grad():
            distances = [(alpha * 255 - 1).abs()]
            distances.append(torch.where(hit, (after / 1e-4 - 1).abs(), torch.inf))
            for distance in distances:
                margin = torch.where(running, torch.minimum(margin, distance), margin)
        weight = torch.where(adds, alpha * transmittance, torch.zeros_like(alpha))
        blended = blended + weight[..., None] * channels[n]
        transmittance = torch.where(adds, after, transmittance)
        running = running & ~ends

    alpha = 1 - transmittance
    return Reference(
        rgb=blended[..., :3] + transmittance[..., None] * background,
        alpha=alpha,
        depth=blended[..., 3] / alpha.clamp_min(1e-10),
        features=blended[..., 4:],
        margin=margin,
    )

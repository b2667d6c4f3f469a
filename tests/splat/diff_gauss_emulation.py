"""What the `diff_gauss` package does, on the CPU: its interface, around osgap's own renderer.

As the package's, its function saves its inputs for the backward pass, takes one image at a time in float32, matrices
transposed, at most 34 further channels, and draws nothing nearer than 0.2 units.
"""

from __future__ import annotations

import types
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from osgap.splat.backends import cpu
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians


class Settings(NamedTuple):
    image_height: int
    image_width: int
    tanfovx: float
    tanfovy: float
    bg: Tensor
    scale_modifier: float
    viewmatrix: Tensor
    projmatrix: Tensor
    sh_degree: int
    campos: Tensor
    prefiltered: bool
    debug: bool

    def cameras(self) -> Cameras:
        """The camera behind the two matrices."""
        world_to_camera = self.viewmatrix.T
        projection = self.projmatrix.T @ torch.linalg.inv(world_to_camera)
        size = torch.tensor([self.image_width, self.image_height])
        intrinsics = torch.eye(3)
        intrinsics[0, 0], intrinsics[1, 1] = size / 2 / torch.tensor([self.tanfovx, self.tanfovy])
        assert torch.allclose(projection[[0, 1], [0, 1]] * size / 2, intrinsics[[0, 1], [0, 1]], rtol=1e-4)
        intrinsics[:2, 2] = (projection[:2, 2] + 1) * size / 2
        return Cameras(world_to_camera[None], intrinsics[None], self.image_width, self.image_height)


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: Settings, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.settings = settings
        ctx.save_for_backward(*tensors)
        return _draw(settings, tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        with torch.enable_grad():
            images = _draw(ctx.settings, leaves)
        return None, *torch.autograd.grad(images, leaves, gradients)


def _draw(settings: Settings, tensors: Any) -> tuple[Tensor, ...]:
    means, opacities, colors, scales, rotations, extra = tensors
    assert all(tensor.dtype == torch.float32 for tensor in tensors)
    assert extra.shape[-1] <= 34
    gaussians = Gaussians(means, rotations, scales, opacities[:, 0], colors, extra)
    rgb, alpha, _, blended = cpu.rasterize(gaussians, settings.cameras(), settings.bg[None], 0.2, False)
    assert blended is not None
    return rgb[0].permute(2, 0, 1), alpha, blended[0].permute(2, 0, 1)


class Rasterizer(nn.Module):
    def __init__(self, raster_settings: Settings) -> None:
        super().__init__()
        self.settings = raster_settings

    def forward(
        self, means3D: Tensor, means2D: Tensor, opacities: Tensor, colors_precomp: Tensor, scales: Tensor,
        rotations: Tensor, extra_attrs: Tensor | None,
    ) -> tuple[Any, ...]:  # fmt: skip
        assert torch.allclose(rotations.norm(dim=-1), torch.ones(len(rotations)))  # its kernels do not normalise
        extra = means3D.new_zeros(len(means3D), 0) if extra_attrs is None else extra_attrs
        rgb, alpha, blended = _Rasterize.apply(
            self.settings, means3D, opacities, colors_precomp, scales, rotations, extra
        )
        return rgb, None, None, alpha, None, blended if extra_attrs is not None else None


def module() -> types.ModuleType:
    """To be imported as `diff_gauss`."""
    made = types.ModuleType("diff_gauss")
    vars(made).update(GaussianRasterizationSettings=Settings, GaussianRasterizer=Rasterizer)
    return made

"""The attributes of Gaussians that are bound to triangles: the one place that knows the order of the channels.

Channels hold values before activation, as they are optimised, predicted and stored. Positions and scales are relative
to the triangle that carries the Gaussian (see `osgap.splat.rig`). Colours are spherical-harmonics coefficients of
degree 0, as in 3D Gaussian Splatting (Kerbl et al., SIGGRAPH 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from osgap.head.texels import TexelBinding

CHANNELS: Mapping[str, slice] = {
    "position": slice(0, 3),
    "rotation": slice(3, 7),
    "scale": slice(7, 10),
    "opacity": slice(10, 11),
    "color": slice(11, 14),
}
"""Where each attribute is among the channels."""

N_CHANNELS = 14

SH_C0 = 0.28209479177387814
"""The constant spherical harmonic, 1 / (2 sqrt(pi))."""


MIN_SQUARED_LENGTH = 1e-24  # of a quaternion


@dataclass(frozen=True)
class GaussianAttributes:
    """Attributes of `N` Gaussians before activation, `[..., N, 14]` or `[..., N, 14 + K]` with `K` feature channels."""

    channels: Tensor

    def __post_init__(self) -> None:
        if self.channels.ndim < 2 or self.channels.shape[-1] < N_CHANNELS:
            raise ValueError(
                f"GaussianAttributes takes channels [..., N, {N_CHANNELS} or more], got {tuple(self.channels.shape)}"
            )

    @classmethod
    def from_parts(
        cls,
        *,
        position: Tensor,
        rotation: Tensor,
        scale: Tensor,
        opacity: Tensor,
        color: Tensor,
        features: Tensor | None = None,
    ) -> GaussianAttributes:
        """Join named attributes, each `[..., N, width]`; see the properties for widths and meanings."""
        parts = {"position": position, "rotation": rotation, "scale": scale, "opacity": opacity, "color": color}
        for name, part in parts.items():
            width = CHANNELS[name].stop - CHANNELS[name].start
            if part.shape != (*position.shape[:-1], width):
                expected = (*position.shape[:-1], width)
                raise ValueError(f"GaussianAttributes: {name} has shape {tuple(part.shape)}, expected {expected}")
        ordered = [parts[name] for name in CHANNELS]
        return cls(torch.cat(ordered if features is None else [*ordered, features], dim=-1))

    def __len__(self) -> int:
        return self.channels.shape[-2]

    @property
    def position(self) -> Tensor:
        """`[..., N, 3]` in the triangle's frame, in triangle scales."""
        return self.channels[..., CHANNELS["position"]]

    @property
    def rotation(self) -> Tensor:
        """`[..., N, 4]` quaternion wxyz in the triangle's frame, of any length."""
        return self.channels[..., CHANNELS["rotation"]]

    @property
    def scale(self) -> Tensor:
        """`[..., N, 3]` logarithm of the standard deviations in triangle scales."""
        return self.channels[..., CHANNELS["scale"]]

    @property
    def opacity(self) -> Tensor:
        """`[..., N, 1]` logit."""
        return self.channels[..., CHANNELS["opacity"]]

    @property
    def color(self) -> Tensor:
        """`[..., N, 3]` spherical-harmonics coefficients of degree 0: red, green, blue."""
        return self.channels[..., CHANNELS["color"]]

    @property
    def features(self) -> Tensor | None:
        """`[..., N, K]` feature channels, or None without any."""
        return self.channels[..., N_CHANNELS:] if self.channels.shape[-1] > N_CHANNELS else None

    def rotations(self) -> Tensor:
        """`[..., N, 4]` unit quaternions wxyz."""
        squared = self.rotation.square().sum(-1, keepdim=True)
        return self.rotation * squared.clamp_min(MIN_SQUARED_LENGTH).rsqrt()

    def scales(self) -> Tensor:
        """`[..., N, 3]` standard deviations in triangle scales."""
        return self.scale.exp()

    def opacities(self) -> Tensor:
        """`[..., N]` in (0, 1)."""
        return self.opacity.squeeze(-1).sigmoid()

    def colors(self) -> Tensor:
        """`[..., N, 3]` RGB, at least 0."""
        return sh_to_rgb(self.color)

    def to(self, device: torch.device | str) -> GaussianAttributes:
        """The attributes on `device`."""
        return GaussianAttributes(self.channels.to(device))

    def detach(self) -> GaussianAttributes:
        """The attributes detached from the autograd graph."""
        return GaussianAttributes(self.channels.detach())

    def to_uv(self, binding: TexelBinding) -> Tensor:
        """UV maps `[..., S, S, C]` with Gaussian k at the k-th covered texel, and zero elsewhere."""
        if len(self) != len(binding):
            raise ValueError(f"{len(self)} Gaussians do not fit {len(binding)} covered texels")
        maps = self.channels.new_zeros(*self.channels.shape[:-2], binding.size**2, self.channels.shape[-1])
        return maps.index_copy(-2, _flat_texels(binding), self.channels).unflatten(-2, (binding.size, binding.size))

    @classmethod
    def from_uv(cls, uv: Tensor, binding: TexelBinding) -> GaussianAttributes:
        """The Gaussians at the covered texels of UV maps `[..., S, S, C]`."""
        if tuple(uv.shape[-3:-1]) != (binding.size, binding.size):
            raise ValueError(f"UV maps of shape {tuple(uv.shape)} do not fit a binding of size {binding.size}")
        return cls(uv.flatten(-3, -2).index_select(-2, _flat_texels(binding)))


def _flat_texels(binding: TexelBinding) -> Tensor:
    return binding.texels[:, 0] * binding.size + binding.texels[:, 1]


def sh_to_rgb(color: Tensor) -> Tensor:
    """RGB, at least 0, of spherical-harmonics coefficients of degree 0."""
    return (0.5 + SH_C0 * color).clamp_min(0)


def rgb_to_sh(rgb: Tensor) -> Tensor:
    """Spherical-harmonics coefficients of degree 0 that give `rgb`."""
    return (rgb - 0.5) / SH_C0

"""World-space Gaussians, activated, as the renderer takes them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussians:
    """N three-dimensional Gaussians, or a batch of B sets of them.

    The leading dimension is optional, and may differ between fields: a field without it (or with 1) is shared by the
    whole batch (colours stay the same while the positions move with the timestep, say). Nothing is activated later:
    scales are lengths, opacities are in [0, 1], colours are what an opaque Gaussian shows.

    Raises:
        ValueError: when the shapes do not fit each other.
    """

    means: Tensor
    """`[..., N, 3]` centres in world units."""
    rotations: Tensor
    """`[..., N, 4]` quaternions wxyz, R_world_gaussian; the renderer normalises them."""
    scales: Tensor
    """`[..., N, 3]` standard deviations along the Gaussian's own axes, in world units."""
    opacities: Tensor
    """`[..., N]` in [0, 1]."""
    colors: Tensor
    """`[..., N, 3]` RGB, 0 to 1 where they are to be shown."""
    features: Tensor | None = None
    """`[..., N, K]` further channels that blend as the colours do, or None."""

    def __post_init__(self) -> None:
        tails: dict[str, tuple[int | None, ...]] = {
            "means": (3,), "rotations": (4,), "scales": (3,), "opacities": (), "colors": (3,), "features": (None,)
        }  # fmt: skip
        count = self.means.shape[-2] if self.means.ndim >= 2 else None
        batches = set()
        for name, tensor in self._tensors().items():
            tail = (count, *tails[name])
            lead = tensor.ndim - len(tail)
            matches = lead in (0, 1) and all(
                want in (None, got) for want, got in zip(tail, tensor.shape[lead:], strict=True)
            )
            if not matches:
                shown = ", ".join("N" if i == 0 else "K" if size is None else str(size) for i, size in enumerate(tail))
                raise ValueError(
                    f"Gaussians.{name} has shape {list(tensor.shape)}; expected [{shown}] or [B, {shown}] "
                    f"with N = {count} taken from means {list(self.means.shape)}"
                )
            if lead:
                batches.add(tensor.shape[0])
        if len(batches - {1}) > 1:
            shapes = {name: list(tensor.shape) for name, tensor in self._tensors().items()}
            raise ValueError(f"the fields of Gaussians have different batch sizes {sorted(batches)}: {shapes}")

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def batch(self) -> int | None:
        """Number of sets B, or None for one set that all cameras share."""
        batched = [t.shape[0] for name, t in self._tensors().items() if t.ndim == (2 if name == "opacities" else 3)]
        return max(batched, default=None)

    @property
    def count(self) -> int:
        """Number of Gaussians N in a set."""
        return self.means.shape[-2]

    def to(self, target: torch.device | torch.dtype | str) -> Gaussians:
        """The same Gaussians on another device or in another floating-point type."""
        return Gaussians(**{name: tensor.to(target) for name, tensor in self._tensors().items()})

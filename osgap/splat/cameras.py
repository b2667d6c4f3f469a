"""Pinhole cameras in OpenCV axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cameras:
    """One pinhole camera, or a batch of B that share an image size.

    Camera axes are OpenCV's: x right, y down, z forward. A world point X projects to
    `u = fx x/z + cx`, `v = fy y/z + cy` with `(x, y, z) = world_to_camera [X, 1]`; the centre of the pixel in row i
    and column j lies at `u = j + 0.5`, `v = i + 0.5`. Skew is not modelled: `intrinsics[0, 1]` is never read.

    Raises:
        ValueError: when the shapes do not fit each other or the image is empty.
    """

    world_to_camera: Tensor
    """`[..., 4, 4]` rigid, world units."""
    intrinsics: Tensor
    """`[..., 3, 3]` `[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]` in pixels."""
    width: int
    """Image width in pixels."""
    height: int
    """Image height in pixels."""

    def __post_init__(self) -> None:
        lead = self.world_to_camera.shape[:-2]
        if self.world_to_camera.shape[-2:] != (4, 4) or len(lead) > 1 or self.intrinsics.shape != (*lead, 3, 3):
            raise ValueError(
                f"Cameras take world_to_camera [4, 4] with intrinsics [3, 3], or [B, 4, 4] with [B, 3, 3]; got "
                f"{list(self.world_to_camera.shape)} with {list(self.intrinsics.shape)}"
            )
        if self.width < 1 or self.height < 1:
            raise ValueError(f"Cameras need an image of at least 1 x 1 pixel; got {self.width} x {self.height}")

    @classmethod
    def stack(cls, cameras: Sequence[Cameras]) -> Cameras:
        """One batch of single cameras, all of one image size."""
        if not cameras:
            raise ValueError("Cameras.stack got no camera")
        sizes = {(camera.width, camera.height) for camera in cameras}
        if len(sizes) > 1:
            raise ValueError(f"Cameras.stack takes cameras of one image size; got (width, height) {sorted(sizes)}")
        return cls(
            torch.stack([camera.world_to_camera for camera in cameras]),
            torch.stack([camera.intrinsics for camera in cameras]),
            cameras[0].width,
            cameras[0].height,
        )

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """The cameras at `index` (an int gives a single camera, anything else a batch)."""
        if self.batch is None:
            raise IndexError("a single camera cannot be indexed; only a batch [B, 4, 4] can")
        return Cameras(self.world_to_camera[index], self.intrinsics[index], self.width, self.height)

    def __len__(self) -> int:
        if self.batch is None:
            raise TypeError("a single camera has no length; only a batch [B, 4, 4] has")
        return self.batch

    @property
    def batch(self) -> int | None:
        """Number of cameras B, or None for a single camera without a leading dimension."""
        return self.world_to_camera.shape[0] if self.world_to_camera.ndim == 3 else None

    @property
    def centers(self) -> Tensor:
        """`[..., 3]` camera centres in world units: -R^T t."""
        rotation, translation = self.world_to_camera[..., :3, :3], self.world_to_camera[..., :3, 3:]
        return -(rotation.transpose(-1, -2) @ translation)[..., 0]

    def to(self, target: torch.device | torch.dtype | str) -> Cameras:
        """The same cameras on another device or in another floating-point type."""
        return Cameras(self.world_to_camera.to(target), self.intrinsics.to(target), self.width, self.height)

"""Which way is up in an exported file.

Here, as in FLAME and glTF, y is up and a face looks along +z. Files of 3D Gaussian splatting have OpenCV's axes, which
they take from COLMAP: x right, y down, z forward. The two differ by half a turn about x, which maps (x, y, z) to
(x, -y, -z): signs change, digits do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Up = Literal["y", "-y"]
"""The axis of the file that points from the neck to the top of the head."""

DESCRIPTIONS: Mapping[Up, str] = {
    "y": "axes: x to the person's left, y up, z out of the face; unit: metre",
    "-y": "axes: x to the person's left, y down, z into the face; unit: metre",
}
"""What a file says about itself."""


def turn_points(points: Tensor, up: Up) -> Tensor:
    """Points `[..., 3]` from FLAME's axes to the file's, or back."""
    return points if up == "y" else points * points.new_tensor([1.0, -1.0, -1.0])


def turn_rotations(quaternions: Tensor, up: Up) -> Tensor:
    """Orientations `[..., 4]` wxyz from FLAME's axes to the file's: the product (0, 1, 0, 0) q."""
    if up == "y":
        return quaternions
    w, x, y, z = quaternions.unbind(-1)
    return torch.stack((-x, w, -z, y), dim=-1)


def turn_rotations_back(quaternions: Tensor, up: Up) -> Tensor:
    """The inverse of `turn_rotations`, sign included: half a turn twice negates a quaternion."""
    return quaternions if up == "y" else -turn_rotations(quaternions, up)

"""Images side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def image_grid(rows: Sequence[Sequence[Tensor]]) -> np.ndarray:
    """Images `[H, W, 3]` in 0..1, all of one size, side by side: uint8."""
    sheet = torch.cat([torch.cat([image.cpu() for image in row], dim=1) for row in rows])
    return (sheet.clamp(0, 1) * 255).round().to(torch.uint8).numpy()

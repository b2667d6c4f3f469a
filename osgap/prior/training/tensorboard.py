"""Curves and pictures of a training for TensorBoard, while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np


class TensorBoardLog:
    """Event files in a folder.

    Args:
        folder: where TensorBoard looks.
        step: what comes after it was written by a run that was killed, and is shown no more.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """One point of each curve."""
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """`[H, W, 3]` uint8."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

"""Whether what was written is what was meant: files are read back from the disk before they take their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from osgap.runtime.errors import UserError


def read_back(path: Path, temporary: Path, check: Callable[[Path], None]) -> None:
    """Check a file that has been written, before it takes its name.

    Args:
        path: the name that it is to take, for the message.
        temporary: where it is.
        check: reads that, and raises anything if it is not what was meant.

    Raises:
        UserError: naming `path`, with what `check` found.
    """
    try:
        check(temporary)
    except Exception as error:  # a damaged file can raise nearly anything
        found = (str(error) or type(error).__name__).replace(str(temporary), "the file").rstrip(".")
        raise UserError(
            f"{path}: was written, but does not read back as it was meant ({found}), and was removed. The disk or its "
            f"file system loses data, or is full: look at `df` and `dmesg`, and write to another one. Where it "
            f"happens there too, it is a defect of this program."
        ) from error


def check_same(name: str, found: np.ndarray, meant: np.ndarray) -> None:
    """Compare an array that was read back, bit for bit, with the one that was to be written.

    Raises:
        ValueError: saying where they differ first.
    """
    if (found.dtype, found.shape) != (meant.dtype, meant.shape):
        raise ValueError(f"{name} is {found.dtype} of shape {found.shape}, not {meant.dtype} of shape {meant.shape}")
    different = _bytes(found) != _bytes(meant)
    if different.any():
        number = int(different.argmax()) // meant.dtype.itemsize
        first = tuple(int(index) for index in np.unravel_index(number, meant.shape))
        raise ValueError(f"{name}{list(first)} is {found[first]}, not {meant[first]}")


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)

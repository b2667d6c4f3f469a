"""Network weights as explicit inputs: a local file and its checksum; nothing is ever downloaded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from pydantic import Field

from osgap.runtime.errors import UserError
from osgap.runtime.provenance import file_digest
from osgap.runtime.section import PLACE, Section


class WeightFile(Section):
    """A file of weights that somebody else trained."""

    path: Path = Field(json_schema_extra=PLACE)
    """The file, as its publisher distributes it."""
    sha256: str = Field(pattern=r"^[0-9a-f]{8,64}$")
    """SHA-256 of the file in lower-case hex, or its beginning (torchvision's file names carry the first eight)."""


def read_weights(file: WeightFile, key: str) -> Any:
    """The content of a PyTorch file, on the CPU; nothing but tensors and plain containers is unpickled.

    Args:
        key: where the config names the file, for messages.

    Raises:
        UserError: when the file is missing, has another checksum, or is not such a file.
    """
    import torch

    if not file.path.is_file():
        raise UserError(f"{key}: {file.path}: no such file; fetch it from its publisher, or leave {key} out")
    found = file_digest(file.path)
    if not found.startswith(file.sha256):
        raise UserError(
            f"{key}: {file.path} has SHA-256 {found}, the config says {file.sha256}. "
            f"Fetch the file again, or correct {key}.sha256."
        )
    try:
        return torch.load(file.path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{key}: {file.path} is no PyTorch state dict ({error}). Fetch it again.") from error

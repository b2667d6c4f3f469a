"""Network weights as explicit inputs: a local file and its checksum; nothing is ever downloaded."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from osgap.runtime.errors import UserError
from osgap.runtime.provenance import file_digest
from osgap.runtime.section import PLACE, Section

if TYPE_CHECKING:
    from torch import Tensor

_WRAPPERS = ("state_dict", "model", "model_state_dict", "network", "net")
_LISTED = 4


class WeightFile(Section):
    """A file of weights that somebody else trained."""

    path: Path = Field(json_schema_extra=PLACE)
    """The file, as its publisher distributes it."""
    sha256: str = Field(pattern=r"^[0-9a-f]{8,64}$")
    """SHA-256 of the file in lower-case hex, or its beginning (torchvision's file names carry the first eight)."""


def read_weights(file: WeightFile, key: str) -> Any:
    """The content of a PyTorch or safetensors file, on the CPU; nothing but tensors and plain containers is unpickled.

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
    if file.path.suffix == ".safetensors":
        return _read_safetensors(file.path, key)
    try:
        return torch.load(file.path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{key}: {file.path} is no PyTorch state dict ({error}). Fetch it again.") from error


def _read_safetensors(path: Path, key: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{key}: {path} is no safetensors file ({error}). Fetch it again.") from error


def tensors_by_name(content: Any, where: str, kind: str) -> dict[str, Tensor]:
    """The tensors of a file, out of whatever training state is wrapped around them.

    Args:
        content: what `read_weights` returned.
        where: the file, for messages.
        kind: what it should be, for messages.

    Raises:
        UserError: there are none.
    """
    from torch import Tensor

    while isinstance(content, Mapping):
        inner = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = content if isinstance(content, Mapping) else {}
    tensors = {str(name): value for name, value in tensors.items() if isinstance(value, Tensor)}
    if tensors:
        return tensors
    found = f"a dict of {some(map(str, content))}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
    raise UserError(f"{where}: is {found}, not a dict of tensors by name as {kind} is.")


def some(names: Iterable[str]) -> str:
    """The first of many names, for messages."""
    listed = list(names)
    more = len(listed) - _LISTED
    return ", ".join(listed[:_LISTED]) + (f" and {more} more" if more > 0 else "")

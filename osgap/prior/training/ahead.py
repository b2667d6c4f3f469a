"""Batches that are made beside the step before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

_Read = TypeVar("_Read")
_Made = TypeVar("_Made")


def made_beside(frames: Iterable[_Read], make: Callable[[_Read], _Made], device: torch.device) -> Iterator[_Made]:
    """What `make` makes of each of `frames`, on a GPU in a stream of its own.

    The processor is steps ahead of a GPU, and a step leaves parts of it idle: there is room for what does not depend
    on the step. The current stream waits for what it is given, and for nothing else.
    """
    if device.type != "cuda":
        yield from map(make, frames)
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))  # what `make` reads may be in the making
    for frame in frames:
        with torch.cuda.stream(stream):
            made = make(frame)
        reader = torch.cuda.current_stream(device)
        reader.wait_stream(stream)
        for tensor in _tensors(made):
            tensor.record_stream(reader)  # its memory is not given away before it was read
        yield made


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in dataclasses, sequences and mappings of them, on a GPU."""
    if isinstance(value, Tensor):
        if value.is_cuda:
            yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from _tensors(part)

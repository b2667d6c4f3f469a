"""Batches that are made beside the step before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from osgap.prior.training.ahead import made_beside


def test_on_a_processor_one_is_made_when_it_is_asked_for() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return 10 * number

    batches = made_beside(range(3), make, torch.device("cpu"))
    assert made == []
    for number, batch in enumerate(batches):
        assert batch == 10 * number
        assert made == [*range(number + 1)]


class _Pair(NamedTuple):
    first: Tensor
    second: Tensor | None


@dataclass(frozen=True)
class _Batch:
    name: str
    pair: _Pair
    several: list[dict[str, Tensor]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_none_is_overwritten_before_it_was_read() -> None:
    """A reader that is slower than the maker, and drops what it was given at once."""
    device, size = torch.device("cuda"), 2**22

    def make(number: int) -> _Batch:
        value = torch.full((size,), float(number), device=device)
        return _Batch(str(number), _Pair(value, None), [{"more": value + 1}])

    def numbers() -> Iterator[int]:
        yield from range(40)

    busy = torch.randn(4096, 4096, device=device)
    found: list[Any] = []
    for batch in made_beside(numbers(), make, device):
        for _ in range(4):
            busy = (busy @ busy).clamp(-1, 1)
        found.append(torch.stack([batch.pair.first.sum(), batch.several[0]["more"].sum()]))
    expected = torch.tensor([[number * size, (number + 1) * size] for number in range(40)], dtype=torch.float32)
    torch.testing.assert_close(torch.stack(found).cpu(), expected)

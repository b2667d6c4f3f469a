"""Attention by matrix products and a softmax of rows against its definition in float64.

Without a GPU, Triton's interpreter runs the kernels' Python; what the compiler makes of them is tested on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from osgap.prior.network import attention
from osgap.prior.network.attention import attend


@dataclass(frozen=True)
class Case:
    batch: int
    heads: int
    queries: int
    keys: int
    width: int
    spread: float = 1.0
    """Standard deviation of queries: large ones make one probability nearly 1."""
    seed: int = 0

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query, key, value and the gradient of the result, float64."""
        random = torch.Generator().manual_seed(self.seed)
        lengths = self.queries, self.keys, self.keys, self.queries
        query, *others = (
            torch.randn(self.batch, self.heads, length, self.width, generator=random, dtype=torch.float64)
            for length in lengths
        )
        return self.spread * query, *others  # type: ignore[return-value]


CASES = [
    Case(1, 1, 1, 1, 8),
    Case(2, 3, 5, 16, 8),
    Case(3, 2, 9, 21, 12, spread=20.0),
    Case(2, 2, 4, 1000, 6),
]
WIDE = [
    Case(2, 2, 256, 128, 512),
    Case(3, 2, 1000, 333, 320, spread=10.0),
    Case(1, 3, 64, 16384, 264),
    Case(4, 2, 4096, 1024, 512),
]


def definition(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.mT / math.sqrt(query.shape[-1])).softmax(dim=-1) @ value


def differentiate(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The result for all but the last input, and its gradients where the last is the one that comes from above."""
    leaves = [x.detach().requires_grad_() for x in inputs[:-1]]
    result = function(*leaves)
    assert result.dtype == inputs[0].dtype
    assert result.shape == inputs[-1].shape
    return [result.detach(), *torch.autograd.grad(result, leaves, inputs[-1])]


def strided(x: Tensor) -> Tensor:
    """The same values, as a layer leaves them: heads side by side, and beside something else."""
    side_by_side = x.transpose(1, 2).flatten(2)
    beside = torch.cat((side_by_side, side_by_side), dim=-1).chunk(2, dim=-1)[1]
    return beside.unflatten(2, (x.shape[1], -1)).transpose(1, 2)


def compare(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """In units of the largest value of each."""
    for name, value, want in zip(("result", "query", "key", "value"), found, expected, strict=False):
        error = ((value.double() - want.double()).abs().max() / want.double().abs().max().clamp_min(1e-3)).item()
        assert error < tolerance, (name, error)


def check(case: Case, device: str, dtype: torch.dtype, tolerance: float) -> None:
    """However the inputs lie, and whatever is kept or done at one time."""
    from osgap.prior.network import attention_triton

    # Scores are rounded as well: what that changes grows with them (to 5 % in bfloat16 on an H200 for a spread of 10).
    tolerance *= max(1, case.spread / 2)
    inputs = [x.to(device, dtype) for x in case.inputs()]
    expected = differentiate(definition, *(x.double() for x in inputs))
    images = case.queries * case.keys * inputs[0].element_size()
    whole: list[Tensor] = []
    for arrange, keep, at_once in (
        (torch.clone, True, 2**29), (strided, True, 2 * images), (strided, False, 1), (torch.clone, False, 2 * images),
    ):  # fmt: skip
        results = []
        for _ in range(1 if device == "cpu" else 2):
            with mock.patch.object(attention_triton, "_AT_ONCE", at_once):
                results.append(differentiate(own(keep), *map(arrange, inputs)))
        compare(results[0], expected, tolerance)
        for first, second in zip(results[0], results[-1], strict=True):
            assert torch.equal(first, second)
        whole = whole or results[0]
        compare(results[0], whole, tolerance / 2)
        with torch.no_grad():
            assert torch.equal(own(False)(*inputs[:-1]), whole[0])


def own(keep: bool) -> Callable[..., Tensor]:
    from osgap.prior.network import attention_triton

    return lambda query, key, value: attention_triton.attend(query, key, value, keep)


def check_operators() -> None:
    """What torch.compile is told of the operators is what they do."""
    from osgap.prior.network import attention_triton

    inputs = [strided(x.float()) for x in CASES[2].inputs()]
    query, key, value, gradient = inputs
    with mock.patch.object(attention_triton, "_AT_ONCE", 2 * 9 * 21 * 4):
        for keep in (True, False):
            torch.library.opcheck(torch.ops.osgap.attention.default, (query, key, value, keep))
            _, kept = torch.ops.osgap.attention(query, key, value, keep)
            assert [p.shape[0] for p in kept] == [2, 1] * 2 * keep
            torch.library.opcheck(torch.ops.osgap.attention_gradients.default, (gradient, query, key, value, kept))
            compiled = torch.compile(own(keep), backend="aot_eager", fullgraph=True)
            for found, expected in zip(
                differentiate(compiled, *inputs), differentiate(own(keep), *inputs), strict=True
            ):
                assert torch.equal(found, expected)
                assert found.stride() == expected.stride()


@pytest.mark.slow
def test_kernels_in_the_interpreter(interpret: Callable[[str], None]) -> None:
    interpret("tests.prior.network.test_attention")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [8, 320])
def test_torch_does_it_on_the_cpu(width: int, dtype: torch.dtype) -> None:
    inputs = [strided(x.to(dtype)) for x in Case(2, 2, 6, 10, width).inputs()]
    with mock.patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as used:
        found = differentiate(attend, *inputs)
    assert used.call_count == 1
    expected = differentiate(F.scaled_dot_product_attention, *inputs)
    for value, want in zip(found, expected, strict=True):
        assert torch.equal(value, want)


def test_arguments_are_cast_under_autocast() -> None:
    query, key, value, _ = (x.float() for x in Case(1, 2, 6, 10, 8).inputs())
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(query, key.bfloat16(), value)
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, F.scaled_dot_product_attention(query, key.bfloat16(), value))


def on_card(test: Callable[..., None]) -> Callable[..., None]:
    needs = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    return pytest.mark.gpu(needs(test))


@on_card
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)])
@pytest.mark.parametrize("case", [*CASES, *WIDE], ids=str)
def test_card_agrees_with_the_definition_and_with_itself(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    check(case, "cuda", dtype, tolerance)


@on_card
@pytest.mark.parametrize(
    ("case", "dtype", "ours"),
    [
        (Case(1, 2, 64, 96, 512), torch.bfloat16, True),
        (Case(1, 2, 64, 96, 264), torch.float16, True),
        (Case(1, 2, 64, 96, 256), torch.bfloat16, False),  # torch has a fused kernel
        (Case(1, 2, 64, 96, 512), torch.float32, False),
        (Case(1, 1, 8, 2**14 + 8, 264), torch.bfloat16, False),  # more keys than a program holds
    ],
    ids=str,
)
def test_card_uses_what_the_width_asks_for(case: Case, dtype: torch.dtype, ours: bool) -> None:
    from osgap.prior.network import attention_triton

    inputs = [strided(x.to("cuda", dtype)) for x in case.inputs()]
    with mock.patch.object(attention_triton, "attend", wraps=attention_triton.attend) as used:
        found = differentiate(attend, *inputs)
    assert used.call_count == ours
    compare(found, differentiate(definition, *(x.double() for x in inputs)), 2e-2)


@on_card
@pytest.mark.parametrize("room", [2, 1, 0])
def test_memory_has_a_bound(room: int) -> None:
    """Room for the probabilities of two heads, of one, of none."""
    case = Case(4, 1, 1024, 2**14, 512)
    head = 1024 * 2**14 * 2
    inputs = [x.to("cuda", torch.bfloat16) for x in case.inputs()]
    expected = differentiate(definition, *(x.double() for x in inputs))
    from osgap.prior.network import attention_triton

    with (
        mock.patch.object(attention, "device_memory", return_value=8 * room * head),
        mock.patch.object(attention_triton, "_AT_ONCE", head),
        mock.patch.object(attention_triton, "attend", wraps=attention_triton.attend) as used,
    ):
        compare(differentiate(attend, *inputs), expected, 2e-2)
        assert used.call_count == (room > 0)
        if room:
            assert used.call_args.args[-1] is False  # four heads do not fit
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            with torch.no_grad():
                attend(*inputs[:-1])
            assert torch.cuda.max_memory_allocated() - before < 2.5 * head  # two would be alive at a change of parts


@on_card
def test_a_million_queries() -> None:
    """More scores than 32 bits count."""
    query, key, value, gradient = (x.to("cuda", torch.bfloat16) for x in Case(1, 1, 2**13, 2304, 264).inputs())
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB on the card")
    short = differentiate(own(True), query, key, value, gradient)
    long = differentiate(own(True), *(query.repeat(1, 1, 128, 1), key, value, gradient.repeat(1, 1, 128, 1)))
    compare([x[:, :, -(2**13) :] for x in long[:2]], short[:2], 1e-2)
    compare(long[2:], [128 * x for x in short[2:]], 2e-2)


if __name__ == "__main__":
    for case in CASES:
        check(case, "cpu", torch.float32, 1e-5)
        check(case, "cpu", torch.bfloat16, 2e-2)
        check(case, "cpu", torch.float16, 2e-3)
    check_operators()

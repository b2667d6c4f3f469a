"""GroupNorm of CUDA against torch's in float64.

Without a GPU, Triton's interpreter runs the kernels' Python; what the compiler makes of them is tested on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

SHAPES = [((1, 1, 1, 8), 2), ((2, 3, 5, 24), 8), ((3, 7, 9, 136), 8), ((2, 40, 13, 64), 32)]
LARGE = [((4, 256, 256, 64), 32), ((8, 16, 16, 512), 32), ((2, 57, 31, 264), 8)]
EPS = 1e-5


def definition(x: Tensor, weight: Tensor, bias: Tensor, *, groups: int) -> Tensor:
    return F.group_norm(x.permute(0, 3, 1, 2), groups, weight, bias, EPS).permute(0, 2, 3, 1)


def differentiate(
    function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor, above: Tensor
) -> list[Tensor]:
    leaves = [value.detach().requires_grad_() for value in (x, weight, bias)]
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, above)]


def case(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> list[Tensor]:
    """A map that is not centred, weights, biases, and a gradient of the result, which lies in memory like no map."""
    random = torch.Generator().manual_seed(0)
    sizes = (shape, shape[-1:], shape[-1:], shape[::-1])
    x, weight, bias, above = (torch.randn(size, generator=random).to(device) for size in sizes)
    return [(3 * x + 2).to(dtype), 1 + 0.3 * weight, bias, above.permute(3, 2, 1, 0).to(dtype)]


def check(shape: tuple[int, ...], groups: int, device: str, dtype: torch.dtype, tolerance: float) -> None:
    """Values and gradients, in units of the largest of each, and the same bits twice."""
    from osgap.prior.network.groups_triton import group_norm

    inputs = case(shape, device, dtype)

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return group_norm(x, groups, weight, bias, EPS)

    found, again = differentiate(norm, *inputs), differentiate(norm, *inputs)
    expected = differentiate(partial(definition, groups=groups), *(value.double() for value in inputs))
    for name, value, second, want in zip(("result", "x", "weight", "bias"), found, again, expected, strict=True):
        assert torch.equal(value, second)
        assert value.dtype == (torch.float32 if name in ("weight", "bias") else dtype)
        error = ((value - want).abs().max() / want.abs().max().clamp_min(1e-3)).item()
        assert error < (1e-4 if value.dtype == torch.float32 else tolerance), (name, shape, error)


def check_operators() -> None:
    """What torch.compile is told of the operators is what they do."""
    from osgap.prior.network.groups_triton import group_norm

    x, weight, bias, above = case((2, 3, 4, 16), "cpu", torch.float32)
    _, means, factors = torch.ops.osgap.group_norm(x, 4, weight, bias, EPS)
    torch.library.opcheck(torch.ops.osgap.group_norm.default, (x, 4, weight, bias, EPS))
    torch.library.opcheck(torch.ops.osgap.group_norm_gradients.default, (above, x, weight, means, factors))
    compiled = torch.compile(group_norm, backend="aot_eager", fullgraph=True)
    for found, expected in zip(
        differentiate(lambda x, weight, bias: compiled(x, 4, weight, bias, EPS), x, weight, bias, above),
        differentiate(lambda x, weight, bias: group_norm(x, 4, weight, bias, EPS), x, weight, bias, above),
        strict=True,
    ):
        assert torch.equal(found, expected)


@pytest.mark.slow
def test_kernels_in_the_interpreter(interpret: Callable[[str], None]) -> None:
    interpret("tests.prior.network.test_groups")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "groups"), [*SHAPES, *LARGE])
def test_kernels(shape: tuple[int, ...], groups: int, dtype: torch.dtype) -> None:
    check(shape, groups, "cuda", dtype, 1e-4 if dtype == torch.float32 else 8e-3)


if __name__ == "__main__":
    for shape, groups in SHAPES:
        check(shape, groups, "cpu", torch.float32, 1e-4)
        check(shape, groups, "cpu", torch.bfloat16, 8e-3)  # the interpreter cuts digits off
    check_operators()

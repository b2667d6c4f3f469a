"""The depthwise convolution of CUDA against torch's in float64.

Without a GPU, Triton's interpreter runs the kernels' Python; what the compiler makes of them is tested on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

SHAPES = [(1, 1, 1, 1), (2, 1, 4, 3), (2, 5, 1, 8), (2, 4, 7, 515)]
LARGE = [(3, 33, 17, 200), (2, 128, 128, 2048), (4, 32, 32, 2048)]


def definition(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=len(bias)).permute(0, 2, 3, 1)


def differentiate(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The result for all but the last input, and its gradients where the last is the one that comes from above."""
    leaves = [x.detach().requires_grad_() for x in inputs[:-1]]
    result = function(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, inputs[-1])]


def case(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> list[Tensor]:
    """A map, weights, biases, and the gradient of the result, which lies in memory like no map."""
    random = torch.Generator().manual_seed(0)
    channels = shape[-1]
    sizes = (shape, (channels, 1, 3, 3), (channels,), shape[::-1])
    x, weight, bias, gradient = (torch.randn(size, generator=random).to(device) for size in sizes)
    return [x.to(dtype), weight, bias, gradient.permute(3, 2, 1, 0).to(dtype)]


def check(shape: tuple[int, ...], device: str, dtype: torch.dtype, tolerance: float) -> None:
    """Values and gradients, in units of the largest of each, and the same bits twice."""
    from osgap.prior.network.depthwise_triton import depthwise

    inputs = case(shape, device, dtype)
    found, again = differentiate(depthwise, *inputs), differentiate(depthwise, *inputs)
    expected = differentiate(definition, *(x.double() for x in inputs))
    for name, value, second, want in zip(("result", "x", "weight", "bias"), found, again, expected, strict=True):
        assert torch.equal(value, second)
        assert value.dtype == (torch.float32 if name in ("weight", "bias") else dtype)
        error = ((value - want).abs().max() / want.abs().max()).item()
        assert error < (1e-5 if value.dtype == torch.float32 else tolerance), (name, error)


def check_operators() -> None:
    """What torch.compile is told of the operators is what they do."""
    from osgap.prior.network import depthwise_triton

    inputs = case((2, 3, 4, 5), "cpu", torch.float32)
    x, weight, _, gradient = inputs
    torch.library.opcheck(torch.ops.osgap.depthwise.default, (gradient, weight, None))
    torch.library.opcheck(torch.ops.osgap.depthwise_gradients.default, (gradient, x))
    compiled = torch.compile(depthwise_triton.depthwise, backend="aot_eager", fullgraph=True)
    for found, expected in zip(
        differentiate(compiled, *inputs), differentiate(depthwise_triton.depthwise, *inputs), strict=True
    ):
        assert torch.equal(found, expected)
        assert found.stride() == expected.stride()


@pytest.mark.slow
def test_kernels_in_the_interpreter(interpret: Callable[[str], None]) -> None:
    interpret("tests.prior.network.test_depthwise")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, *LARGE], ids=str)
def test_kernels(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(shape, "cuda", dtype, 4e-3)


if __name__ == "__main__":
    for shape in SHAPES:
        check(shape, "cpu", torch.float32, 0.0)
        check(shape, "cpu", torch.bfloat16, 8e-3)  # the interpreter cuts digits off
    check_operators()

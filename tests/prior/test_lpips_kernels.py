"""LPIPS's kernels of CUDA against its definition and torch's autograd in float64.

Run as a program, this file is the check itself.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

# Images, channels, height and width: programs take 64 pixels of 64 channels, and 8 of 512. AlexNet has 192.
CASES = [(2, 64, 9, 7), (1, 64, 8, 8), (2, 192, 5, 3), (3, 512, 2, 3), (2, 4, 1, 1)]
TYPES = [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]


def check(device: str) -> None:
    """Values, and gradients of the largest one, in every type; among the features some are all zero."""
    from osgap import lpips_triton
    from osgap.lpips import difference_in_torch

    for seed, shape in enumerate(CASES):
        for dtype, tolerance in TYPES:
            random = torch.Generator().manual_seed(seed)
            found = torch.randn(shape, generator=random)
            wanted = found + 0.3 * torch.randn(shape, generator=random)
            found[0, :, 0, 0] = wanted[-1, :, -1, -1] = 0
            weights, above = torch.rand(shape[1], generator=random), torch.arange(1.0, shape[0] + 1)
            x, y = (features.relu().to(device, dtype).requires_grad_() for features in (found, wanted))
            value = lpips_triton.difference(x, y.detach(), weights.to(device))
            (gradient,) = torch.autograd.grad(value, x, above.to(device))

            exact = x.detach().double().cpu().requires_grad_()
            expected = difference_in_torch(exact, y.detach().double().cpu(), weights.double())
            (direction,) = torch.autograd.grad(expected, exact, above.double())
            assert value.dtype == torch.float32
            assert gradient.dtype == dtype
            torch.testing.assert_close(value.cpu().double(), expected.detach(), rtol=1e-6, atol=0)
            # Where all features are zero, the gradient is 10,000 times as large as elsewhere.
            nothing = torch.zeros(direction.shape, dtype=torch.bool)
            nothing[0, :, 0, 0] = True
            for part in (nothing, ~nothing):
                if not part.any():
                    continue
                error = (gradient.cpu().double() - direction)[part].abs().max()
                assert error <= tolerance * direction[part].abs().max(), (shape, dtype, part is nothing, error)


def test_in_the_interpreter(interpret: Callable[[str], None]) -> None:
    interpret("tests.prior.test_lpips_kernels")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    check("cuda")


if __name__ == "__main__":
    check("cpu")

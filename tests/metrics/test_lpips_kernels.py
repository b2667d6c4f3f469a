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
    from osgap.metrics import lpips_triton
    from osgap.metrics.lpips import difference_in_torch

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


def check_vgg(device: str, dtype: torch.dtype) -> None:
    """The features of torchmetrics' VGG-16 and their gradients, of sizes that pooling does not divide."""
    from torchmetrics.functional.image.lpips import Vgg16

    from osgap.metrics import vgg_triton

    torch.manual_seed(0)
    backbone = Vgg16(pretrained=False)
    for name, parameter in backbone.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    backbone.to(device, dtype).to(memory_format=torch.channels_last)
    for shape in ((2, 3, 37, 22), (1, 3, 16, 48)):
        images = torch.randn(shape).to(device, dtype)
        results = []
        for function in (lambda x: vgg_triton.features(backbone, x), backbone):
            x = images.clone().requires_grad_()
            levels = function(x)
            # Each level by itself, and nothing but signs, which are the same in all precisions.
            weights = [torch.linspace(-1, 1, level.numel(), device=device).view(level.shape).sign() for level in levels]
            total = sum((level * weight).sum() for level, weight in zip(levels, weights, strict=True))
            results.append((*levels, *torch.autograd.grad(total, x)))
        for index, (found, expected) in enumerate(zip(*results, strict=True)):
            assert found.dtype == expected.dtype
            error = ((found - expected).abs().max() / expected.abs().max()).item()
            assert error < (1e-5 if dtype == torch.float32 else 5e-2), (index, error)


def check_pooling(device: str) -> None:
    """To the bit, ties and infinities included; what is not a number stays."""
    from osgap.metrics.vgg_triton import _Pooling

    random = torch.Generator().manual_seed(0)
    for shape in ((2, 4, 5, 7), (1, 8, 6, 4), (3, 1, 2, 2), (1, 2, 2, 9)):
        x = torch.randint(-1, 2, shape, generator=random).float().to(memory_format=torch.channels_last)
        gradient = torch.randn(shape[0], shape[1], shape[2] // 2, shape[3] // 2, generator=random).to(device)
        x[0, 0, 0, 1] = torch.inf
        x = x.to(device)
        ours, theirs = (x.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))
        found, expected = _Pooling.apply(ours), torch.nn.functional.max_pool2d(theirs, 2)
        assert torch.equal(found, expected)
        (direction,) = torch.autograd.grad(found, ours, gradient)
        assert torch.equal(direction, *torch.autograd.grad(expected, theirs, gradient))
        x[0, 0, 1, 1] = torch.nan
        assert _Pooling.apply(x).isnan().sum() == 1


def test_in_the_interpreter(interpret: Callable[[str], None]) -> None:
    interpret("tests.metrics.test_lpips_kernels")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    check("cuda")
    check_pooling("cuda")
    check_vgg("cuda", torch.bfloat16)


if __name__ == "__main__":
    check("cpu")
    check_pooling("cpu")
    check_vgg("cpu", torch.float32)

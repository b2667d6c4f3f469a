"""The fused photometric loss and SSIM of CUDA against torch's autograd in float64.

Without a card the same kernels run in Triton's interpreter, in a process of their own because Triton reads its switch
when it is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from osgap.fit.losses import photometric_loss
from osgap.metrics.image_metrics import ssim_map

TOLERANCE = 1e-5  # of the largest value of a gradient


@dataclass(frozen=True)
class Case:
    """What a loss is taken of."""

    shape: tuple[int, ...]
    bytes: bool = True
    weight: float = 0.2
    scale: float = 1.0
    """Gradient that comes from above."""

    def images(self) -> tuple[Tensor, Tensor]:
        """Images float32, a little beyond 0..1, and targets that resemble them, in smooth and in noisy places."""
        random = torch.Generator().manual_seed(sum(self.shape))
        noise = torch.randn(2, *self.shape, generator=random)
        images = torch.rand(self.shape, generator=random).cumsum(dim=-2) / self.shape[-2] + 0.1 * noise[0]
        targets = (images + 0.1 * noise[1]).clamp(0, 1)
        return images, (255 * targets).round().to(torch.uint8) if self.bytes else targets

    def compare(self, value: Tensor, gradient: Tensor) -> None:
        """With the definition, in float64."""
        images, targets = (tensor.to(value.device) for tensor in self.images())
        images = images.double().requires_grad_()
        targets = targets.double() / 255 if self.bytes else targets.double()
        expected = photometric_loss(images, targets, self.weight)
        (self.scale * expected).backward()
        assert images.grad is not None
        assert value.dtype == gradient.dtype == torch.float32
        error = (gradient - images.grad).abs().max() / images.grad.abs().max()
        print(f"value {value.item() / expected.item() - 1:.0e}, gradient {error:.0e}")
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)
        assert error < TOLERANCE


# A program takes 64 rows and 128 columns of channels; the window is 11 px.
CASES = {
    "many programs": Case((65, 43, 3)),
    "floats": Case((1, 3, 45, 3), bytes=False),
    "smaller than the window": Case((2, 3, 4, 3), scale=-7.5),
    "one value": Case((1, 1, 1, 1), scale=3.0),
    "one channel": Case((1, 9, 5, 1), bytes=False),
    "four channels, a whole block": Case((2, 5, 32, 4)),
    "SSIM alone": Case((1, 12, 17, 2), weight=1.0),
    "nearly L1 alone": Case((1, 12, 17, 3), weight=1e-3),
}
MAP = Case((1, 12, 44, 3), bytes=False)

# Weight None stands for the map.
INTERPRETED = """
import sys
import torch
from osgap.metrics import ssim_triton

results = {}
for name, (images, targets, weight, gradient) in torch.load(sys.argv[1]).items():
    images.requires_grad_(gradient is not None)
    if weight is None:
        value = ssim_triton.ssim_map(images, targets)
    else:
        value = ssim_triton.photometric_loss(images, targets, weight)
    if gradient is not None:
        value.backward(gradient)
    results[name] = value.detach(), images.grad
torch.save(results, sys.argv[2])
"""


def strided(image: Tensor) -> Tensor:
    """The same values, apart in memory: as rendered colours are when they share an image with other channels."""
    return torch.cat((image, image), dim=-1)[..., : image.shape[-1]]


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, Tensor]]:
    """Values and gradients by the kernels."""
    pytest.importorskip("triton")
    inputs: dict[str, tuple[Tensor, Tensor, float | None, Tensor | None]]
    inputs = {name: (*case.images(), case.weight, torch.tensor(case.scale)) for name, case in CASES.items()}
    inputs["map"] = (*MAP.images(), None, map_weights(MAP))
    images, targets, weight, scale = inputs["smaller than the window"]
    inputs["strided"] = (strided(images), strided(targets), weight, scale)
    inputs["no gradient"] = (images, targets, weight, None)
    white = torch.ones(1, 2, 3, 3)
    inputs["white"] = (white, (255 * white).to(torch.uint8), 1e-9, torch.tensor(1.0))
    folder = tmp_path_factory.mktemp("interpreted")
    torch.save(inputs, folder / "inputs.pt")
    command = [sys.executable, "-c", INTERPRETED, str(folder / "inputs.pt"), str(folder / "results.pt")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[2])
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize("name", CASES)
def test_loss_agrees_with_the_definition(name: str, interpreted: dict[str, tuple[Tensor, Tensor]]) -> None:
    CASES[name].compare(*interpreted[name])


def map_weights(case: Case) -> Tensor:
    """A gradient for the map."""
    return torch.rand(case.shape, generator=torch.Generator().manual_seed(1))


def compare_map(case: Case, value: Tensor, gradient: Tensor) -> None:
    images, targets = (tensor.to(value.device, torch.float64) for tensor in case.images())
    expected = ssim_map(images.requires_grad_(), targets)
    expected.backward(map_weights(case).to(expected))
    assert images.grad is not None
    errors = (value - expected).abs().max(), (gradient - images.grad).abs().max() / images.grad.abs().max()
    print(f"map {errors[0]:.0e}, gradient {errors[1]:.0e}")
    assert errors[0] < 5e-5  # the variance of smooth places is a difference of means a thousand times as large
    assert errors[1] < TOLERANCE


def test_map_agrees_with_the_definition(interpreted: dict[str, tuple[Tensor, Tensor]]) -> None:
    compare_map(MAP, *interpreted["map"])


def test_images_need_not_be_contiguous(interpreted: dict[str, tuple[Tensor, Tensor]]) -> None:
    for found, expected in zip(interpreted["strided"], interpreted["smaller than the window"], strict=True):
        assert torch.equal(found, expected)


def test_value_is_the_same_without_a_gradient(interpreted: dict[str, tuple[Tensor, Tensor]]) -> None:
    assert torch.equal(interpreted["no gradient"][0], interpreted["smaller than the window"][0])


def test_white_is_white_in_bytes_and_floats(interpreted: dict[str, tuple[Tensor, Tensor]]) -> None:
    loss, gradient = interpreted["white"]
    assert abs(loss.item()) < 1e-12
    assert gradient.abs().max() < 1e-12  # 1 / 18 where they differ in the last digit


def test_shapes_that_differ_are_refused() -> None:
    pytest.importorskip("triton")
    from osgap.metrics import ssim_triton

    with pytest.raises(ValueError, match=r"one shape, got \(4, 5, 3\) and \(5, 4, 3\)"):
        ssim_triton.photometric_loss(torch.zeros(4, 5, 3), torch.zeros(5, 4, 3), 0.2)


def on_card(test: Callable[..., None]) -> Callable[..., None]:
    needs = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    return pytest.mark.gpu(needs(test))


LARGE = {
    "frames": Case((4, 802, 550, 3)),
    "floats, one channel": Case((2, 511, 1030, 1), bytes=False, weight=0.5, scale=-3.0),
    "SSIM alone": Case((3, 130, 1000, 4), weight=1.0),
    "L1 alone": Case((2, 401, 275, 3), weight=0.0),
}


def by_card(case: Case) -> tuple[Tensor, Tensor]:
    images, targets = (tensor.to("cuda") for tensor in case.images())
    loss = photometric_loss(images.requires_grad_(), targets, case.weight)
    (case.scale * loss).backward()
    assert images.grad is not None
    return loss.detach(), images.grad


@on_card
@pytest.mark.parametrize("case", [*CASES.values(), *LARGE.values()], ids=str)
def test_card_agrees_with_the_definition_and_with_itself(case: Case) -> None:
    first, second = by_card(case), by_card(case)
    case.compare(*first)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@on_card
@pytest.mark.parametrize("shape", [(65, 43, 3), (2, 3, 4, 1), (3, 802, 550, 3)], ids=str)
def test_map_of_card_agrees_with_the_definition_and_with_itself(shape: tuple[int, ...]) -> None:
    case = Case(shape, bytes=False)
    results = []
    for _ in range(2):
        images, targets = (tensor.to("cuda") for tensor in case.images())
        values = ssim_map(images.requires_grad_(), targets)
        values.backward(map_weights(case).to("cuda"))
        assert images.grad is not None
        results.append((values.detach(), images.grad))
    compare_map(case, *results[0])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@on_card
def test_more_values_than_32_bits_count() -> None:
    count = 2**31 // (802 * 550 * 3) + 2
    needed = 22 * count * 802 * 550 * 3  # bytes: 4 of x, 1 of y, 12 of p, q, r, 4 of the gradient
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB on the card")
    images, targets = (tensor[0].to("cuda") for tensor in Case((1, 802, 550, 3)).images())
    results = []
    for copies in (1, count):
        x = images.repeat(copies, 1, 1, 1).requires_grad_()
        loss = photometric_loss(x, targets.repeat(copies, 1, 1, 1), 0.2)
        loss.backward()
        assert x.grad is not None
        results.append((loss.item(), copies * x.grad[-1]))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    assert (results[1][1] - results[0][1]).abs().max() < 1e-6 * results[0][1].abs().max()

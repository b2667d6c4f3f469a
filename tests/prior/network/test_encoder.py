from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from osgap.prior.network import attention
from osgap.prior.network import encoder as encoders
from osgap.prior.network.encoder import ImageEncoder, with_coordinates
from osgap.prior.network_config import EncoderConfig

SMALL = EncoderConfig(
    input_size=32, width=8, token_width=32, residual_blocks=(1, 1), attention_blocks=1, heads=2, dilations=(1, 2, 3)
)


@pytest.mark.parametrize(
    ("change", "channels"),
    [({}, 12), ({"input_size": 64}, 12), ({"width": 16}, 24), ({"token_width": 64, "attention_blocks": 3}, 12)],
)
def test_size_width_and_depth_follow_the_config(change: dict, channels: int) -> None:
    config = SMALL.model_copy(update=change)
    features = ImageEncoder(config)(torch.rand(2, 3, config.input_size, config.input_size))
    assert features.shape == (2, channels, config.input_size // 2, config.input_size // 2)


def test_depth_changes_the_number_of_blocks() -> None:
    def count(**change: object) -> int:
        return sum(p.numel() for p in ImageEncoder(SMALL.model_copy(update=change)).parameters())

    block = 2 * (3 * 3 * 8 * 8 + 8)
    assert count(residual_blocks=(3, 1)) - count() == 2 * block
    assert count(attention_blocks=2) > count()


def test_heads_must_divide_the_tokens() -> None:
    with pytest.raises(ValidationError, match="token_width 48 is not a multiple of heads 10"):
        EncoderConfig(token_width=48, heads=10)


def test_coordinates_are_row_and_column_from_0_to_1() -> None:
    x = with_coordinates(torch.zeros(1, 3, 5, 9))
    assert torch.equal(x[0, 3, :, 4], torch.linspace(0, 1, 5))
    assert torch.equal(x[0, 4, 2], torch.linspace(0, 1, 9))


def test_activations_keep_their_size_at_initialisation() -> None:
    torch.manual_seed(0)
    features = ImageEncoder(SMALL.model_copy(update={"residual_blocks": (4, 6), "attention_blocks": 6}))(
        torch.rand(4, 3, 32, 32)
    )
    assert 0.2 < features.std() < 5


def test_channels_of_zeros_change_nothing() -> None:
    encoder = ImageEncoder(SMALL).double()
    image = with_coordinates(torch.rand(2, 3, 32, 32, dtype=torch.float64))
    for branch in (encoder.trunk, encoder.detail_branch):
        results = []
        for x in (image, F.pad(image, (0, 0, 0, 0, 0, 3))):
            result = branch(x)
            results.append((result, *torch.autograd.grad(result.square().sum(), list(branch.parameters()))))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected)


def test_channels_last_stays_so() -> None:
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    results: list[tuple[Tensor, ...]] = []
    seen: list[tuple[torch.memory_format, bool]] = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        encoder = ImageEncoder(SMALL).double().to(memory_format=layout)

        def look(_: nn.Module, inputs: tuple[Tensor], result: Tensor, layout: torch.memory_format = layout) -> None:
            seen.extend((layout, x.is_contiguous(memory_format=layout)) for x in (*inputs, result))

        for module in encoder.modules():
            if isinstance(module, nn.Conv2d | nn.LeakyReLU):
                module.register_forward_hook(look)
        features = encoder(image.contiguous(memory_format=layout))
        results.append((features, *torch.autograd.grad(features.square().sum(), list(encoder.parameters()))))
    own = [kept for layout, kept in seen if layout == torch.channels_last]
    assert len(own) > 80
    assert all(own)
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_coordinates_keep_the_layout(layout: torch.memory_format) -> None:
    image = torch.rand(2, 3, 4, 6).contiguous(memory_format=layout)
    assert with_coordinates(image).is_contiguous(memory_format=layout)


WIDE = SMALL.model_copy(update={"token_width": 320, "attention_blocks": 2})
"""The fusion's only head is too wide for fused kernels."""


def learn(encoder: ImageEncoder, image: Tensor, **autocast: object) -> list[Tensor]:
    """Features, and the gradients of something of them."""
    with torch.autocast(image.device.type, torch.bfloat16, **autocast):  # type: ignore[arg-type]
        features = encoder(image)
    gradients = torch.autograd.grad(features.double().square().sum(), list(encoder.parameters()))
    return [x.detach().double().cpu() for x in (features, *gradients)]


def distance(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Of each, as a fraction of its norm."""
    return [((a - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)]


def check_reduced_precision(device: str) -> None:
    """It is as far from float32 as the same network is on the CPU by torch alone."""
    torch.manual_seed(0)
    encoder, image = ImageEncoder(WIDE), torch.rand(2, 3, 32, 32)
    exact, usual = learn(encoder, image, enabled=False), learn(encoder, image)
    with as_on_cuda():
        found = learn(encoder.to(device), image.to(device))
    names = ["features", *(name for name, _ in encoder.named_parameters())]
    for name, error, limit in zip(names, distance(found, exact), distance(usual, exact), strict=True):
        assert error < 2 * limit + 0.01, (name, error, limit)


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """What CUDA does in reduced precision is done, by the CPU as well, with the kernels in Triton's interpreter."""
    from osgap.prior.network import attention_triton, depthwise_triton

    with (
        mock.patch.object(attention, "is_half_on_cuda", is_half),
        mock.patch.object(encoders, "is_half_on_cuda", is_half),
        mock.patch.object(attention, "device_memory", return_value=2**30),
        mock.patch.object(attention_triton, "attend", wraps=attention_triton.attend) as attended,
        mock.patch.object(depthwise_triton, "depthwise", wraps=depthwise_triton.depthwise) as filtered,
    ):
        yield
    assert (attended.call_count, filtered.call_count) == (1, 3)


def is_half(x: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16)


@pytest.mark.slow
def test_reduced_precision_in_the_interpreter(interpret: Callable[[str], None]) -> None:
    interpret("tests.prior.network.test_encoder")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_reduced_precision() -> None:
    check_reduced_precision("cuda")


if __name__ == "__main__":
    check_reduced_precision("cpu")


def test_full_size_costs_what_the_published_network_does() -> None:
    """635.9 billion multiply-adds at 512 x 512 (`conventions.md`, section h), counted by torch without computing."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counted:
        ImageEncoder(EncoderConfig())(torch.empty(1, 3, 512, 512))
    assert counted.get_total_flops() / 2e9 == pytest.approx(635.9, abs=0.1)

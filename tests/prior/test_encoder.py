from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from osgap.prior.config import EncoderConfig
from osgap.prior.encoder import ImageEncoder, with_coordinates

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

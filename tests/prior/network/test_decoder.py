from __future__ import annotations

from pathlib import Path

import pytest
import torch

from osgap.prior.losses import masked_l1
from osgap.prior.network.decoder import UVDecoder, residual_scales
from osgap.prior.network.model import GaussianPrior, load_prior, save_prior
from osgap.prior.network_config import EncoderConfig
from osgap.prior.photographs import Photographs
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError

SMALL = EncoderConfig(
    input_size=32, width=8, token_width=32, residual_blocks=(1, 1), attention_blocks=1, heads=2, dilations=(1, 2, 3)
)


@pytest.fixture
def mask() -> torch.Tensor:
    mask = torch.rand(12, 12, generator=torch.Generator().manual_seed(0)) > 0.3
    mask[0, 0] = False
    return mask


@pytest.fixture
def model(mask: torch.Tensor) -> GaussianPrior:
    torch.manual_seed(1)
    mean = torch.randn(12, 12, 14) * mask[..., None]
    return GaussianPrior(SMALL, mean, torch.full((14,), 0.5), mask)


def test_an_untrained_prior_is_exactly_the_mean(model: GaussianPrior) -> None:
    maps = model(Photographs(torch.rand(3, 1, 3, 32, 32), None))
    assert torch.equal(maps, model.decoder.mean.expand(3, 12, 12, 14))


def test_every_parameter_gets_a_gradient_after_the_first_step(model: GaussianPrior) -> None:
    """At the very start only the last layer does: it is zero, and so hides what lies before it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        (model(Photographs(torch.rand(2, 1, 3, 32, 32), None)) - torch.randn(2, 12, 12, 14)).square().mean().backward()
        optimizer.step()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not silent


def test_residuals_are_scaled_per_channel_and_masked(mask: torch.Tensor) -> None:
    scale = torch.arange(1.0, 15.0)
    decoder = UVDecoder(4, torch.zeros(12, 12, 14), scale, mask)
    torch.nn.init.constant_(decoder.out.bias, 1)  # type: ignore[arg-type]
    maps = decoder(torch.zeros(1, 4, 6, 6))[0]
    assert torch.equal(maps[mask], scale.expand(int(mask.sum()), 14))
    assert not maps[~mask].any()


def test_residual_scales_are_the_spread_between_people(mask: torch.Tensor) -> None:
    texture = torch.randn(12, 12, 14) * 0.1
    maps = torch.stack([texture - 0.3, texture + 0.3]) * mask[..., None]
    maps[..., 0] = 0  # people agree here, everywhere
    scales = residual_scales(maps, mask)
    torch.testing.assert_close(scales, torch.tensor([1e-3, *[0.3] * 13]))


def test_one_person_alone_still_leaves_room_for_others(mask: torch.Tensor) -> None:
    texture = torch.randn(1, 12, 12, 14) * torch.arange(1.0, 15.0)
    spread = texture[:, mask].std(dim=(0, 1), correction=0)
    torch.testing.assert_close(residual_scales(texture, mask), 0.5 * spread)


def test_masked_l1_leaves_out_uncovered_texels(mask: torch.Tensor) -> None:
    maps = torch.zeros(2, 12, 12, 14)
    targets = torch.ones(2, 12, 12, 14) * mask[..., None]
    targets[1] *= 2
    assert masked_l1(maps, targets, mask).tolist() == [1, 2]


def test_file_round_trip_is_exact_and_deterministic(model: GaussianPrior, tmp_path: Path) -> None:
    torch.nn.init.normal_(model.decoder.out.weight)
    save_prior(tmp_path / "a.pt", model, ("a", "b"), {"stage": "train"})
    save_prior(tmp_path / "b.pt", model, ("a", "b"), {"stage": "train"})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert read_provenance(tmp_path / "a.pt") == {"stage": "train"}
    loaded = load_prior(tmp_path / "a.pt", uv_size=12)
    assert not loaded.training
    assert loaded.people == ("a", "b")
    image = Photographs(torch.rand(1, 1, 3, 32, 32), None)
    with torch.no_grad():
        assert torch.equal(loaded(image), model.eval()(image))


def test_wrong_files_say_what_is_wrong(model: GaussianPrior, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pt: no such prior"):
        load_prior(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pt: not a prior"):
        load_prior(tmp_path / "text.pt")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt: not a prior in the format"):
        load_prior(tmp_path / "other.pt")
    save_prior(tmp_path / "a.pt", model, (), {})
    with pytest.raises(UserError, match="12 x 12 texels and the head's have 64 x 64"):
        load_prior(tmp_path / "a.pt", uv_size=64)

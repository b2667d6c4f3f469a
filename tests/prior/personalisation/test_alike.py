"""What texels that no photograph shows follow, and what they do not."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from osgap.prior.personalisation.alike import Alike

SKIN, HAIR = torch.tensor([0.8, 0.6, 0.5]), torch.tensor([0.1, 0.08, 0.06])


def _head(count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours of skin, then of hair, a little noisy; and which texels are skin."""
    noise = 0.02 * torch.randn(2 * count, 3, generator=torch.Generator().manual_seed(0))
    return torch.cat([SKIN.expand(count, 3), HAIR.expand(count, 3)]) + noise, torch.arange(2 * count) < count


def test_unseen_skin_follows_seen_skin_and_hair_does_not() -> None:
    colors, skin = _head()
    seen = (torch.arange(800) < 200).float()  # half of the skin, no hair
    change = torch.where(skin[:, None], torch.tensor([0.3, -0.1, 0.0]), torch.zeros(3))
    carried = Alike(colors, 0.06, enough=4.0).carried(change, seen)
    torch.testing.assert_close(carried[200:400], change[200:400], atol=0.03, rtol=0)
    assert carried[400:].abs().max() < 1e-3


def test_a_few_texels_say_little_about_the_rest() -> None:
    colors, _ = _head()
    seen = torch.zeros(800)
    seen[0] = 1
    carried = Alike(colors, 0.06, enough=4.0).carried(torch.ones(800, 1), seen)
    assert carried.max() < 0.5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(-3, 3))
def test_it_is_linear_and_never_overshoots(seed: int, scale: float) -> None:
    random = torch.Generator().manual_seed(seed)
    colors, seen = torch.rand(50, 3, generator=random), torch.rand(50, generator=random)
    change = torch.randn(50, 2, generator=random)
    alike = Alike(colors, 0.1, enough=1.0)
    carried = alike.carried(change, seen)
    assert (carried <= change.max(dim=0).values.clamp_min(0) + 1e-5).all()
    assert (carried >= change.min(dim=0).values.clamp_max(0) - 1e-5).all()
    torch.testing.assert_close(alike.carried(scale * change, seen), scale * carried, atol=1e-5, rtol=1e-4)

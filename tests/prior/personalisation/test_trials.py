"""When optimisations end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from osgap.prior.personalisation.trials import best_step, patches


@given(st.integers(8, 90), st.integers(8, 90), st.floats(0.05, 0.5), st.integers(0, 2**31))
def test_patches_hide_their_share(height: int, width: int, share: float, seed: int) -> None:
    used = patches((height, width), share, seed)
    assert used.shape == (height, width)
    assert set(used.unique().tolist()) <= {0.0, 1.0}
    assert 1 - used.mean().item() == pytest.approx(share, abs=0.12)
    assert torch.equal(used, patches((height, width), share, seed))


@pytest.mark.parametrize("least", [0, 1, 7, 40, 99])
def test_the_end_is_where_the_error_is_least(least: int) -> None:
    curve = (np.arange(100) - least) ** 2 / 1000 + 0.02 * np.random.default_rng(0).standard_normal(100) * 0.1
    assert abs(best_step(curve) - least) <= 3


def test_an_error_that_only_grows_ends_at_once() -> None:
    assert best_step(np.arange(50.0)) == 0
    assert best_step(np.array([1.0])) == 0

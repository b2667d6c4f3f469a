"""Adam with a rate per column against torch's, which has one per tensor."""

from __future__ import annotations

import pytest
import torch

from osgap.fit.adam import ColumnAdam

RATES = torch.tensor([0.1, 0.0, 0.02])
ROWS, STEPS = 700, 12  # more than one block of the kernel


def trajectories(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The same twelve steps by `ColumnAdam`, and column by column by torch in double precision."""
    random = torch.Generator().manual_seed(0)
    start = torch.randn(ROWS, len(RATES), generator=random)
    gradients = torch.randn(STEPS, ROWS, len(RATES), generator=random) * 10.0 ** torch.linspace(-9, 0, ROWS)[:, None]
    table = start.clone().to(device).requires_grad_()
    adam = ColumnAdam({"table": table})
    columns = [column.double().clone().requires_grad_() for column in start.T]
    theirs = torch.optim.Adam(
        [{"params": [column], "lr": float(rate)} for column, rate in zip(columns, RATES, strict=True)], eps=1e-15
    )
    for gradient in gradients:
        table.grad = gradient.to(device)
        adam.step({"table": RATES.to(device)})
        for column, values in zip(columns, gradient.T, strict=True):
            column.grad = values.double()
        theirs.step()
    return table.detach().cpu().double(), torch.stack(columns, dim=1).detach()


def test_every_column_has_its_own_rate() -> None:
    found, expected = trajectories("cpu")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_rate_of_zero_leaves_a_column() -> None:
    table = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    start = table.clone()
    table.grad = torch.ones(5, 3)
    ColumnAdam({"table": table}).step({"table": RATES})
    assert torch.equal(table[:, 1], start[:, 1])
    assert (table[:, [0, 2]] != start[:, [0, 2]]).all()


def test_a_table_with_other_strides_is_refused() -> None:
    with pytest.raises(ValueError, match=r"contiguous tables; motion has strides \(1, 3\)"):
        ColumnAdam({"motion": torch.zeros(4, 3).T})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernel_takes_the_same_steps() -> None:
    torch.testing.assert_close(*trajectories("cuda"), rtol=1e-5, atol=1e-6)


def test_a_saved_state_goes_on_to_the_same_bits() -> None:
    random = torch.Generator().manual_seed(1)
    gradients = torch.randn(6, 5, 3, generator=random)

    def steps(table: torch.Tensor, adam: ColumnAdam, part: slice) -> None:
        for gradient in gradients[part]:
            table.grad = gradient.clone()
            adam.step({"table": RATES})

    whole = torch.zeros(5, 3)
    steps(whole, ColumnAdam({"table": whole}), slice(None))
    first = torch.zeros(5, 3)
    adam = ColumnAdam({"table": first})
    steps(first, adam, slice(3))
    resumed = first.clone()
    other = ColumnAdam({"table": resumed})
    other.restore(adam.state())
    steps(resumed, other, slice(3, None))
    assert torch.equal(resumed, whole)


def test_a_table_without_gradient_stays() -> None:
    table, still = torch.ones(2, 3), torch.ones(2, 3)
    table.grad = torch.ones(2, 3)
    ColumnAdam({"table": table, "still": still}).step({"table": RATES, "still": RATES})
    assert (table != 1).any()
    assert (still == 1).all()
    assert table.grad is None

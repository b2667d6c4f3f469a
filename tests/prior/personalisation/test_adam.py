"""Adam with a step size per group against torch's."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import Tensor

from osgap.prior.personalisation.adam import GroupAdam

RATES = (2e-4, 0.05)
STEPS = 12
SHAPES = ((3, 4, 2), (7,), (5, 5))


def tensors() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=random).requires_grad_() for shape in SHAPES]


def gradients(step: int, stopped: bool) -> list[Tensor | None]:
    """Of very different sizes; those of the first group end after half of the steps."""
    random = torch.Generator().manual_seed(1 + step)
    found: list[Tensor | None] = [torch.randn(shape, generator=random) * 10.0 ** (step - 9) for shape in SHAPES]
    return [None, None, found[2]] if stopped else found


def take(adam: GroupAdam, values: list[Tensor], steps: range) -> None:
    for step in steps:
        for value, gradient in zip(values, gradients(step, step >= STEPS // 2), strict=True):
            value.grad = gradient
        adam.step(1 / (1 + step))


def test_steps_are_those_of_torch_to_the_bit() -> None:
    ours, theirs = tensors(), tensors()
    take(GroupAdam([(ours[:2], RATES[0]), (ours[2:], RATES[1])]), ours, range(STEPS))
    groups = [{"params": theirs[:2], "lr": RATES[0]}, {"params": theirs[2:], "lr": RATES[1]}]
    adam = torch.optim.Adam(groups, foreach=False)
    for step in range(STEPS):
        for group, rate in zip(adam.param_groups, RATES, strict=True):
            group["lr"] = rate / (1 + step)
        for value, gradient in zip(theirs, gradients(step, step >= STEPS // 2), strict=True):
            value.grad = gradient
        adam.step()
    for found, expected, start in zip(ours, theirs, tensors(), strict=True):
        assert not torch.equal(found, start)
        assert torch.equal(found, expected)
        assert found.grad is None


def test_a_saved_state_goes_on_to_the_same_bits() -> None:
    whole, parts = tensors(), tensors()
    take(GroupAdam([(whole, 0.01)]), whole, range(STEPS))
    first = GroupAdam([(parts, 0.01)])
    take(first, parts, range(5))
    second = GroupAdam([(parts, 0.01)])
    second.restore(first.state())
    take(second, parts, range(5, STEPS))
    for found, expected in zip(parts, whole, strict=True):
        assert torch.equal(found, expected)


def test_an_avatar_does_not_wait_for_the_compiler() -> None:
    """Importing it takes as long as making one."""
    program = """
import sys, torch
import osgap.cli, osgap.workflow.pipeline, osgap.prior.personalisation.stage
from osgap.prior.personalisation.adam import GroupAdam
value = torch.ones(3, requires_grad=True)
value.sum().backward()
GroupAdam([([value], 0.1)]).step()
try:
    import osgap.prior.network.attention_triton, osgap.prior.network.depthwise_triton
    import osgap.metrics.ssim_triton, osgap.splat.rig_triton
except ModuleNotFoundError as error:
    assert error.name == "triton", error
found = {"torch._dynamo", "torch._inductor", "torchvision", "lightning_fabric", "torchmetrics"} & set(sys.modules)
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

"""A fit on CUDA against the same fit on the CPU: losses and gradients of both tables."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from fit.people import World, config
from osgap.capture.batches import Batch
from osgap.capture.store import CaptureStore
from osgap.fit.optimise import Fit, Subject
from osgap.head.assets import load_head
from osgap.head.texels import bind_texels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="needs gsplat"),
]


def make(world: World, device: str) -> Fit:
    """A fit whose Gaussians and motion are no longer what they began as; the same on every device."""
    settings = config(losses={"anchor": 0.01})
    head, store = load_head(world.inputs.head), CaptureStore(world.inputs.capture)
    binding = bind_texels(head.uvs, head.uv_faces, settings.uv_size)
    subject = Subject(
        head.to(device), binding.to(device), store.params.to(device), store.cameras.to(device), store.split("train")
    )
    fit = Fit(settings, subject)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for table in fit.state()["tables"].values():
            table += (0.1 * torch.randn(table.shape, generator=random) * table.abs().clamp(0.01, 1).cpu()).to(device)
    return fit


def batch(world: World, step: int, size: int, device: str) -> Batch:
    store = CaptureStore(world.inputs.capture)
    frames = store.split("train")[step : step + size]
    return Batch(step, frames, torch.from_numpy(store.images(frames)).to(device))


def gradients(fit: Fit, loss: Tensor) -> dict[str, Tensor]:
    tables = fit.state()["tables"]
    loss.backward()
    found = {name: fit._tables[name].grad for name in tables}
    for table in fit._tables.values():
        table.grad = None
    return {name: gradient.cpu() for name, gradient in found.items() if gradient is not None}


def agree(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() == {"gaussians", "motion"}
    for name, gradient in found.items():
        error = (gradient - expected[name]).norm() / expected[name].norm()
        assert error < 2e-3, (name, error)


def test_losses_and_gradients_are_the_cpus(world: World) -> None:
    ours, theirs = make(world, "cuda"), make(world, "cpu")
    for step, size in enumerate((2, 3, 2, 3, 5, 2)):  # batches of each size take the recorded graph again
        losses = ours.loss(batch(world, step, size, "cuda")), theirs.loss(batch(world, step, size, "cpu"))
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)
        agree(gradients(ours, losses[0]), gradients(theirs, losses[1]))
        ours._graph_in_use = False


def test_two_losses_before_a_backward_pass(world: World) -> None:
    results = []
    for device in ("cuda", "cpu"):
        fit = make(world, device)
        results.append(gradients(fit, fit.loss(batch(world, 0, 2, device)) + fit.loss(batch(world, 9, 2, device))))
    agree(*results)


def test_steps_go_the_same_way(world: World) -> None:
    fits = {device: make(world, device) for device in ("cuda", "cpu")}
    before = fits["cpu"].attributes.channels.detach().clone()
    for device, fit in fits.items():
        for step in range(4):
            fit.step(batch(world, step, 2, device))
    moved, other = (fits[device].attributes.channels.detach().cpu() - before for device in ("cpu", "cuda"))
    assert (moved - other).norm() / moved.norm() < 0.05  # Adam makes steps of one size of the smallest gradients
    motion = [fits[device].params.expr.cpu() for device in ("cpu", "cuda")]
    torch.testing.assert_close(*motion, rtol=1e-3, atol=1e-3)

"""Bytes and floats: against numpy, and against every byte."""

from __future__ import annotations

import numpy as np
import torch

from osgap.runtime.pixels import tiled, to_bytes, to_float


def test_every_byte_survives_being_a_float() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_float(every)), every)
    assert to_float(every).dtype == torch.float32
    assert to_float(every, torch.float64)[[0, 255]].tolist() == [0, 1]


def test_floats_become_the_nearest_byte() -> None:
    values = torch.cat([torch.rand(1000), torch.tensor([-0.5, 1.5, 1.0, 0.0])]).requires_grad_()
    kept = values.detach().clone()
    expected = np.rint(kept.numpy().clip(0, 1) * np.float32(255)).astype(np.uint8)
    assert np.array_equal(to_bytes(values).numpy(), expected)
    assert torch.equal(values, kept)
    halves = (torch.arange(0, 254, dtype=torch.float64) + 0.5) / 255
    exact = halves[halves * 255 % 1 == 0.5]
    assert len(exact) > 100
    assert (to_bytes(exact) % 2 == 0).all()


def test_tiles_lie_in_rows_without_gaps() -> None:
    images = torch.rand(2, 3, 4, 5, 3)
    sheet = tiled([list(row) for row in images])
    assert sheet.shape == (8, 15, 3)
    for r in range(2):
        for c in range(3):
            assert np.array_equal(sheet[4 * r : 4 * r + 4, 5 * c : 5 * c + 5], to_bytes(images[r, c]).numpy())

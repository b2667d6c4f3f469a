"""Batches: the same ones wherever frames are kept and whenever they are decoded."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from capture.numbered import FRAMES, Store
from osgap.capture.batches import batches


def test_decoding_ahead_gives_the_same_batches() -> None:
    kept, ahead = Store(), Store()
    first = list(batches(kept, FRAMES, 4, range(2, 15), 1, memory_mib=1))
    second = list(batches(ahead, FRAMES, 4, range(2, 15), 1, memory_mib=0))
    assert [batch.step for batch in first] == list(range(2, 15)) == [batch.step for batch in second]
    for a, b in zip(first, second, strict=True):
        assert (a.frames == b.frames).all()
        assert np.array_equal(a.images[:, 0, 0, :2].numpy(), a.frames)
        assert torch.equal(a.images, b.images)
    assert kept.calls == 2 + len(FRAMES)  # twice one frame for its size, then each once
    assert any(name.startswith("decode") for name in ahead.threads)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("gpu", "main"), [(None, 0), (0, 1), (0, 0)], ids=["on the GPU", "in main memory", "decoded"])
def test_batches_reach_the_gpu_on_every_way(gpu: float | None, main: float) -> None:
    store = Store()
    found = list(batches(store, FRAMES, 4, range(40), 1, memory_mib=main, gpu_memory_mib=gpu, device="cuda"))
    expected = batches(Store(), FRAMES, 4, range(40), 1, memory_mib=1)
    for batch, other in zip(found, expected, strict=True):
        assert batch.images.is_cuda
        assert torch.equal(batch.images.cpu(), other.images)
        assert (batch.frames == other.frames).all()
    assert (store.calls > 100) == (gpu == main == 0)


def test_decoding_ahead_can_be_abandoned() -> None:
    running = batches(Store(), FRAMES, 4, range(1000), 1, memory_mib=0)
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_nothing_left_to_do_reads_nothing() -> None:
    store = Store()
    assert list(batches(store, FRAMES, 4, range(9, 9), 1, memory_mib=1)) == []
    assert store.calls == 0

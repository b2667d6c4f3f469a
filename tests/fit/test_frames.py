"""The choice of frames, and that decoding ahead changes nothing."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from osgap.capture.batches import Decoded, batches, chosen, read_ahead
from osgap.runtime.errors import UserError


class Store:
    """Frames that hold their own (timestep, camera)."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.calls = 0

    def images(self, frames: np.ndarray) -> np.ndarray:
        self.threads.add(threading.current_thread().name)
        self.calls += 1
        image = np.zeros((len(frames), 2, 2, 3), np.uint8)
        image[..., :2] = frames[:, None, None]
        return image


FRAMES = np.array([(t, c) for t in range(7) for c in range(3)])


def test_every_frame_is_seen_once_before_any_is_seen_again() -> None:
    seen = np.concatenate([chosen(21, 4, step, seed=5) for step in range(21)])  # four epochs
    for epoch in seen.reshape(4, 21):
        assert sorted(epoch) == list(range(21))
    assert (seen[:21] != seen[21:42]).any()


def test_a_step_can_span_epochs() -> None:
    assert len(chosen(3, 8, 0, seed=0)) == 8
    assert sorted(np.bincount(chosen(3, 9, 2, seed=0))) == [3, 3, 3]


def test_the_choice_depends_on_seed_and_step_alone() -> None:
    later = chosen(21, 4, 17, seed=5)
    for step in (3, 90, 1):
        chosen(21, 4, step, seed=5)
    assert (chosen(21, 4, 17, seed=5) == later).all()
    assert (chosen(21, 4, 17, seed=6) != later).any()


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


def test_decoded_frames_are_the_stores() -> None:
    store = Store()
    decoded = Decoded(store, FRAMES[::2])
    calls, asked = store.calls, FRAMES[[6, 0, 6]]
    assert np.array_equal(decoded.images(asked)[:, 0, 0, :2], asked)
    assert store.calls == calls


def test_chunks_are_read_in_order() -> None:
    chunks = [FRAMES[:5], FRAMES[5:6], FRAMES[2:9], FRAMES[:1], FRAMES[9:]]
    for chunk, images in zip(chunks, read_ahead(Store(), chunks), strict=True):
        assert np.array_equal(images[:, 0, 0, :2].numpy(), chunk)


def test_a_frame_that_cannot_be_decoded_is_an_error_in_its_turn() -> None:
    class Broken(Store):
        def images(self, frames: np.ndarray) -> np.ndarray:
            if [5, 1] in frames.tolist():
                raise UserError("frame 5 of camera 1 is broken")
            return super().images(frames)

    images = read_ahead(Broken(), [FRAMES[:4], FRAMES[4:8], FRAMES[14:18], FRAMES[:4]])
    for _ in range(2):
        next(images)
    with pytest.raises(UserError, match="frame 5 of camera 1"):
        next(images)
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


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

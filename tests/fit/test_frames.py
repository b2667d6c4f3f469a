"""The choice of frames, and that decoding ahead changes nothing."""

from __future__ import annotations

import threading

import numpy as np
import torch

from osgap.fit.frames import batches, chosen


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


def test_decoding_ahead_can_be_abandoned() -> None:
    running = batches(Store(), FRAMES, 4, range(1000), 1, memory_mib=0)
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_nothing_left_to_do_reads_nothing() -> None:
    store = Store()
    assert list(batches(store, FRAMES, 4, range(9, 9), 1, memory_mib=1)) == []
    assert store.calls == 0

"""Frames that are decoded in threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from capture.numbered import FRAMES, Store
from osgap.capture.prefetch import Decoded, read, read_ahead
from osgap.runtime.errors import UserError


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


def test_all_frames_are_read_in_order() -> None:
    frames = np.concatenate([FRAMES, FRAMES[::-1]])
    store = Store()
    assert np.array_equal(read(store, frames)[:, 0, 0, :2].numpy(), frames)
    assert all(name.startswith("decode") for name in store.threads - {threading.current_thread().name})


def test_few_frames_are_decoded_before_they_are_needed() -> None:
    store = Store()
    chunks = [FRAMES[[i]] for i in range(len(FRAMES))]
    images = read_ahead(store, chunks)
    next(images)
    images.close()  # type: ignore[attr-defined]
    assert store.calls <= 1 + 3  # one for the size, one in use, two ahead
    assert list(read_ahead(store, [])) == []

"""The choice of frames."""

from __future__ import annotations

import numpy as np

from osgap.capture.choice import chosen, evenly_spaced


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


def test_evenly_spaced_means_from_the_first_to_the_last() -> None:
    assert evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly_spaced(10, 99).tolist() == list(range(10))
    assert evenly_spaced(1, 3).tolist() == [0]
    assert evenly_spaced(0, 3).tolist() == []
    for length in range(2, 60):
        for count in range(2, length):
            indices = evenly_spaced(length, count)
            assert (len(indices), indices[0], indices[-1]) == (count, 0, length - 1)
            assert np.ptp(np.diff(indices)) <= 1

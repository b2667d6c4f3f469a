"""Motion: every sequence of NeRSemble, within what people do."""

from __future__ import annotations

import numpy as np
import pytest
from nersemble_data.constants import SEQUENCE_NAMES

from osgap.runtime.errors import UserError
from osgap.synthetic.captures.motion import Motion, make_motion
from osgap.synthetic.head.assets import EXPRESSIONS, FULL

PERFORMED = [name for name in SEQUENCE_NAMES if name != "BACKGROUND"]


def expression(motion: Motion, name: str) -> np.ndarray:
    """Strength over time, 1 at the height."""
    return motion.expr[:, EXPRESSIONS[name]] / FULL


@pytest.mark.parametrize("timesteps", [1, 2, 8, 100])
@pytest.mark.parametrize("sequence", PERFORMED)
def test_every_sequence_stays_within_human_ranges_and_starts_neutral(sequence: str, timesteps: int) -> None:
    motion = make_motion(sequence, timesteps, seed=11)
    shapes = {name: values.shape for name, values in motion.arrays().items()}
    assert shapes == {
        "expr": (timesteps, 100), "rotation": (timesteps, 3), "neck_pose": (timesteps, 3), "jaw_pose": (timesteps, 3),
        "eyes_pose": (timesteps, 6), "translation": (timesteps, 3),
    }  # fmt: skip
    for values in motion.arrays().values():
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
    assert np.abs(motion.expr).max() <= 1.4 * FULL
    assert motion.jaw_pose[:, 0].min() >= 0
    assert motion.jaw_pose[:, 0].max() < 0.45
    assert np.abs(motion.neck_pose).max() < 0.7
    assert np.abs(motion.eyes_pose).max() < 0.6
    assert np.abs(motion.translation).max() < 0.01
    limits = {"expr": 0.05, "rotation": 0.02, "neck_pose": 0.05, "jaw_pose": 0.01, "eyes_pose": 0.02}
    for name, limit in limits.items():
        assert np.abs(motion.arrays()[name][0]).max() <= limit, name


def test_sequences_have_their_own_character() -> None:
    motions = {name: make_motion(name, 60, seed=2) for name in PERFORMED}
    turning = {name: np.ptp(motion.neck_pose[:, 1]) for name, motion in motions.items()}
    assert turning["EXP-1-head"] > 0.5 > 2 * turning["EXP-4-lips"]
    gaze = {name: np.ptp(motion.eyes_pose[:, 1]) for name, motion in motions.items()}
    assert gaze["EXP-2-eyes"] > 0.4 > 2 * gaze["EXP-8-jaw-1"]
    jaw = {name: motion.jaw_pose[:, 0].max() for name, motion in motions.items()}
    assert min(jaw["EMO-1-shout+laugh"], jaw["EXP-8-jaw-1"]) > 0.2 > 2 * jaw["EXP-2-eyes"]
    assert expression(motions["EMO-1-shout+laugh"], "smile").max() > 0.6
    assert expression(motions["EXP-4-lips"], "pout").max() > 0.6
    assert expression(motions["EXP-3-cheeks+nose"], "cheek_puff").max() > 0.6
    assert expression(motions["EMO-3-angry+sad"], "brow_lower").max() > 0.6
    speech = motions["SEN-03-pluck_bright_rose"]
    opens = np.diff(np.sign(np.diff(speech.jaw_pose[:, 0]))) < 0
    assert opens.sum() >= 4


def test_people_blink_and_never_beyond_closed_lids() -> None:
    for sequence in PERFORMED:
        motion = make_motion(sequence, 120, seed=4)
        for side in ("blink_left", "blink_right"):
            strength = expression(motion, side)
            assert 0.9 < strength.max() < 1.25
            assert (strength > 0.5).mean() < 0.4


def test_eyes_look_the_same_way() -> None:
    motion = make_motion("EXP-2-eyes", 30, seed=0)
    np.testing.assert_array_equal(motion.eyes_pose[:, :3], motion.eyes_pose[:, 3:])


def test_long_captures_are_smooth() -> None:
    for sequence in ("EXP-1-head", "EMO-1-shout+laugh", "SEN-01-cramp_small_danger"):
        motion = make_motion(sequence, 240, seed=6)
        assert np.abs(np.diff(motion.neck_pose, axis=0)).max() < 0.12  # radians per 1/24 s
        assert np.abs(np.diff(motion.translation, axis=0)).max() < 0.001


def test_persons_differ_and_repeat_themselves() -> None:
    one, again, other = (make_motion("FREE", 24, seed=seed) for seed in (1, 1, 2))
    for name, values in one.arrays().items():
        np.testing.assert_array_equal(values, again.arrays()[name])
    assert np.abs(one.expr - other.expr).max() > 0.5


@pytest.mark.parametrize("sequence", ["BACKGROUND", "EXP-2", "dance"])
def test_unknown_sequences_are_refused_with_the_known_ones(sequence: str) -> None:
    with pytest.raises(UserError, match=f"{sequence}.*EXP-1-head"):
        make_motion(sequence, 10, seed=0)

"""What synthetic people do in NeRSemble's sequences: smooth FLAME parameters over time.

A sequence is a list of gestures. A gesture names expression directions of the head model and joint angles with their
strength at its height; the person goes from one to the next on minimum-jerk curves (Flash and Hogan 1985), passing
near rest in between, with idle sway and blinks on top. Strength and order of the gestures are the person's own; a
sentence has its own order of sounds, whoever speaks it. Every sequence starts close to neutral, as recordings do.

Angles are radians about x (nod, open the jaw, look down), y (turn to the person's left) and z (tilt to the person's
right), as FLAME's joints have them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from nersemble_data.constants import SEQUENCE_NAMES

from osgap.runtime.errors import UserError
from osgap.runtime.seeds import derive_seed

EXPRESSION_WIDTH = 100
"""Length of an expression vector."""

Gesture = Mapping[str, float]

# Joint angles that a gesture may name -> (parameter, column). Both eyes look the same way.
_JOINTS = {
    "nod": ("neck_pose", 0),
    "turn": ("neck_pose", 1),
    "tilt": ("neck_pose", 2),
    "lean": ("rotation", 0),
    "jaw": ("jaw_pose", 0),
    "jaw_side": ("jaw_pose", 1),
    "gaze_down": ("eyes_pose", 0),
    "gaze_left": ("eyes_pose", 1),
}

# Strength 1 of an expression is its full strength (closed lids, a broad smile); joint angles are radians.
_BLINK = {"blink_left": 1.0, "blink_right": 1.0}
_SMILE = {"smile": 0.9, "squint": 0.25}
_OPEN_SMILE = {"smile": 1.0, "lips_wide": 0.3, "mouth_open": 0.4, "jaw": 0.1, "squint": 0.35}
_SURPRISE = {"brow_raise": 1.0, "eyes_wide": 0.8, "jaw": 0.24}
_ANGER = {"brow_lower": 1.0, "squint": 0.35, "nose_wrinkle": 0.5, "lips_press": 0.7}
_SADNESS = {"brow_inner_up": 0.9, "frown": 0.9, "chin_raise": 0.5, "nod": 0.12, "gaze_down": 0.12}
_POUT = {"pout": 1.1}
_TURNS: list[Gesture] = [
    {"turn": 0.48}, {"turn": -0.48}, {"nod": 0.3}, {"nod": -0.26}, {"tilt": 0.26}, {"tilt": -0.26},
    {"turn": 0.3, "nod": 0.16}, {"turn": -0.3, "nod": -0.14},
]  # fmt: skip
_GAZES: list[Gesture] = [
    {"gaze_left": 0.42}, {"gaze_left": -0.42}, {"gaze_down": -0.26, "eyes_wide": 0.4},
    {"gaze_down": 0.28, "blink_left": 0.25, "blink_right": 0.25}, _BLINK, {"squint": 0.9, "brow_lower": 0.3},
    {"eyes_wide": 0.9, "brow_raise": 0.6}, {"blink_left": 1.0, "smile_left": 0.4},
]  # fmt: skip
_JAWS: list[Gesture] = [
    {"jaw": 0.34}, {"jaw": 0.16}, {"jaw": 0.08, "jaw_side": 0.1}, {"jaw": 0.08, "jaw_side": -0.1},
    {"jaw": 0.03, "jaw_forward": 1.0}, {"chin_raise": 1.0},
]  # fmt: skip
_SOUNDS: dict[str, Gesture] = {
    "a": {"jaw": 0.2, "mouth_open": 0.2},
    "e": {"jaw": 0.09, "lips_wide": 0.6, "mouth_open": 0.3},
    "i": {"jaw": 0.05, "lips_wide": 0.8, "mouth_open": 0.3},
    "o": {"jaw": 0.15, "pout": 0.6},
    "u": {"jaw": 0.05, "pout": 1.0},
    "m": {"lips_press": 0.9},
    "f": {"jaw": 0.02, "lip_lower_in": 0.8, "upper_lip_raise": 0.2},
    "l": {"jaw": 0.11, "mouth_open": 0.2},
    "s": {"jaw": 0.03, "lips_wide": 0.4, "lower_lip_down": 0.5},
}
_EMPHASES: list[Gesture] = [{"brow_raise": 0.5}, {"brow_lower": 0.4}, {"smile": 0.3}, {"brow_inner_up": 0.4}]
_CONSONANTS = {
    **dict.fromkeys("bpm", "m"), **dict.fromkeys("fvw", "f"), **dict.fromkeys("szctkxgq", "s"),
    **dict.fromkeys("lnrdhjy", "l"),
}  # fmt: skip

_REPERTOIRE: dict[str, list[Gesture]] = {
    "GLASSES": [{"turn": 0.35}, {"turn": -0.35}, {"nod": 0.15}, _SMILE, {"brow_raise": 0.6}],
    "EXP-1-head": _TURNS,
    "EXP-2-eyes": _GAZES,
    "EXP-3-cheeks+nose": [
        {"cheek_puff": 1.0}, {"nose_wrinkle": 1.1, "squint": 0.3}, {"cheek_raise": 1.0}, {"smile_left": 0.9},
        {"smile_right": 0.9}, {"cheek_puff": 0.8, "pout": 0.5}, {"nose_wrinkle": 0.7, "upper_lip_raise": 0.8},
    ],
    "EXP-4-lips": [
        _POUT, {"lips_press": 1.1}, {"lips_wide": 1.0}, {"pout": 0.8, "jaw": 0.1}, {"lower_lip_down": 1.0},
        {"upper_lip_raise": 1.0}, {"mouth_open": 1.0}, {"lip_lower_in": 1.0},
    ],
    "EXP-5-mouth": [
        {"mouth_left": 1.0}, {"mouth_left": -1.0}, {"frown": 1.0}, _SMILE, {"jaw": 0.2, "pout": 0.5}, {"mouth_up": 1.0},
        {"jaw": 0.12, "lips_wide": 0.9},
    ],
    "EXP-6-tongue-1": [
        {"jaw": 0.26}, {"jaw": 0.2, "lower_lip_down": 0.6}, {"jaw": 0.16, "smile": 0.4},
        {"jaw": 0.3, "mouth_open": 0.4},
    ],
    "EXP-7-tongue-2": [
        {"jaw": 0.18, "mouth_left": 0.6}, {"jaw": 0.18, "mouth_left": -0.6}, {"cheek_puff": 0.6, "mouth_left": 0.4},
        {"cheek_puff": 0.6, "mouth_left": -0.4}, {"jaw": 0.24, "lips_wide": 0.5},
    ],
    "EXP-8-jaw-1": _JAWS,
    "EXP-9-jaw-2": [{"jaw": 0.24, "jaw_side": 0.07}, {"jaw": 0.24, "jaw_side": -0.07}, *_JAWS],
    "HAIR": [{"turn": 0.5}, {"turn": -0.5}, {"tilt": 0.3}, {"tilt": -0.3}, {"nod": 0.34}],
    "FREE": [_OPEN_SMILE, _SURPRISE, {"turn": 0.35, **_SMILE}, _POUT, {"turn": -0.3, "gaze_left": 0.3}, _ANGER],
    "EMO-1-shout+laugh": [
        {"jaw": 0.34, "brow_lower": 0.6, "nose_wrinkle": 0.4, "squint": 0.3}, {**_OPEN_SMILE, "nod": -0.12}, _SMILE,
        {"jaw": 0.26, "brow_raise": 0.6, "eyes_wide": 0.4}, {**_OPEN_SMILE, "jaw": 0.22, "tilt": 0.1}, _OPEN_SMILE,
    ],
    "EMO-2-surprise+fear": [
        _SURPRISE, {**_SURPRISE, "jaw": 0.1, "lips_wide": 0.7, "brow_inner_up": 0.6},
        {"brow_raise": 0.9, "nod": -0.12}, {"brow_inner_up": 1.0, "eyes_wide": 0.8, "lips_wide": 0.5, "turn": 0.2},
    ],
    "EMO-3-angry+sad": [_ANGER, _SADNESS, {**_ANGER, "jaw": 0.1, "upper_lip_raise": 0.6}, {**_SADNESS, "pout": 0.4}],
    "EMO-4-disgust+happy": [
        {"nose_wrinkle": 1.0, "upper_lip_raise": 0.9, "squint": 0.4, "turn": 0.15}, _SMILE, _OPEN_SMILE,
        {"nose_wrinkle": 0.8, "frown": 0.8, "brow_lower": 0.5}, {**_SMILE, "tilt": -0.12, "brow_raise": 0.4},
    ],
}  # fmt: skip

_GESTURES = (3, 6)  # in a very short capture, and at least in any other
_TIMESTEPS_PER_GESTURE = 14  # what a long capture is paced by
_TIMESTEPS_PER_SOUND = 5
_TIMESTEPS_PER_BLINK = 50
_SWAY = {"nod": 0.035, "turn": 0.05, "tilt": 0.03, "lean": 0.012, "gaze_left": 0.05, "gaze_down": 0.03}
_SWAY_METRES = 0.003
_POSTURE = 0.04
_CLOSED = 1.0  # lids do not close further


@dataclass(frozen=True)
class Motion:
    """FLAME parameters of T timesteps, named as in the files; all float32."""

    expr: np.ndarray
    """`[T, 100]`."""
    rotation: np.ndarray
    """`[T, 3]` axis-angle of the whole head about the root joint."""
    neck_pose: np.ndarray
    """`[T, 3]` axis-angle."""
    jaw_pose: np.ndarray
    """`[T, 3]` axis-angle."""
    eyes_pose: np.ndarray
    """`[T, 6]` axis-angles of the left, then the right eye."""
    translation: np.ndarray
    """`[T, 3]` metres."""

    @classmethod
    def neutral(cls, timesteps: int) -> Motion:
        """At rest at the origin."""
        widths = {"expr": EXPRESSION_WIDTH, "eyes_pose": 6}
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.zeros((timesteps, widths.get(name, 3)), np.float32) for name in names})

    @property
    def timesteps(self) -> int:
        """T."""
        return len(self.expr)

    def arrays(self) -> dict[str, np.ndarray]:
        """All parameters by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def make_motion(sequence: str, timesteps: int, seed: int) -> Motion:
    """How one person performs a sequence.

    Args:
        sequence: NeRSemble's name of it.
        timesteps: T, at 24 per second; a short capture squeezes the same number of gestures into fewer timesteps.
        seed: the person's.

    Raises:
        UserError: the sequence is none of NeRSemble's, or has nobody in it (`BACKGROUND`).
    """
    random = np.random.default_rng(derive_seed(seed, sequence))
    tracks = _Tracks(timesteps)
    temperament = random.uniform(0.75, 1.05)
    for strength, gestures in _performance(sequence, timesteps, random):
        _perform(tracks, gestures, temperament * strength, random)
    _sway(tracks, random)
    _blink(tracks, random)
    posture = np.random.default_rng(derive_seed(seed, "posture"))
    for channel in ("nod", "turn", "tilt"):
        tracks.add(channel, np.full(timesteps, posture.uniform(-_POSTURE, _POSTURE)))
    return tracks.motion()


def _performance(sequence: str, timesteps: int, random: np.random.Generator) -> list[tuple[float, list[Gesture]]]:
    """Lists of gestures that are performed side by side, each with its strength."""
    turns = _shuffled(_TURNS, _count(timesteps, 2 * _TIMESTEPS_PER_GESTURE), random)
    if sequence in _REPERTOIRE:
        gestures = _shuffled(_REPERTOIRE[sequence], _count(timesteps, _TIMESTEPS_PER_GESTURE), random)
        return [(1.0, gestures)] if _REPERTOIRE[sequence] is _TURNS else [(1.0, gestures), (0.3, turns)]
    if sequence.startswith("SEN-") and sequence in SEQUENCE_NAMES:
        brows = _shuffled(_EMPHASES, 3, random)
        return [(1.0, _sentence(sequence, _count(timesteps, _TIMESTEPS_PER_SOUND))), (1.0, brows), (0.35, turns)]
    known = [name for name in SEQUENCE_NAMES if name in _REPERTOIRE or name.startswith("SEN-")]
    reason = "has nobody in it" if sequence in SEQUENCE_NAMES else "is no NeRSemble sequence"
    raise UserError(f"sequence {sequence!r} {reason}; a synthetic person performs any of {', '.join(known)}")


def _count(timesteps: int, pace: int) -> int:
    least, usual = _GESTURES
    return max(least, min(usual, int(timesteps / 2.2)), round(timesteps / pace))


def _shuffled(gestures: Sequence[Gesture], count: int, random: np.random.Generator) -> list[Gesture]:
    """`count` gestures: all of them in random order, again and again."""
    order: list[int] = []
    while len(order) < count:
        order.extend(int(i) for i in random.permutation(len(gestures)))
    return [gestures[i] for i in order[:count]]


def _sentence(sequence: str, count: int) -> list[Gesture]:
    """The sounds of the words in a sequence's name, again and again."""
    letters = [letter for letter in sequence.split("-", 2)[2] if letter.isalpha()]
    sounds = [letter if letter in _SOUNDS else _CONSONANTS[letter] for letter in letters]
    sounds = [sound for i, sound in enumerate(sounds) if i == 0 or sound != sounds[i - 1]]
    return [_SOUNDS[sound] for sound in np.resize(sounds, count)]


class _Tracks:
    """Values of named channels over time, and the FLAME parameters that they add up to."""

    def __init__(self, timesteps: int) -> None:
        from osgap.synthetic.head.assets import EXPRESSIONS, FULL

        self.time = np.arange(timesteps, dtype=np.float64)
        self._columns, self._full = EXPRESSIONS, FULL
        self._values: dict[str, np.ndarray] = {}
        self.translation = np.zeros((timesteps, 3))

    def add(self, channel: str, values: np.ndarray) -> None:
        """Add to a channel, `[T]`.

        Raises:
            ValueError: the head model has no such direction, and no joint is called so.
        """
        if channel not in _JOINTS and channel not in self._columns:
            raise ValueError(f"no expression direction or joint angle {channel!r}; there are {sorted(self._columns)}")
        self._values[channel] = self._values.get(channel, 0.0) + values

    def value(self, channel: str) -> np.ndarray:
        """What has been added to a channel so far, `[T]`."""
        return self._values.get(channel, np.zeros(len(self.time)))

    def motion(self) -> Motion:
        """The FLAME parameters."""
        result = Motion.neutral(len(self.time))
        for channel, values in self._values.items():
            if channel in _JOINTS:
                parameter, column = _JOINTS[channel]
                getattr(result, parameter)[:, column] += values.astype(np.float32)
            else:
                result.expr[:, self._columns[channel]] = (self._full * values).astype(np.float32)
        result.eyes_pose[:, 3:] = result.eyes_pose[:, :3]
        result.translation[:] = self.translation
        return result


def _perform(tracks: _Tracks, gestures: Sequence[Gesture], strength: float, random: np.random.Generator) -> None:
    """Go through the gestures: rest, gesture, near rest, gesture, ... with minimum-jerk transitions."""
    gap = max(len(tracks.time), 2) / (len(gestures) + 0.3)
    heights = gap * (np.arange(len(gestures)) + 0.8 + random.uniform(-0.12, 0.12, len(gestures)))
    between = (heights[:-1] + heights[1:]) / 2
    knots = np.sort(np.concatenate([[0.0], heights, between]))
    strengths = strength * random.uniform(0.8, 1.1, len(gestures))
    rests = random.uniform(0.0, 0.4, len(between))
    for channel in sorted({name for gesture in gestures for name in gesture}):
        peaks = strengths * [gesture.get(channel, 0.0) for gesture in gestures]
        values = np.zeros(len(knots))
        values[1::2] = peaks
        values[2::2] = rests * (peaks[:-1] + peaks[1:]) / 2
        tracks.add(channel, _minimum_jerk(tracks.time, knots, values))


def _minimum_jerk(time: np.ndarray, knots: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The curve through `values` at `knots`, at rest in each of them, constant outside."""
    segment = np.clip(np.searchsorted(knots, time, side="right") - 1, 0, len(knots) - 2)
    phase = np.clip((time - knots[segment]) / (knots[segment + 1] - knots[segment]), 0.0, 1.0)
    blend = phase**3 * (10 - 15 * phase + 6 * phase**2)
    return values[segment] + (values[segment + 1] - values[segment]) * blend


def _sway(tracks: _Tracks, random: np.random.Generator) -> None:
    """Nobody sits quite still: slow waves that start from zero."""
    onset = np.minimum(tracks.time / max(len(tracks.time) / 4, 1), 1.0)
    turn = 2 * np.pi * tracks.time / max(len(tracks.time), 24)

    def wave() -> np.ndarray:
        rates, phases = random.uniform(0.6, 2.4, 2), random.uniform(0, 2 * np.pi, 2)
        return onset * np.sin(rates[:, None] * turn + phases[:, None]).mean(axis=0)

    for channel, size in _SWAY.items():
        tracks.add(channel, size * wave())
    tracks.translation[:] = _SWAY_METRES * np.stack([wave(), wave(), wave()], axis=1)


def _blink(tracks: _Tracks, random: np.random.Generator) -> None:
    """Lids close for a tenth of a second now and then, and at least once in a capture of some length."""
    timesteps = len(tracks.time)
    if timesteps < 4:
        return
    width = np.clip(timesteps / 40, 0.5, 1.4)
    times = random.uniform(2, timesteps, max(1, round(timesteps / _TIMESTEPS_PER_BLINK)))
    closed = np.max([np.exp(-(((tracks.time - round(time)) / width) ** 2)) for time in times], axis=0)
    for channel, strength in _BLINK.items():
        before = tracks.value(channel)
        tracks.add(channel, np.minimum(np.maximum(before, strength * closed), _CLOSED) - before)

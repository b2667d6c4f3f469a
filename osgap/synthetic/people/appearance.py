"""What a random person looks like, as numbers: build of the face, skin, hair, brows, eyes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osgap.synthetic.head.assets import IDENTITIES
from osgap.synthetic.people.texture import Complexion, linear, skin_color

Array = np.ndarray


@dataclass(frozen=True)
class Appearance:
    """Everything that is decided about a person before geometry and texture are made."""

    shape: Array
    """[300] float32 identity coefficients."""
    complexion: Complexion
    hair_style: str
    hair: Array
    """[3] linear colour of the hair."""
    lash_length: float
    """Millimetres."""
    shirt: Array
    """[3] linear colour."""


_HAIR_COLORS = {
    "black": linear(36, 31, 30),
    "dark brown": linear(60, 44, 36),
    "brown": linear(96, 69, 50),
    "chestnut": linear(118, 69, 44),
    "auburn": linear(122, 66, 44),
    "ginger": linear(154, 92, 58),
    "dark blond": linear(158, 124, 84),
    "blond": linear(196, 166, 122),
    "grey": linear(158, 155, 152),
    "white": linear(214, 211, 206),
}
_IRIS_COLORS = {
    "dark brown": linear(70, 42, 26),
    "brown": linear(106, 66, 36),
    "hazel": linear(130, 98, 54),
    "green": linear(104, 122, 86),
    "blue": linear(96, 132, 164),
    "grey": linear(128, 140, 150),
}
# Mean identity coefficients of more masculine and (negated) more feminine faces.
_MASCULINE = {
    "jaw_width": 0.55,
    "brow_ridge": 0.8,
    "chin_height": 0.45,
    "chin_width": 0.55,
    "nose_out": 0.35,
    "nose_width": 0.3,
    "face_length": 0.35,
    "neck_width": 0.9,
    "lips_full": -0.5,
    "eye_size": -0.55,
    "eye_opening": -0.3,
    "cheeks_full": -0.25,
    "forehead_slope": -0.4,
    "head_height": 0.2,
    "nose_tip_up": -0.35,
    "upper_lip_length": 0.35,
}


def random_appearance(random: np.random.Generator) -> Appearance:
    """Somebody. Traits that go together in people (dark skin and dark hair, beard and jaw) go together here."""
    masculine = bool(random.random() < 0.5)
    tone = float(random.beta(0.95, 1.35))
    age = float(random.beta(1.2, 1.8))
    hair_name = _hair_name(random, tone, age)
    hair = _HAIR_COLORS[hair_name] * np.float32(np.exp(0.12 * random.standard_normal()))
    eyes = ["dark brown", "brown"] if tone > 0.42 else list(_IRIS_COLORS)
    iris = _IRIS_COLORS[str(random.choice(eyes))] * np.float32(np.exp(0.15 * random.standard_normal()))
    style = _hair_style(random, masculine, tone, age)
    stubble, beard_shape = 0.0, "full"
    if masculine:
        stubble = 0.1
        if random.random() < (0.8 if style == "bald" else 0.6):
            stubble = float(random.choice([0.3, 0.45, 0.85, 0.95]))
            beard_shape = str(random.choice(["full", "full", "goatee", "moustache"]))
    skin = skin_color(tone)
    rose = np.array([0.52, 0.14, 0.145]) if random.random() < 0.5 else np.array([0.46, 0.14, 0.13])
    rose = rose * (1 - 0.68 * tone) * np.exp(0.12 * random.standard_normal(3))
    share = random.uniform(0.25, 0.45) if masculine else random.uniform(0.4, 0.85)
    lips = (1 - share) * skin * [0.84, 0.46, 0.50] + share * rose
    brows = 0.75 * hair if hair.mean() < 0.08 else (0.45 * hair + 0.02) * [1.0, 0.93, 0.85]
    complexion = Complexion(
        tone=tone,
        warmth=float(random.uniform(-1, 1)),
        blush=float(random.uniform(0.1, 1)),
        freckles=float(random.uniform(0.4, 1)) if tone < 0.4 and random.random() < 0.35 else 0.0,
        age=age,
        lips=lips.astype(np.float32),
        hair=(0.8 * hair).astype(np.float32),
        scalp_hair={"bald": 0.1, "buzz": 0.8}.get(style, 0.92),
        shaded=1.0 if style in ("bob", "long", "wavy") else 0.0,
        beard=(hair * 0.8).astype(np.float32),
        stubble=stubble,
        beard_shape=beard_shape,
        brows=brows.astype(np.float32),
        brow_density=float(random.uniform(0.4, 0.75)),
        brow_thickness=float(random.uniform(0.9, 1.25) if masculine else random.uniform(0.6, 0.95)),
        brow_arch=float(random.uniform(0.4, 0.9) if masculine else random.uniform(0.7, 1.3)),
        iris=iris.astype(np.float32),
    )
    shirt = random.uniform(0.02, 0.55, 3)
    shirt = shirt.mean() + (shirt - shirt.mean()) * random.uniform(0.1, 0.9)
    return Appearance(
        shape=_identity(random, 1.0 if masculine else -1.0),
        complexion=complexion,
        hair_style=style,
        hair=hair.astype(np.float32),
        lash_length=float(random.uniform(2.8, 4.0) if masculine else random.uniform(4.2, 6.0)),
        shirt=shirt.astype(np.float32),
    )


def _identity(random: np.random.Generator, masculine: float) -> Array:
    shape = np.clip(1.15 * random.standard_normal(300), -2.4, 2.4)
    for name, mean in _MASCULINE.items():
        shape[IDENTITIES[name]] = 0.85 * shape[IDENTITIES[name]] + masculine * mean
    return np.asarray(shape, dtype=np.float32)


def _hair_name(random: np.random.Generator, tone: float, age: float) -> str:
    if age > 0.62 and random.random() < 0.65:
        return str(random.choice(["grey", "grey", "white"]))
    if tone > 0.42 or random.random() < 0.25:
        return str(random.choice(["black", "black", "dark brown"]))
    return str(random.choice(["dark brown", "brown", "chestnut", "auburn", "ginger", "dark blond", "blond", "blond"]))


def _hair_style(random: np.random.Generator, masculine: bool, tone: float, age: float) -> str:
    if masculine:
        styles = ["short", "crop", "brushed", "parted", "curly", "buzz", "short", "parted"]
        if age > 0.4:
            styles += ["bald", "bald", "buzz"]
        if tone > 0.6:
            styles = ["buzz", "crop", "afro", "curly", "bald", "crop"]
    else:
        styles = ["bob", "long", "wavy", "bun", "curly", "short", "ponytail", "bob", "wavy"]
        if tone > 0.6:
            styles = ["afro", "curly", "bun", "long", "bob", "ponytail"]
    return str(random.choice(styles))

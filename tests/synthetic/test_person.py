"""Synthetic people: whole, each their own, and moving in one piece."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from osgap.synthetic.captures.cameras import make_cameras
from osgap.synthetic.captures.tracer import trace
from osgap.synthetic.config import SyntheticConfig
from osgap.synthetic.head import sculpt
from osgap.synthetic.head.assets import EXPRESSIONS, FULL, build_head
from osgap.synthetic.people.appearance import random_appearance
from osgap.synthetic.people.atlas import atlas
from osgap.synthetic.people.hair import STYLES, make_hair
from osgap.synthetic.people.person import Person, make_person
from osgap.synthetic.people.scene import Scene
from osgap.synthetic.people.texture import paint

Array = np.ndarray
CONFIG = SyntheticConfig()
SEEDS = range(6)


@pytest.fixture(scope="module")
def people() -> list[Person]:
    return [make_person(seed, CONFIG) for seed in SEEDS]


def _expressed(person: Person, name: str) -> Array:
    """The person's head at rest but for one expression at full strength."""
    return person.neutral + FULL * build_head().shapedirs[..., 300 + EXPRESSIONS[name]]


def _turn(angle: float) -> Array:
    """Rotation about the vertical axis."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


# ------------------------------------------------------------------------------------------------------ the scene
@pytest.mark.parametrize("seed", SEEDS)
def test_scene_is_well_formed(people: list[Person], seed: int) -> None:
    person = people[seed]
    head = build_head()
    scene = person.scene(person.neutral)
    count, faces = len(scene.vertices), len(scene.faces)
    assert faces < 60_000
    expected = {
        "vertices": ((count, 3), np.float32), "faces": ((faces, 3), np.int32), "normals": ((count, 3), np.float32),
        "colors": ((count, 3), np.float32), "specular": ((count,), np.float32), "gloss": ((count,), np.float32),
        "uvs": ((faces, 3, 2), np.float32), "textured": ((faces,), bool),
    }  # fmt: skip
    for name, (shape, dtype) in expected.items():
        array = getattr(scene, name)
        assert array.shape == shape, name
        assert array.dtype == dtype, name
        assert np.isfinite(array).all(), name
    np.testing.assert_array_equal(scene.vertices[: len(head.v_template)], person.neutral)
    np.testing.assert_array_equal(scene.faces[: len(head.faces)], head.faces)
    np.testing.assert_array_equal(np.flatnonzero(scene.textured), np.arange(len(head.faces)))
    np.testing.assert_array_equal(np.unique(scene.faces), np.arange(count))
    np.testing.assert_allclose(np.linalg.norm(scene.normals, axis=1), 1, atol=1e-5)
    assert scene.colors.min() >= 0
    assert scene.colors.max() <= 1
    assert scene.texture.dtype == np.uint8
    assert scene.texture.shape[0] == scene.texture.shape[1]


def test_scene_refuses_another_head(people: list[Person]) -> None:
    with pytest.raises(ValueError, match=r"vertices of shape .* got \(10, 3\)"):
        people[0].scene(np.zeros((10, 3)))


def test_is_the_same_for_the_same_seed_and_survives_pickling(people: list[Person]) -> None:
    again = pickle.loads(pickle.dumps(make_person(1, SyntheticConfig(width=64, height=64))))
    one, other = people[1].scene(people[1].neutral), again.scene(again.neutral)
    for field in dataclasses.fields(Scene):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name), err_msg=field.name)
    np.testing.assert_array_equal(people[1].shape, again.shape)


# ------------------------------------------------------------------------------------------------ no two are alike
def test_no_two_people_look_alike(people: list[Person]) -> None:
    cameras = make_cameras(66, 96, seed=0)
    frontal = dataclasses.replace(cameras, serials=cameras.serials[8:9], world_to_camera=cameras.world_to_camera[8:9])
    shots = [trace(person.scene(person.neutral), frontal, 1) for person in people]
    images = np.stack([shot.images[0].astype(float) for shot in shots])
    for i in range(len(people)):
        for j in range(i):
            assert np.abs(images[i] - images[j]).mean() > 6, f"{i} and {j} look alike"
            shape = np.abs(people[i].neutral - people[j].neutral).mean()
            assert shape > 5e-4, f"{i} and {j} have the same face"


def test_pictures_show_a_face(people: list[Person]) -> None:
    """Eyes are brighter than the skin around them and have a dark pupil, lips differ from chin, in every person."""
    head = build_head()
    cameras = make_cameras(352, 512, seed=0)
    frontal = dataclasses.replace(cameras, serials=cameras.serials[8:9], world_to_camera=cameras.world_to_camera[8:9])
    for person in people:
        image = trace(person.scene(person.neutral), frontal, 1).images[0].astype(float)

        def at(point: Array, image: Array = image) -> Array:
            x, y = np.round(frontal.project(point[None])[0, 0]).astype(int)
            return image[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))

        ball = head.masks["left_eyeball"]
        center = head.joint_regressor[3] @ person.neutral
        pupil = person.neutral[ball[person.neutral[ball, 2].argmax()]]
        white = center + np.array([0.0075, 0, 0.0105])
        assert at(pupil).mean() < 90
        assert at(white).mean() > at(pupil).mean() + 50
        lip = person.neutral[head.mesh.rims["mouth_lower"][9]] + [0, -0.004, 0]
        chin = person.neutral[head.mesh.rims["mouth_lower"][9]] + [0, -0.020, 0]
        assert np.abs(at(lip) - at(chin)).max() > 5


def test_skin_tones_and_hair_cover_a_wide_range() -> None:
    appearance = [random_appearance(np.random.default_rng(seed)) for seed in range(60)]
    tones = np.array([look.complexion.tone for look in appearance])
    assert np.quantile(tones, 0.1) < 0.15
    assert np.quantile(tones, 0.9) > 0.65
    assert len({look.hair_style for look in appearance}) >= 8
    assert {look.hair_style for look in appearance} <= set(STYLES)
    assert sum(look.complexion.stubble > 0.75 for look in appearance) >= 5
    assert sum(look.complexion.freckles > 0 for look in appearance) >= 3
    hair = np.array([look.hair.mean() for look in appearance])
    assert hair.max() > 10 * hair.min()


def test_texture_follows_the_complexion() -> None:
    appearance = random_appearance(np.random.default_rng(0))
    cheek = np.linalg.norm(atlas().position - [34, -10, 38], axis=-1) < 6

    def color(where: Array, **changes: object) -> Array:
        complexion = dataclasses.replace(appearance.complexion, **changes)  # type: ignore[arg-type]
        return paint(complexion, np.random.default_rng(0))[where].mean(0)

    tones = [color(cheek, tone=tone, stubble=0.0).mean() for tone in (0.0, 0.3, 0.6, 0.95)]
    assert np.diff(tones).max() < -15, "darker skin is darker"
    jaw = np.linalg.norm(atlas().position - sculpt.project(np.array([[34.0, -60.0, 8.0]])), axis=-1) < 5
    beard = {"tone": 0.1, "beard_shape": "full", "beard": np.full(3, 0.02)}
    shaven, bearded = (color(jaw, stubble=stubble, **beard).mean() for stubble in (0.0, 0.9))
    assert bearded < shaven - 40


# ---------------------------------------------------------------------------------------------------------- hair
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(2))
def test_hair_leaves_the_face_free_and_stays_outside_the_head(style: str, seed: int) -> None:
    pieces = make_hair(style, np.array([0.1, 0.05, 0.03]), np.random.default_rng(seed))
    if style == "bald":
        assert pieces == []
        return
    points = np.concatenate([piece.vertices for piece in pieces])
    x, y, z = points.T
    face = (np.abs(x) < 46) & (y < 34) & (y > -80) & (z > 15)
    assert face.sum() == 0, f"hair over the face at {points[face][:3]}"
    assert (sculpt.distance(points) < -3).mean() < 0.02, "hair inside the head"
    top = (y > 90) & (z > -110)
    assert sculpt.distance(points[top]).max() < 75, "hair far from the head"
    assert np.abs(x).max() < 135, "hair outside of the picture"


# -------------------------------------------------------------------------------------------------------- motion
def test_everything_turns_with_the_whole_person(people: list[Person]) -> None:
    person = people[0]
    turn, shift = _turn(0.4), np.array([0.01, -0.02, 0.03])
    rest, moved = person.scene(person.neutral), person.scene(person.neutral @ turn.T + shift)
    np.testing.assert_allclose(moved.vertices, rest.vertices @ turn.T + shift, atol=2e-5)
    np.testing.assert_allclose(moved.normals, rest.normals @ turn.T, atol=2e-3)


def test_hair_goes_with_the_skull_and_the_shirt_stays(people: list[Person]) -> None:
    head = build_head()
    person = next(person for person in people if person.appearance.hair_style not in ("bald",))
    joint = head.joint_regressor[1] @ person.neutral
    turn = _turn(0.4)
    weight = 1 - head.skinning_weights[:, :1]
    posed = weight * ((person.neutral - joint) @ turn.T + joint) + (1 - weight) * person.neutral
    rest, moved = person.scene(person.neutral), person.scene(posed)
    carried = np.arange(len(person.colors)) >= len(person.colors) - len(person.carried.vertices)
    on_skull, on_shoulders = carried.copy(), carried.copy()
    on_skull[carried] = person.carried.skull == 1
    on_shoulders[carried] = person.carried.skull == 0
    assert on_skull.sum() > 500
    assert on_shoulders.sum() > 500
    np.testing.assert_allclose(moved.vertices[on_skull], (rest.vertices[on_skull] - joint) @ turn.T + joint, atol=1e-4)
    np.testing.assert_allclose(moved.vertices[on_shoulders], rest.vertices[on_shoulders], atol=2e-3)


def test_brows_and_lashes_follow_the_skin(people: list[Person]) -> None:
    person = people[0]
    first = len(person.neutral)
    bound = slice(first, first + len(person.bound.weights))
    rest = person.scene(person.neutral)
    roots = np.einsum("nc,ncd->nd", person.bound.weights, person.neutral[person.bound.triangles])
    assert np.linalg.norm(rest.vertices[bound] - roots, axis=1).max() < 0.016

    raised = person.scene(_expressed(person, "brow_raise")).vertices[bound] - rest.vertices[bound]
    brow = (roots[:, 1] > 0.036) & (roots[:, 1] < 0.055) & (roots[:, 2] > 0.02)
    assert brow.sum() > 1000
    assert np.median(raised[brow, 1]) > 3e-3
    assert raised[brow, 1].min() > -1e-3
    closed = person.scene(_expressed(person, "blink_left")).vertices[bound] - rest.vertices[bound]
    left = (roots[:, 0] > 0.02) & (closed[:, 1] < -0.004)
    assert left.sum() > 100, "lashes go down with the lid"
    assert np.abs(closed[roots[:, 0] < -0.01]).max() < 1e-4

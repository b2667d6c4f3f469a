"""Editions of head models are known by what is in them."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.editions import KEY, Edition, check_head, check_motion, edition_of, recorded
from osgap.head.releases import Release, identify
from osgap.runtime.errors import UserError


def test_equal_models_are_one_edition_whatever_their_bytes(small_files: Any, tmp_path: Path) -> None:
    assets = small_files.write(tmp_path)
    first = edition_of(load_head(assets), assets)
    again = {key: np.asfortranarray(value) for key, value in reversed(small_files.model.items())}
    content = pickle.dumps(again, protocol=4)
    assert content != assets.model.read_bytes()
    assets.model.write_bytes(content)
    assert edition_of(load_head(assets), assets) == first


@pytest.mark.parametrize("key", ["v_template", "shapedirs", "posedirs"])
def test_another_direction_is_another_edition(small_files: Any, tmp_path: Path, key: str) -> None:
    assets = small_files.write(tmp_path)
    first = load_head(assets).edition_id
    small_files.model[key][..., -1].flat[-1] += 1e-3
    assert load_head(small_files.write(tmp_path)).edition_id != first


def test_teeth_are_no_part_of_an_edition(flame_sized: tuple[Any, HeadAssets]) -> None:
    """FLAME's directions are its own, not what is added to them here."""
    content, assets = flame_sized
    head = load_head(assets)
    assert head.vertex_count > len(content.model["v_template"])
    changed = head.v_template.clone()
    changed[-1] += 1
    assert dataclasses.replace(head, v_template=changed).edition_id == head.edition_id
    changed[0] += 1
    assert dataclasses.replace(head, v_template=changed).edition_id != head.edition_id


def test_what_is_recorded_is_read() -> None:
    edition = Edition("0123456789abcdef", "FLAME 2023")
    assert recorded({"stage": "fit", **edition.record}) == edition
    for nothing in (None, {}, {KEY: None}, {KEY: {"id": 1, "name": "x"}}, {KEY: "FLAME"}):
        assert recorded(nothing) is None


def test_unknown_editions_fit_any(small_files: Any, tmp_path: Path) -> None:
    head = load_head(small_files.write(tmp_path))
    own, other = Edition(head.edition_id, "FLAME 2023"), Edition("0" * 16, "FLAME 2020")
    check_head(head, None, "a.h5")
    check_head(head, own, "a.h5")
    with pytest.raises(UserError, match=r"a\.h5: was made with FLAME 2020 \(0000"):
        check_head(head, other, "a.h5")
    for found, avatar in ((None, own), (other, None), (own, own)):
        check_motion(found, avatar, "m.npz")
    check_motion(other, own, "m.npz", across=True)
    with pytest.raises(UserError, match=r"m\.npz: .*FLAME 2020 .*FLAME 2023"):
        check_motion(other, own, "m.npz")


@pytest.mark.parametrize(
    ("file", "name", "licence"),
    [
        ("flame2023.pkl", "FLAME 2023", "non-commercial"),
        ("flame2023_no_jaw.pkl", "FLAME 2023 without jaw rotation", "non-commercial"),
        ("flame2023_Open.pkl", "FLAME 2023 Open", "CC BY 4.0"),
        ("generic_model.pkl", "FLAME 2020", "non-commercial"),
        ("mine.pkl", "FLAME of an unknown release", "not known"),
    ],
)
def test_licences_follow_the_release(fake_flame: Path, tmp_path: Path, file: str, name: str, licence: str) -> None:
    (tmp_path / file).symlink_to(fake_flame / "flame2023.pkl")
    release = identify(
        HeadAssets(
            model=tmp_path / file,
            masks=fake_flame / "FLAME_masks.pkl",
            template=fake_flame / "head_template_mesh.obj",
        )
    )
    assert (release.name, release.model_known) == (name, False)
    assert licence in release.licence


def test_no_licence_is_claimed_for_other_heads() -> None:
    other = Release("a head model that is not FLAME's", False, False, False, False)
    assert other.licence == "its makers' own"

"""Which timesteps are played, whose, and in what order."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from osgap.capture.store import CaptureStore
from osgap.evaluation.splits import cross_motion
from osgap.head.editions import Edition
from osgap.head.params import save_flame_param
from osgap.interop.motion import load_motion
from osgap.rendering.motion import parse_timesteps, played
from osgap.runtime.errors import UserError
from rendering.people import SEQUENCES, World


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("4", [4]),
        ("-1", [5]),
        ("1:4", [1, 2, 3]),
        ("0:6:2", [0, 2, 4]),
        (":2", [0, 1]),
        ("4:", [4, 5]),
        ("::3", [0, 3]),
        ("::-2", [5, 3, 1]),
        ("-2:", [4, 5]),
        ("3, 1,1", [3, 1, 1]),
        ("0:2,5", [0, 1, 5]),
    ],
)
def test_timesteps_are_slices_and_lists(text: str, expected: list[int]) -> None:
    assert parse_timesteps(text, 6, "file") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not understood"),
        ("a", "not understood"),
        ("1-3", "not understood"),
        ("1:2:3:4", "not understood"),
        ("1,,2", "not understood"),
        ("1:5:0", "step is 0"),
        ("3:3", "none at all"),
        ("6", "no timestep 6; motion.npz has 6, 0 to 5"),
        ("0:7", "no timestep 6"),
        ("-7", "no timestep -7"),
        ("9:", "no timestep 9"),
        ("6:", "no timestep 6"),
        ("8:2:-1", "no timestep 8"),
        ("-8:", "no timestep -8"),
        (":-7", "no timestep -7"),
    ],
)
def test_other_timesteps_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_timesteps(text, 6, "motion.npz")


@pytest.mark.parametrize("text", ["all", "0", "-1", ":"])
def test_a_motion_without_timesteps_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"motion\.npz: has no timestep"):
        parse_timesteps(text, 0, "motion.npz")


def test_another_person_drives_as_in_cross_reenactment(world: World) -> None:
    anna, bert = world.anna, world.bert
    avatar = anna.avatar
    store, driver = CaptureStore(anna.capture), CaptureStore(bert.capture)
    motion = load_motion(avatar.params, bert.capture, None, world.head)
    expected = cross_motion(avatar, store, driver, torch.arange(len(driver.timesteps)).numpy())
    for name, values in expected.motion.items():
        torch.testing.assert_close(getattr(motion, name), values, msg=name)
    assert torch.equal(motion.shape, avatar.params.shape)
    assert torch.equal(motion.static_offset, avatar.params.static_offset)
    assert not torch.equal(motion.expr, avatar.params.expr)


def test_sequences_files_and_folders(world: World, tmp_path: Path) -> None:
    anna, bert = world.anna, world.bert
    own = anna.avatar.params
    whole = load_motion(own, bert.capture, None, world.head)
    first = SEQUENCES["EXP-2-eyes"]
    for name in ("EMO-1", "EMO-1-shout+laugh"):
        part = load_motion(own, bert.capture, name, world.head)
        assert torch.equal(part.expr, whole.expr[first:])
        # Where a person is, the whole capture says: the same frame is at the same place with and without the others.
        assert torch.equal(part.translation, whole.translation[first:])
    folder = load_motion(own, bert.folder, None, world.head)
    assert torch.equal(folder.expr, whole.expr)
    save_flame_param(tmp_path / "motion.npz", bert.avatar.params)
    assert torch.equal(load_motion(own, tmp_path / "motion.npz", None, world.head).translation, folder.translation)


def test_a_folder_of_osgaps_training_is_a_motion(world: World) -> None:
    """Its parameters have another name."""
    own, bert = world.anna.avatar.params, world.bert
    expected = load_motion(own, bert.folder, None, world.head)
    (bert.folder / "flame_param.npz").rename(bert.folder / "flame_param_024.npz")
    assert torch.equal(load_motion(own, bert.folder, None, world.head).expr, expected.expr)


def test_other_trackers_motion_drives_as_vhaps(world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """DECA's names and VHAP's move the head to the same vertices; without a shape it is somebody else's."""
    own, theirs = world.anna.avatar.params, world.bert.avatar.params
    zeros = {name: torch.zeros_like(getattr(theirs, name)) for name in ("neck_pose", "eyes_pose", "translation")}
    save_flame_param(tmp_path / "vhap.npz", theirs.replace(**zeros))
    pose = torch.cat([theirs.rotation, theirs.jaw_pose], dim=1)
    np.savez(tmp_path / "deca.npz", exp=theirs.expr, pose=pose)
    a = load_motion(own, tmp_path / "vhap.npz", None, world.head)
    b = load_motion(own, tmp_path / "deca.npz", None, world.head)
    torch.testing.assert_close(world.head.vertices(a), world.head.vertices(b))
    torch.testing.assert_close(b.translation.mean(dim=0), own.translation.mean(dim=0))
    assert "no translation is given; it is taken to be 0" in caplog.text
    np.savez(tmp_path / "own.npz", **{name: value.numpy() for name, value in own.motion.items()})  # type: ignore[arg-type]
    same = load_motion(own, tmp_path / "own.npz", None, world.head)
    torch.testing.assert_close(same.translation, own.translation)  # about its own mean


def test_motion_of_another_edition_needs_to_be_wished(world: World, tmp_path: Path) -> None:
    own, theirs = world.anna.avatar.params, world.bert.avatar.params
    mine, other = Edition(world.head.edition_id, "FLAME 2023"), Edition("0" * 16, "FLAME 2020")
    save_flame_param(tmp_path / "motion.npz", theirs, other.record)
    with pytest.raises(UserError, match=r"motion\.npz: the motion was tracked with FLAME 2020 \(0000"):
        load_motion(own, tmp_path / "motion.npz", None, world.head, mine)
    played_anyway = load_motion(own, tmp_path / "motion.npz", None, world.head, mine, across_editions=True)
    assert torch.equal(played_anyway.expr, theirs.expr)
    assert torch.equal(load_motion(own, tmp_path / "motion.npz", None, world.head).expr, theirs.expr)


def test_the_same_persons_motion_is_not_moved(world: World) -> None:
    anna = world.anna
    own = anna.avatar.params.select([0])
    motion = load_motion(own, anna.capture, "EMO-1", world.head)
    tracked = CaptureStore(anna.capture).params.select(slice(SEQUENCES["EXP-2-eyes"], None))
    assert torch.equal(motion.translation, tracked.translation)
    assert load_motion(own, None, None, world.head) is own


def test_wrong_motions_are_refused(world: World, tmp_path: Path) -> None:
    anna = world.anna
    own = anna.avatar.params
    save_flame_param(tmp_path / "empty.npz", own.select(slice(0, 0)))
    cases: list[tuple[Path | None, str | None, str]] = [
        (anna.capture, "EXP-9", r"anna\.h5: 0 sequences are called EXP-9; it has EXP-2-eyes, EMO-1-shout"),
        (anna.folder, "EXP-2", "only capture stores have sequences"),
        (None, "EXP-2", "only capture stores have sequences"),
        (tmp_path / "nobody.npz", None, r"nobody\.npz: no such file"),
        (tmp_path / "nobody.h5", None, r"nobody\.h5: no such capture store"),
        (tmp_path, None, re.escape(str(tmp_path)) + ": is a folder without flame_param.npz; a motion is"),
        (tmp_path / "nobody", None, "nobody: no such folder; a motion is"),
        (
            anna.folder / "point_cloud.ply",
            None,
            r"ply: is a file of another kind; .* another tracker's \.npz",
        ),
        (tmp_path / "empty.npz", None, r"empty\.npz: has no timestep"),
    ]
    for source, sequence, message in cases:
        with pytest.raises(UserError, match=message):
            load_motion(own, source, sequence, world.head)


def test_short_motions_are_played_to_and_fro(world: World) -> None:
    anna = world.anna
    params = anna.avatar.params.select([0, 1, 2])
    long = played(params, 9)
    rows = [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert torch.equal(long.expr, params.expr[rows])
    assert torch.equal(played(params, 2).expr, params.expr[:2])
    assert long.shape is params.shape  # so that the head folds the identity once
    assert played(params.select(1), 7).timesteps == 1

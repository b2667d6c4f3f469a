"""Which frames are measured, and with whose geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluation.people import HELD_OUT, SEQUENCES, SERIALS, World, default_splits
from osgap.capture.store import CaptureStore
from osgap.evaluation.splits import (
    NOVEL_VIEW,
    SELF_REENACTMENT,
    SPLITS,
    cross_motion,
    frame_name,
    frames_digest,
    held_out_camera,
    held_out_frames,
    most_different,
    motion,
    select,
)
from osgap.head.editions import Edition
from osgap.prior.photo import load_photo
from osgap.report.person import PersonFiles
from osgap.runtime.errors import UserError
from osgap.splat.avatar import Avatar


def _rows(frames: np.ndarray) -> set[tuple[int, int]]:
    return {(int(t), int(c)) for t, c in frames}


def test_held_out_means_never_trained_on(anna: PersonFiles) -> None:
    store = CaptureStore(anna.capture)
    train = _rows(store.split("train"))
    novel, held_out = (_rows(select(store, split)) for split in SPLITS)
    assert novel == {(t, HELD_OUT) for t in range(SEQUENCES["EXP-2-eyes"])}
    assert len(held_out) == SEQUENCES["EMO-1-shout+laugh"] * len(SERIALS)
    assert not {c for _, c in novel} & {c for _, c in train}
    assert not {t for t, _ in held_out} & {t for t, _ in train}
    assert not {store.timesteps[t][0] for t, _ in held_out} & {store.timesteps[t][0] for t, _ in train | novel}


def test_the_one_shot_photograph_is_in_no_evaluation_split(anna: PersonFiles) -> None:
    store = CaptureStore(anna.capture)
    photo = load_photo(anna.capture, None)
    source = store.locate(photo.sequence, photo.timestep, photo.serial)
    assert source in _rows(store.split("train"))
    for split in SPLITS:
        assert source not in _rows(select(store, split))


def test_a_camera_in_both_splits_is_refused(world: World) -> None:
    splits = default_splits()
    splits["train"] = np.concatenate([splits["train"], [[0, HELD_OUT]]])
    path, _ = world.capture("leaky", 5, splits)
    with pytest.raises(UserError, match=rf"camera {SERIALS[HELD_OUT]} is in split 'val' and in split 'train'"):
        select(CaptureStore(path), NOVEL_VIEW)


def test_a_timestep_in_both_splits_is_refused(world: World) -> None:
    splits = default_splits()
    splits["train"] = np.concatenate([splits["train"], [[5, 0]]])
    path, _ = world.capture("leaky2", 5, splits)
    with pytest.raises(UserError, match=r"timestep EMO-1-shout\+laugh/1 is in split 'test'"):
        select(CaptureStore(path), SELF_REENACTMENT)


@pytest.mark.parametrize("split", SPLITS)
def test_an_empty_split_is_an_error(world: World, split: object) -> None:
    splits = default_splits() | {"val": np.zeros((0, 2), int), "test": np.zeros((0, 2), int)}
    path, _ = world.capture("poor", 5, splits)
    with pytest.raises(UserError, match="is empty"):
        select(CaptureStore(path), split)  # type: ignore[arg-type]


def test_held_out_frames_need_the_camera(world: World, anna: PersonFiles) -> None:
    frames = held_out_frames(CaptureStore(anna.capture))
    assert frames.tolist() == [[4, HELD_OUT], [5, HELD_OUT], [6, HELD_OUT]]
    splits = default_splits()
    splits["test"] = splits["test"][splits["test"][:, 1] != HELD_OUT]
    path, _ = world.capture("blind", 5, splits)
    with pytest.raises(UserError, match=rf"taken by camera {SERIALS[HELD_OUT]}; cameras in split 'test': {SERIALS[0]}"):
        held_out_frames(CaptureStore(path))
    splits["val"] = np.zeros((0, 2), int)
    path, _ = world.capture("blind2", 5, splits)
    with pytest.raises(UserError, match="no held-out camera"):
        held_out_camera(CaptureStore(path))


def test_nobody_drives_an_avatar_of_another_edition(world: World) -> None:
    own, other = Edition("0" * 16, "FLAME 2023"), Edition("1" * 16, "FLAME 2020")
    paths = {edition: world.capture(f"of {edition}", 5, edition=edition) for edition in (own, other, None)}
    stores = {edition: CaptureStore(path) for edition, (path, _) in paths.items()}
    assert [store.edition for store in stores.values()] == [own, other, None]
    avatar = paths[own][1]
    assert cross_motion(avatar, stores[own], stores[None], np.arange(2)).timesteps == 2
    with pytest.raises(UserError, match=r"of FLAME 2020.*the motion was tracked with FLAME 2020 .*with FLAME 2023"):
        cross_motion(avatar, stores[own], stores[other], np.arange(2))


def test_frames_have_names_that_a_reader_knows(anna: PersonFiles) -> None:
    store = CaptureStore(anna.capture)
    assert frame_name(store, np.array([5, 2])) == {
        "sequence": "EMO-1-shout+laugh",
        "timestep": 1,
        "camera": SERIALS[2],
    }
    frames = select(store, NOVEL_VIEW)
    assert frames_digest(store, frames) == frames_digest(store, frames.copy())
    assert frames_digest(store, frames) != frames_digest(store, frames[1:])


def test_whose_motion(anna: PersonFiles) -> None:
    store = CaptureStore(anna.capture)
    fit = Avatar.load(anna.avatars["fit"])
    refined = fit.params.replace(expr=fit.params.expr + 1, shape=fit.params.shape + 2)
    fit = Avatar(fit.attributes, fit.faces, refined)
    rows = np.array([3, 1])
    tracked = store.params.expr[[3, 1]]
    assert torch.equal(motion(fit, store, rows, NOVEL_VIEW, "fit").expr, tracked + 1)
    assert torch.equal(motion(fit, store, rows, SELF_REENACTMENT, "fit").expr, tracked)
    assert torch.equal(motion(fit, store, rows, NOVEL_VIEW, "one_shot").expr, tracked)
    for split in SPLITS:  # identity is the avatar's own
        assert torch.equal(motion(fit, store, rows, split, "prior").shape, refined.shape)
    with pytest.raises(UserError, match="the fit has 2 timesteps and the capture 7"):
        motion(Avatar(fit.attributes, fit.faces, refined.select([0, 1])), store, rows, NOVEL_VIEW, "fit")


def test_cross_motion_takes_pose_but_not_place(anna: PersonFiles, bert: PersonFiles) -> None:
    store, driver = CaptureStore(anna.capture), CaptureStore(bert.capture)
    avatar = Avatar.load(anna.avatars["one_shot"])
    everything = np.arange(len(driver.timesteps))
    driven = cross_motion(avatar, store, driver, everything)
    assert torch.equal(driven.shape, avatar.params.shape)
    assert torch.equal(driven.expr, driver.params.expr)
    assert torch.equal(driven.rotation, driver.params.rotation)
    own = store.params.translation.mean(dim=0)
    torch.testing.assert_close(driven.translation.mean(dim=0), own, atol=1e-6, rtol=0)
    torch.testing.assert_close(driven.translation.diff(dim=0), driver.params.translation.diff(dim=0), atol=1e-6, rtol=0)


def test_the_most_different_faces_are_found(anna: PersonFiles) -> None:
    store = CaptureStore(anna.capture)
    params = store.params.replace(expr=torch.zeros(7, 100), jaw_pose=torch.zeros(7, 3))
    params.expr[2, 0] = 3.0
    params.jaw_pose[5, 0] = 0.3
    frames = np.array([[t, 0] for t in range(7)])
    chosen = most_different(frames, params, 3)[:, 0].tolist()
    assert chosen == sorted(chosen)
    assert {2, 5} < set(chosen)
    assert len(most_different(frames, params, 50)) == 7

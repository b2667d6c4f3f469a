"""Broken capture stores, given to the stage that reads them first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import torch

from corpus.damage import HTML, Runs, copy_of, cut, dangling_link_in_place_of, delete, folder_in_place_of, write
from corpus.harness import Case, World, cases
from corpus.limits import bound_by_permissions, full_disk
from corpus.world import HEIGHT, OTHER, SERIALS, STORE, SUBJECT, TIMESTEPS, VERTICES, WIDTH, npz, picture, png

AGAIN = "delete it and run `osgap import` again"


def edited(change: Callable[[h5py.File], object]) -> Callable[[World], object]:
    def damage(world: World) -> None:
        with h5py.File(world / STORE, "r+") as file:
            change(file)

    return damage


def with_array(name: str, array: Any) -> Callable[[World], object]:
    """Replace (None: remove) a dataset."""

    def change(file: h5py.File) -> None:
        del file[name]
        if array is not None:
            file[name] = array

    return edited(change)


def with_value(name: str, index: Any, value: Any) -> Callable[[World], object]:
    def change(file: h5py.File) -> None:
        file[name][index] = value

    return edited(change)


def with_attribute(name: str, value: Any) -> Callable[[World], object]:
    return edited(lambda file: file.attrs.__setitem__(name, value))


def with_bytes(kind: str, content: bytes) -> Callable[[World], object]:
    """Overwrite the first image or mask (what is shorter is filled up with zeros)."""

    def change(file: h5py.File) -> None:
        offset, size = file[f"frames/{kind}"][0, 0]
        assert len(content) <= size
        file["frames/data"][offset : offset + size] = np.frombuffer(content.ljust(size, b"\0"), np.uint8)

    return edited(change)


def zeroed_tail(world: World) -> None:
    """As a copy that was interrupted on a file system that allocates ahead."""
    data = (world / STORE).read_bytes()
    (world / STORE).write_bytes(data[: len(data) // 3].ljust(len(data), b"\0"))


BROKEN = {
    "missing": Case(delete(STORE), STORE, "no such file; run"),
    "empty": Case(write(STORE, b""), STORE, f"not a capture store|truncated.*{AGAIN}"),
    "truncated in the middle": Case(cut(STORE), STORE, f"truncated; {AGAIN}"),
    "truncated at the end": Case(cut(STORE, 0.999), STORE, f"truncated; {AGAIN}"),
    "only zeros after a third": Case(zeroed_tail, STORE, AGAIN),
    "login page": Case(write(STORE, HTML), STORE, f"not a capture store.*{AGAIN}"),
    "npz": Case(write(STORE, npz(a=np.zeros(3))), STORE, f"not a capture store.*{AGAIN}"),
    "folder": Case(folder_in_place_of(STORE), STORE, "not a capture store|is a folder"),
    "dangling link": Case(dangling_link_in_place_of(STORE), STORE, "no such"),
    "HDF5 of something else": Case(
        lambda world: [item.clear() for item in [h5py.File(world / STORE, "w").attrs]], STORE,
        "an HDF5 file, but not a capture store.*check the path",
    ),
    "newer version": Case(with_attribute("version", 99), STORE, "a capture store of version 99.*update osgap"),
    "version is a text": Case(with_attribute("version", "one"), STORE, "version 'one'|not a capture store"),
    "without masks": Case(with_array("frames/masks", None), STORE, f"incomplete.*masks.*{AGAIN}"),
    "without cameras": Case(edited(lambda file: file.pop("cameras")), STORE, f"incomplete.*{AGAIN}"),
    "another subject's": Case(copy_of(f"results/captures/{OTHER}.h5", STORE), STORE, "holds subject 017, but 030"),
    "nothing to train on": Case(with_array("split/train", np.zeros((0, 2), np.int64)), STORE, "no training frames"),
    "split of a timestep that is not there": Case(with_value("split/train", (0, 0), 99), STORE, AGAIN),
    "split of a camera that is not there": Case(with_value("split/val", (0, 1), 99), STORE, AGAIN),
    "one FLAME row too few": Case(
        with_array("flame/expr", np.zeros((TIMESTEPS - 1, 100), np.float32)), STORE, AGAIN
    ),
    "FLAME parameters of another width": Case(
        with_array("flame/eyes_pose", np.zeros((TIMESTEPS, 3), np.float32)), STORE, AGAIN
    ),
    "FLAME parameters are not finite": Case(with_value("flame/rotation", (1, 0), np.nan), STORE, AGAIN),
    "static offset of another head": Case(
        with_array("flame/static_offset", np.zeros((VERTICES + 5, 3), np.float32)), STORE, "53.*48|static_offset"
    ),
    "camera without a pose": Case(
        with_array("cameras/world_to_camera", np.zeros((len(SERIALS) - 1, 4, 4))), STORE, AGAIN
    ),
    "pose is not finite": Case(with_value("cameras/world_to_camera", (0, 0, 0), np.nan), STORE, AGAIN),
    "frame beyond the end": Case(with_value("frames/images", (0, 0), (10**9, 10)), STORE, AGAIN),
    "image overwritten": Case(with_bytes("images", b"damaged"), STORE, "image of timestep 0, camera 222200036"),
    "image of another size": Case(
        with_bytes("images", png(picture(0, WIDTH // 2, HEIGHT // 2))), STORE, "image of timestep 0, camera 222200036"
    ),
}  # fmt: skip


CHECKPOINT = f"results/checkpoints/fit/{SUBJECT}/latest.pt"


CHECKPOINTS = {
    "checkpoint is empty": Case(write(CHECKPOINT, b""), CHECKPOINT, "delete it"),
    "checkpoint is no zip": Case(write(CHECKPOINT, HTML), CHECKPOINT, "delete it"),
    "checkpoint is a tensor": Case(
        lambda world: torch.save(torch.zeros(3), world / CHECKPOINT),
        CHECKPOINT,
        "delete it",
    ),
    "checkpoint runs a command": Case(
        lambda world: torch.save({"key": "x", "state": Runs(world / "ran")}, world / CHECKPOINT),
        CHECKPOINT,
        "delete",
    ),
}


def test_control(tracked: World) -> None:
    tracked.accepts("fit", SUBJECT)
    assert (tracked / f"results/avatars/{SUBJECT}/fit.json").is_file()


def test_control_of_edited_stores(tracked: World) -> None:
    edited(lambda file: file.attrs.__setitem__("note", "opened and closed"))(tracked)
    tracked.accepts("fit", SUBJECT)


@cases(BROKEN)
def test_broken(tracked: World, case: Case) -> None:
    tracked.refuses_case(case, "fit", SUBJECT)


def test_unreadable(tracked: World) -> None:
    (tracked / STORE).chmod(0)
    with bound_by_permissions():
        tracked.refuses("fit", SUBJECT, file=STORE, finding="(cannot be read|Permission denied).*check its permissions")


def test_full_disk(tracked: World) -> None:
    """The first checkpoint does not fit."""
    with full_disk(4000):
        tracked.refuses("fit", SUBJECT, file="results/checkpoints/fit/030/latest.pt", finding="File too large")


@cases(CHECKPOINTS)
def test_checkpoint(tracked: World, case: Case) -> None:
    """What an earlier run has left is damaged."""
    (tracked / CHECKPOINT).parent.mkdir(parents=True)
    tracked.refuses_case(case, "fit", SUBJECT)


def test_traceback_on_request(tracked: World) -> None:
    cut(STORE)(tracked)
    tracked.refuses_aloud("fit", SUBJECT)

"""Broken head models: pickle, masks, template."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from corpus.damage import HTML, copy_of, cut, dangling_link_in_place_of, delete, folder_in_place_of, write
from corpus.harness import Case, World, cases
from corpus.limits import bound_by_permissions
from corpus.world import SUBJECT, VERTICES, head_model, npz

MODEL, MASKS, TEMPLATE = "head/head.pkl", "head/masks.pkl", "head/head.obj"


def model_with(**changes: Any) -> Callable[[World], object]:
    """Change (None: remove) keys of the model."""
    content = {name: value for name, value in {**head_model(), **changes}.items() if value is not None}
    return write(MODEL, pickle.dumps(content, protocol=2))


def with_number(key: str, index: Any, value: float) -> Callable[[World], object]:
    array = head_model()[key].copy()
    array[index] = value
    return model_with(**{key: array})


def masks_with(**regions: Any) -> Callable[[World], object]:
    return write(MASKS, pickle.dumps(regions, protocol=2))


class _Runs:
    """Unpickling it calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def runs(path: str, function: Callable[..., object], *arguments: object) -> Callable[[World], object]:
    """A pickle that calls a function with arguments, in which `MARK` stands for the file `ran` in the world."""

    def damage(world: World) -> None:
        told = [str(item).replace("MARK", str(world / "ran")) for item in arguments]
        content = head_model() | {"payload": _Runs(function, *told)}
        (world / path).write_bytes(pickle.dumps(content, protocol=2))

    return damage


def evaluates(world: World) -> None:
    """The call is hidden in an array's state, and written by hand in protocol 0."""
    (world / MODEL).write_bytes(
        b"(dp0\nS'v_template'\np1\nc__builtin__\neval\np2\n" + f'(S\'open("{world / "ran"}", "w")\'\ntRp3\ns.'.encode()
    )


def edit_template(change: Callable[[list[str]], list[str]]) -> Callable[[World], object]:
    def damage(world: World) -> None:
        lines = (world / TEMPLATE).read_text().splitlines()
        (world / TEMPLATE).write_text("\n".join(change(lines)) + "\n")

    return damage


def quads(lines: list[str]) -> list[str]:
    return [f"{line} 1/1" if line.startswith("f") else line for line in lines]


def without_uvs(lines: list[str]) -> list[str]:
    return [line.replace("/", "//") if line.startswith("f") else line for line in lines if not line.startswith("vt")]


def other_corners(lines: list[str]) -> list[str]:
    """Faces turned by a corner, as another exporter writes them."""
    turned = []
    for line in lines:
        kind, *words = line.split()
        turned.append(" ".join([kind, *words[1:], words[0]]) if kind == "f" else line)
    return turned


def uv_not_finite(lines: list[str]) -> list[str]:
    first = next(i for i, line in enumerate(lines) if line.startswith("vt"))
    return [*lines[:first], "vt nan 0.5", *lines[first + 1 :]]


BROKEN = {
    "model is missing": Case(delete(MODEL), MODEL, "no such file"),
    "model is empty": Case(write(MODEL, b""), MODEL, "not a readable pickle"),
    "model is truncated": Case(cut(MODEL), MODEL, "not a readable pickle.*truncated"),
    "model is a login page": Case(write(MODEL, HTML), MODEL, "not a readable pickle.*download page"),
    "model is random bytes": Case(write(MODEL, bytes(range(256)) * 9), MODEL, "not a readable pickle"),
    "model is an npz": Case(write(MODEL, npz(**head_model())), MODEL, "not a readable pickle"),
    "model is a list": Case(write(MODEL, pickle.dumps([1, 2], protocol=2)), MODEL, "contains a list"),
    "model is a folder": Case(folder_in_place_of(MODEL), MODEL, "no such file|folder"),
    "model is a dangling link": Case(dangling_link_in_place_of(MODEL), MODEL, "no such file"),
    "model is the masks": Case(copy_of(MASKS, MODEL), MODEL, "lacks v_template.*found face"),
    "model lacks a key": Case(model_with(posedirs=None), MODEL, "lacks posedirs"),
    "model has 10 identity directions": Case(
        model_with(shapedirs=np.zeros((VERTICES, 3, 10))), MODEL, r"shapedirs has shape \(48, 3, 10\), expected"
    ),
    "model has a flat template": Case(
        model_with(v_template=np.zeros(3 * VERTICES)), MODEL, r"v_template has shape \(144,\)"
    ),
    "model has no vertices": Case(model_with(v_template=np.zeros((0, 3))), MODEL, "v_template has shape"),
    "model has NaN": Case(with_number("v_template", (5, 1), np.nan), MODEL, r"v_template\[5, 1\] is not a finite"),
    "model has infinity": Case(with_number("posedirs", (0, 0, 0), np.inf), MODEL, r"posedirs\[0, 0, 0\] is not a fin"),
    "model has complex numbers": Case(
        model_with(weights=np.zeros((VERTICES, 5), complex)), MODEL, "weights is not an array of numbers"
    ),
    "model has texts": Case(model_with(v_template=np.full((VERTICES, 3), "0.1")), MODEL, "v_template is not an array"),
    "model has objects": Case(
        model_with(weights=np.full((VERTICES, 5), None)), MODEL, "weights is not an array of numbers"
    ),
    "model refers to a vertex that it lacks": Case(with_number("f", (3, 0), 99), MODEL, "f refers to vertex 99"),
    "model's joints are no tree": Case(
        model_with(kintree_table=np.array([[2**32 - 1, 2, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32)), MODEL,
        "kintree_table gives the parents",
    ),
    "model calls a shell": Case(
        runs(MODEL, os.system, "touch MARK"), MODEL, r"refused, because it would run posix\.system"
    ),
    "model opens a file": Case(runs(MODEL, open, "MARK", "w"), MODEL, r"refused, because it would run .*open"),
    "model evaluates a text": Case(evaluates, MODEL, r"refused, because it would run __builtin__\.eval"),
    "masks call a shell": Case(
        runs(MASKS, os.system, "touch MARK"), MASKS, r"refused, because it would run posix\.system"
    ),
    "masks are missing": Case(delete(MASKS), MASKS, "no such file"),
    "masks are truncated": Case(cut(MASKS), MASKS, "not a readable pickle"),
    "masks are of FLAME": Case(masks_with(face=np.array([3, 3931])), MASKS, "region face contains vertex 3931"),
    "masks are flags": Case(masks_with(face=np.zeros((2, 3))), MASKS, r"region face is float64 of shape \(2, 3\)"),
    "masks have negative ids": Case(masks_with(face=np.array([-1])), MASKS, "region face contains vertex -1"),
    "masks hold a text": Case(masks_with(face="nose"), MASKS, "face is not an array of numbers"),
    "template is missing": Case(delete(TEMPLATE), TEMPLATE, "no such file"),
    "template is empty": Case(write(TEMPLATE, b""), TEMPLATE, "has 0 vertices|faces are absent"),
    "template is a login page": Case(write(TEMPLATE, HTML), TEMPLATE, "faces are absent"),
    "template is truncated": Case(cut(TEMPLATE, 0.9), TEMPLATE, "line .* is not understood|has .* faces"),
    "template lacks a vertex": Case(edit_template(lambda lines: lines[1:]), TEMPLATE, "has 47 v lines|47 vertices"),
    "template has quads": Case(edit_template(quads), TEMPLATE, "line .*a face with 4 corners"),
    "template has no UVs": Case(edit_template(without_uvs), TEMPLATE, "line .*a face without UVs"),
    "template has a UV that is not finite": Case(edit_template(uv_not_finite), TEMPLATE, "vt 1 is not finite"),
    "template counts from 0": Case(
        edit_template(lambda lines: [*lines, "f 0/0 1/1 2/2"]), TEMPLATE, "indices start at 1"
    ),
    "template's faces are turned": Case(edit_template(other_corners), TEMPLATE, "70 of 70 faces differ"),
    "template is a folder": Case(folder_in_place_of(TEMPLATE), TEMPLATE, "no such file|folder"),
    "template and capture are of different heads": Case(
        lambda world: edit_template(lambda lines: [*lines, "v 0 0 0"])(world), TEMPLATE, "has 49 vertices, but .* 48"
    ),
}  # fmt: skip


def test_control(tracked: World) -> None:
    tracked.accepts("fit", SUBJECT)
    assert (tracked / f"results/avatars/{SUBJECT}/point_cloud.ply").is_file()


def test_control_line_ends_and_comments_of_another_system(tracked: World) -> None:
    text = (tracked / TEMPLATE).read_text()
    (tracked / TEMPLATE).write_bytes(("# made elsewhere\nmtllib x.mtl\n" + text).replace("\n", "\r\n").encode())
    tracked.accepts("fit", SUBJECT)


@cases(BROKEN)
def test_broken(tracked: World, case: Case) -> None:
    tracked.refuses_case(case, "fit", SUBJECT)


@pytest.mark.parametrize("path", [MODEL, MASKS, TEMPLATE])
def test_unreadable(tracked: World, path: str) -> None:
    (tracked / path).chmod(0)
    with bound_by_permissions():
        tracked.refuses("fit", SUBJECT, file=path, finding="(cannot be read|Permission denied).*check its permissions")


def test_payload_in_a_process_of_its_own(tracked: World) -> None:
    BROKEN["model calls a shell"].damage(tracked)
    tracked.refuses("fit", SUBJECT, file=MODEL, finding="refused", run=tracked.run_apart)
    assert not (tracked / "ran").exists()


def test_traceback_on_request(tracked: World) -> None:
    BROKEN["model is truncated"].damage(tracked)
    tracked.refuses_aloud("fit", SUBJECT)

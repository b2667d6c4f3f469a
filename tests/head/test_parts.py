"""Part labels of triangles."""

from __future__ import annotations

import torch

from osgap.head.model import HeadModel
from osgap.head.parts import PARTS, closed_faces, face_parts


def labels(faces: list[list[int]], masks: dict[str, list[int]]) -> list[str]:
    ids = {name: torch.tensor(values, dtype=torch.int64) for name, values in masks.items()}
    return [PARTS[label] for label in face_parts(torch.tensor(faces), ids)]


def test_all_three_corners_must_be_in_one_region() -> None:
    faces = [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert labels(faces, {"nose": [0, 1, 2, 3]}) == ["nose", "nose", "other"]
    # Two regions of one part are not united before the test.
    assert labels(faces, {"left_ear": [0, 1], "right_ear": [2, 3, 4]}) == ["other", "other", "ear"]


def test_earlier_parts_win() -> None:
    everything = [0, 1, 2]
    masks = {"face": everything, "neck": everything, "lips": everything}
    assert labels([everything], masks) == ["lip"]
    del masks["lips"]
    assert labels([everything], masks) == ["neck"]


def test_hair_is_the_scalp_without_face_and_neck() -> None:
    faces = [[0, 1, 2], [3, 4, 5]]
    assert labels(faces, {"scalp": [0, 1, 2, 3, 4, 5], "face": [2], "neck": [9]}) == ["other", "hair"]


def test_missing_regions_are_no_error(small_head: HeadModel) -> None:
    result = face_parts(small_head.faces, small_head.masks)
    assert result.shape == (len(small_head.faces),)
    assert {PARTS[label] for label in result} == {"nose", "hair", "face", "other"}
    assert labels([[0, 1, 2]], {}) == ["other"]


def test_the_rim_encloses_nothing() -> None:
    faces = torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4]])
    boundary = torch.tensor([1, 2, 3])
    assert closed_faces(faces, {"boundary": boundary}).tolist() == [[0, 1, 2], [2, 3, 4]]
    assert torch.equal(closed_faces(faces, {}), faces)

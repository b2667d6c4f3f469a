"""Which timesteps a text names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osgap.interop.timesteps import parse_frames
from osgap.runtime.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", [0]),
        (" 7 ", [7]),
        ("0:3", [0, 1, 2]),
        ("2:12:5", [2, 7]),
        ("11:12", [11]),
        ("all", list(range(12))),
        ("0:12:100", [0]),
    ],
)
def test_frames(text: str, expected: list[int]) -> None:
    assert parse_frames(text, 12, "flame_param.npz") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12", r"there is no timestep 12; flame_param\.npz has 12, 0 to 11"),
        ("5:13", r"there is no timestep 12"),
        ("0:99999999999999", r"there is no timestep 99999999999998"),
        ("3:3", r"'3:3' are none at all; the end is not included"),
        ("5:2", r"none at all"),
        ("0:5:0", r"the step is 0"),
        ("-1", r"'-1' are not understood"),
        ("0:-1", r"not understood"),
        ("1,2", r"not understood"),
        ("1.5", r"not understood"),
        ("٣", r"not understood"),
        ("²", r"not understood"),
        ("", r"not understood"),
        (":", r"not understood"),
        ("a", r"not understood; give '7', '0:10'"),
    ],
)
def test_frames_that_are_not_there(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_frames(text, 12, "flame_param.npz")


@pytest.mark.parametrize("text", ["all", "0", "0:3"])
def test_nobody_moves(text: str) -> None:
    with pytest.raises(UserError, match=r"flame_param\.npz: has no timestep"):
        parse_frames(text, 0, "flame_param.npz")


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 9))
def test_ranges_are_pythons(first: int, end: int, step: int) -> None:
    expected = list(range(60))[first:end:step]
    if expected:
        assert parse_frames(f"{first}:{end}:{step}", 60, "x") == expected

"""The harness itself notices what it says that it notices."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from corpus.harness import Outcome, World

GOOD = "osgap: {world}/head/head.pkl: damaged. Fetch it again.\n"


def refuses(world: World, err: str, code: int = 2, act: Callable[[], object] = lambda: None) -> None:
    def run(*_: str) -> Outcome:
        act()
        return Outcome(code, "", err.format(world=world.folder))

    world.refuses("fit", file="head/head.pkl", finding="damaged", run=run)


def test_a_clear_message_is_taken(world: World) -> None:
    refuses(world, GOOD)


@pytest.mark.parametrize(
    ("code", "err"),
    [
        (0, GOOD),
        (1, GOOD),
        (2, ""),
        (2, "Traceback (most recent call last):\n" + GOOD),
        (2, "Some library: cannot read this\n" + GOOD),
        (2, GOOD + GOOD),
        (2, "osgap: {world}/head/masks.pkl: damaged. Fetch it again.\n"),
        (2, "osgap: {world}/head/head.pkl: of no use. Fetch it again.\n"),
        (2, "osgap: {world}/head/head.pkl: damaged.\n"),
        (2, "osgap: {world}/head/head.pkl: damaged." + " Fetch it again." * 100),
    ],
)
def test_what_is_not_clear_is_noticed(world: World, code: int, err: str) -> None:
    with pytest.raises(AssertionError):
        refuses(world, err, code)


def test_traces_are_noticed(world: World) -> None:
    for act in (
        lambda: (world / ".tmp").write_text("left"),
        lambda: (world / "head/masks.pkl").write_text("changed"),
        lambda: (world / "head/head.obj").unlink(),
    ):
        with pytest.raises(AssertionError):
            refuses(world, GOOD, act=act)

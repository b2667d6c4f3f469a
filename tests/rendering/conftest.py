"""Two people, made anew for each test (which takes milliseconds)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rendering.people import World, make_world

if TYPE_CHECKING:
    from conftest import SmallHead


@pytest.fixture
def world(small_files: SmallHead, tmp_path: Path) -> World:
    folder = tmp_path / "world"
    folder.mkdir()
    return make_world(folder, small_files.write(folder))

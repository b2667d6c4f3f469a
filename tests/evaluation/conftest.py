"""Two synthetic people with the avatars of all methods, made once per test process."""

from __future__ import annotations

import pytest

from evaluation.people import World, make_world
from osgap.report.person import PersonFiles


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="session")
def anna(world: World) -> PersonFiles:
    return world.person("anna", 1)


@pytest.fixture(scope="session")
def bert(world: World) -> PersonFiles:
    return world.person("bert", 2)

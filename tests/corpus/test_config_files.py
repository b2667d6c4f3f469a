"""Broken config files; what a config may say is tested with the config itself."""

from __future__ import annotations

import pytest

from corpus.damage import HTML, write
from corpus.harness import Case, World, cases
from corpus.limits import bound_by_permissions
from corpus.world import STORE, SUBJECT, picture, png

CONFIG = "config.yaml"


BROKEN = {
    "missing": Case(lambda world: None, CONFIG, "no such config file; check the path"),
    "folder": Case(lambda world: (world / CONFIG).mkdir(), CONFIG, "directory|folder"),
    "cut": Case(write(CONFIG, "seed: 3\nfit: {uv_size: 8, iter"), CONFIG, "not valid YAML"),
    "login page": Case(
        write(CONFIG, HTML), CONFIG, "expected `key: value` lines at the top, found a str"
    ),
    "picture": Case(write(CONFIG, png(picture())), CONFIG, "not (valid YAML|a text)"),
    "not UTF-8": Case(write(CONFIG, "results: Müller".encode("latin-1")), CONFIG, "not (valid YAML|a text)"),
    "tabs": Case(write(CONFIG, "fit:\n\tuv_size: 8\n"), CONFIG, "not valid YAML"),
    "list": Case(
        write(CONFIG, "- seed\n- 3\n"), CONFIG, "expected `key: value` lines at the top, found a list"
    ),
    "unknown key": Case(write(CONFIG, "fit: {iteration: 8}\n"), CONFIG, "fit.iteration: unknown key; did you mean"),
    "text for a number": Case(write(CONFIG, "capture: {connections: many}\n"), CONFIG, 'connections: found "many"'),
    "value out of range": Case(write(CONFIG, "capture: {connections: 0}\n"), CONFIG, "capture.connections: found 0"),
    "runs a command": Case(
        write(CONFIG, "seed: !!python/object/apply:os.system ['touch ran']\n"), CONFIG, "not valid YAML"
    ),
}  # fmt: skip


def test_control(world: World) -> None:
    write(CONFIG, "seed: 3\n")(world)
    world.accepts("import", SUBJECT, "--config", str(world / CONFIG))
    assert (world / STORE).is_file()


@cases(BROKEN)
def test_broken(world: World, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    monkeypatch.chdir(world.folder)
    case.damage(world)
    world.refuses("import", SUBJECT, "--config", str(world / CONFIG), file=case.file, finding=case.finding)
    assert not (world / "ran").exists()


def test_unreadable(world: World) -> None:
    write(CONFIG, "seed: 3\n")(world)
    (world / CONFIG).chmod(0)
    with bound_by_permissions():
        world.refuses("import", SUBJECT, "--config", str(world / CONFIG), file=CONFIG, finding="Permission denied")

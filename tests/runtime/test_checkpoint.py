"""Checkpoints resume the computation that wrote them, once at a time."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from osgap.runtime.artifacts import write_json
from osgap.runtime.checkpoint import Checkpoints, codes_of
from osgap.runtime.code import digest_of
from osgap.runtime.errors import UserError
from osgap.runtime.folder_lock import Holder
from osgap.runtime.provenance import Key, Provenance
from osgap.runtime.upgrades import Upgrades, earlier_versions, using


def test_round_trip_and_clear(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "fit", Key("key")) as checkpoints:
        assert checkpoints.load() is None
        checkpoints.save({"step": 3, "weights": torch.arange(4.0), "nested": [{"a": torch.ones(2)}]})
        state = checkpoints.load()
        assert state is not None
        assert state["step"] == 3
        assert torch.equal(state["nested"][0]["a"], torch.ones(2))
        checkpoints.clear()
        assert checkpoints.load() is None


def test_another_computation_starts_anew(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, Key("one")) as checkpoints:
        checkpoints.save({"step": 3})
    with Checkpoints(tmp_path, Key("two")) as checkpoints:
        assert checkpoints.load() is None
    with Checkpoints(tmp_path, Key("one")) as checkpoints:
        assert checkpoints.load() == {"step": 3}


def test_other_code_starts_anew_unless_it_was_accepted(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, Key("one", code="old")) as checkpoints:
        checkpoints.save({"step": 3})
    assert codes_of(tmp_path) == ["old"]
    with Checkpoints(tmp_path, Key("one", code="new")) as checkpoints:
        assert checkpoints.load() is None
    with Checkpoints(tmp_path, Key("another", code="new", accepted=("old",))) as checkpoints:
        assert checkpoints.load() is None, "its config or inputs are others"
    with Checkpoints(tmp_path, Key("one", code="new", accepted=("older", "old"))) as checkpoints:
        assert checkpoints.load() == {"step": 3}
        assert checkpoints.codes == {"old", "new"}


def test_what_went_on_through_an_acceptance_is_lost_with_it(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, Key("one", code="old")) as checkpoints:
        checkpoints.save({"step": 3})
    with Checkpoints(tmp_path, Key("one", code="new", accepted=("old",))) as checkpoints:
        assert checkpoints.load() == {"step": 3}
        checkpoints.save({"step": 4})
    assert codes_of(tmp_path) == ["new", "old"]
    with Checkpoints(tmp_path, Key("one", code="new")) as checkpoints:
        assert checkpoints.load() is None, "three of its steps are the old code's"
    with Checkpoints(tmp_path, Key("one", code="newest", accepted=("new",))) as checkpoints:
        assert checkpoints.load() is None
    with Checkpoints(tmp_path, Key("one", code="newest", accepted=("new", "old"))) as checkpoints:
        assert checkpoints.load() == {"step": 4}


def test_a_damaged_checkpoint_names_no_code(tmp_path: Path) -> None:
    (tmp_path / "latest.pt").write_bytes(b"half a checkpoint")
    assert codes_of(tmp_path) == []
    assert codes_of(tmp_path / "absent") == []


def test_one_process_is_refused_a_second_time(tmp_path: Path) -> None:
    with (
        Checkpoints(tmp_path, Key("key")),
        pytest.raises(UserError, match="this process is running"),
        Checkpoints(tmp_path, Key("key")),
    ):
        pass


# other versions of packages ------------------------------------------------------------------------------
OLD, NEW = {"torch": "2.11.0", "numpy": "2.2", "osgap": "0.4"}, {"torch": "2.12.0", "numpy": "2.2", "osgap": "0.5"}


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder with a checkpoint of earlier versions."""
    with Checkpoints(tmp_path, Key("one", versions=OLD)) as checkpoints:
        checkpoints.save({"step": 3})
    return tmp_path


@pytest.mark.parametrize(
    ("mode", "state", "said"),
    [
        ("warn", {"step": 3}, "torch 2.11.0 -> 2.12.0), and gone on from (upgrades: warn)"),
        ("accept", {"step": 3}, None),
        ("rerun", None, "torch 2.11.0 -> 2.12.0); beginning anew (upgrades: rerun)"),
    ],
)
def test_what_is_done_after_an_upgrade(
    begun: Path, caplog: pytest.LogCaptureFixture, mode: Upgrades, state: object, said: str | None
) -> None:
    caplog.set_level(logging.INFO)
    with using(mode), Checkpoints(begun, Key("one", versions=NEW)) as checkpoints:
        assert checkpoints.load() == state
        assert checkpoints.versions == ([NEW] if state is None else [NEW, OLD])
    assert (said is None) == (not caplog.messages)
    assert said is None or said in caplog.messages[0]
    assert (mode == "warn") == any(record.levelname == "WARNING" for record in caplog.records)


def test_an_upgrade_stays_known_over_several_stops(begun: Path) -> None:
    with Checkpoints(begun, Key("one", versions=NEW)) as checkpoints:
        checkpoints.load()
        checkpoints.save({"step": 4})
    with using("rerun"), Checkpoints(begun, Key("one", versions=NEW)) as checkpoints:
        assert checkpoints.load() is None, "three of its steps are the old torch's"
    with Checkpoints(begun, Key("one", versions={**NEW, "torch": "2.13.0"})) as checkpoints:
        assert checkpoints.load() == {"step": 4}
        assert earlier_versions(checkpoints.versions, checkpoints.key.versions) == {"torch": ["2.11.0", "2.12.0"]}


def test_another_osgap_is_no_upgrade(begun: Path, caplog: pytest.LogCaptureFixture) -> None:
    with using("rerun"), Checkpoints(begun, Key("one", versions={**OLD, "osgap": "9"})) as checkpoints:
        assert checkpoints.load() == {"step": 3}
    assert not caplog.messages


# what is said --------------------------------------------------------------------------------------------
def said_of_step(folder: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.INFO)
    caplog.clear()
    with Checkpoints(folder, Key("one", versions=OLD)) as checkpoints:
        checkpoints.load()
        checkpoints.say_step(1500, 6000)
    return caplog.messages


def test_the_step_is_said_and_whose_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert said_of_step(tmp_path, caplog) == []
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with Checkpoints(tmp_path, Key("one", versions=OLD)) as checkpoints:
        checkpoints.save({"step": 1500})
    date = r"checkpoint of \d{4}-\d\d-\d\d \d\d:\d\d"
    (said,) = said_of_step(tmp_path, caplog)
    assert re.fullmatch(rf"going on from step 1,500 of 6,000 \({date}, by this Slurm job 17\)", said)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert said_of_step(tmp_path, caplog)[0].startswith("Slurm job 17, restart 2: going on from step 1,500 of 6,000 (")
    assert said_of_step(tmp_path / "empty", caplog) == [
        "Slurm job 17, restart 2: no checkpoint to go on from; beginning at step 1,500 of 6,000"
    ]
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert said_of_step(tmp_path, caplog)[0].endswith(", by Slurm job 17)")


# what another process has made meanwhile -----------------------------------------------------------------
def provenance(**changes: Any) -> Provenance:
    content: dict[str, Any] = {
        "stage": "fit", "subject": "101", "seed": 0, "config": {"iterations": 3}, "inputs": {"a": "b"},
        "code": {"osgap.fit": "0"}, "versions": OLD,
    }  # fmt: skip
    return Provenance(**{**content, **changes})


MADE = [
    ({}, True),
    ({"seed": 1}, False),
    ({"config": {"iterations": 4}}, False),
    ({"inputs": {"a": "c"}}, False),
    ({"code": {"osgap.fit": "1"}}, False),
    ({"versions": {**OLD, "osgap": "9"}}, True),
]


@pytest.mark.parametrize(("changes", "same"), MADE, ids=str)
def test_only_what_this_computation_makes_counts_as_made(tmp_path: Path, changes: dict[str, Any], same: bool) -> None:
    wanted, files = provenance(), [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        write_json(file, {}, provenance(**changes).as_dict())
    with using("rerun"), Checkpoints(tmp_path / "checkpoints", wanted.key) as checkpoints:
        assert not checkpoints.made_meanwhile(wanted, files), "nobody was waited for"
        checkpoints._lock.waited_for = Holder("one")
        assert checkpoints.made_meanwhile(wanted, files) == same
        assert not checkpoints.made_meanwhile(wanted, [*files, tmp_path / "absent.json"])
        for damaged in ("", "{", "[]", "{}"):
            files[1].write_text(damaged)
            assert not checkpoints.made_meanwhile(wanted, files)


def test_what_was_accepted_or_upgraded_counts_as_made() -> None:
    wanted = provenance()
    earlier = digest_of({"osgap.fit": "1"})
    resumed = provenance(resumed=(earlier,)).as_dict()
    assert not wanted.describes(resumed)
    assert provenance(accepted=(earlier,)).describes(resumed)
    for upgraded in (provenance(versions=NEW).as_dict(), wanted.resumed_from([], [NEW]).as_dict()):
        assert wanted.describes(upgraded)
        with using("rerun"):
            assert not wanted.describes(upgraded)
    assert not wanted.describes(None)

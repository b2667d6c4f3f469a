"""What a computation depends on is in its provenance, and what it does not depend on is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from osgap.runtime.acceptance import Acceptance, looking_through, write_acceptances
from osgap.runtime.code import code_digest
from osgap.runtime.provenance import Key, Provenance
from osgap.runtime.upgrades import current_versions

MODULE = "osgap.runtime.artifacts"


def test_key_depends_on_content_not_on_place(tmp_path: Path) -> None:
    keys = []
    for place in ("one", "two"):
        folder = tmp_path / place / "captures"
        folder.mkdir(parents=True)
        (folder / "a.h5").write_bytes(b"frames")
        keys.append(
            Provenance.collect("fit", MODULE, subject="a", config={"x": 1}, inputs=[folder / "a.h5"], seed=0).key
        )
    assert keys[0] == keys[1]
    (tmp_path / "two" / "captures" / "a.h5").write_bytes(b"others")
    changed = Provenance.collect(
        "fit", MODULE, subject="a", config={"x": 1}, inputs=[tmp_path / "two/captures/a.h5"], seed=0
    )
    assert changed.key != keys[0]
    assert str(tmp_path) not in str(changed.as_dict())


def test_inputs_of_the_same_name_keep_their_digests(tmp_path: Path) -> None:
    paths = [tmp_path / kind / "101" / "point_cloud.ply" for kind in ("avatars", "oneshot")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text(path.parts[-3])
    inputs = Provenance.collect("figure", MODULE, subject="101", config={}, inputs=paths, seed=0).inputs
    assert set(inputs) == {"avatars/101/point_cloud.ply", "oneshot/101/point_cloud.ply"}


def collect() -> Provenance:
    return Provenance.collect("fit", MODULE, subject="a", config={"x": 1}, inputs=[], seed=0)


def test_upgrades_keep_checkpoints_and_other_changes_do_not() -> None:
    provenance = collect()
    for versions in {"osgap": "99"}, {"numpy": "0"}:
        key = replace(provenance, versions={**provenance.versions, **versions}).key
        assert (key.computation, key.code) == (provenance.key.computation, provenance.key.code)
    for change in ({"seed": 1}, {"subject": "b"}, {"config": {"x": 2}}, {"inputs": {"a": "0"}}, {"stage": "bake"}):
        assert replace(provenance, **change).key.computation != provenance.key.computation, change
    edited = replace(provenance, code={**provenance.code, MODULE: "0"}).key
    assert edited.computation == provenance.key.computation
    assert edited.code != provenance.key.code


def test_acceptances_are_named_where_they_were_looked_through(tmp_path: Path) -> None:
    now = code_digest(MODULE)
    assert not {"accepted", "resumed"} & collect().as_dict().keys()
    accepted = {
        "fit": [Acceptance("old", now), Acceptance("older", now), Acceptance("other", "past")],
        "bake": [Acceptance("bakes", now)],
    }
    write_acceptances(tmp_path / "accepted.json", accepted)
    with looking_through(tmp_path / "accepted.json"):
        provenance = collect()
    assert provenance.as_dict()["accepted"] == ["old", "older"]
    assert provenance.key == Key(collect().key.computation, now, ("old", "older"), current_versions())
    assert not {"accepted", "resumed"} & collect().as_dict().keys(), "the `with` is over"
    resumed = provenance.resumed_from({now, "old"}).as_dict()
    assert resumed["resumed"] == ["old"]
    assert json.loads(json.dumps(resumed)) == resumed
    assert "resumed" not in provenance.resumed_from({now}).as_dict()


def test_an_upgrade_on_the_way_is_named() -> None:
    provenance = collect()
    assert (
        "upgraded"
        not in provenance.resumed_from([], [provenance.versions, {**provenance.versions, "osgap": "0"}]).as_dict()
    )
    earlier = {**provenance.versions, "numpy": "1.0"}
    del earlier["torch"]
    upgraded = provenance.resumed_from([], [provenance.versions, earlier, {**earlier, "spam": "3"}]).as_dict()
    assert upgraded["upgraded"] == {"numpy": ["1.0"], "spam": ["3"], "torch": ["(not installed)"]}
    assert upgraded["versions"] == current_versions()
    assert json.loads(json.dumps(upgraded)) == upgraded

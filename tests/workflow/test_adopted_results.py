"""What the reference code made takes the place of fitting and baking, and the rest of the workflow goes on from it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from osgap.runtime.artifacts import read_provenance
from osgap.splat.uv_maps import load_uv_gt

from .conftest import Checkout

pytestmark = pytest.mark.slow

INTEROP = "interop={avatars: 'theirs/{subject}/point_cloud/iteration_*', uv_gt: 'theirs/{subject}/gs_attrs_uv_*.npz'}"


def test_given_maps_and_avatars_are_not_made_again(checkout: Checkout) -> None:
    results, theirs = checkout.results, checkout.root / "theirs"
    (theirs / "101").mkdir(parents=True)
    with np.load(results / "uv_gt" / "101.npz") as maps:
        np.savez_compressed(theirs / "101" / "gs_attrs_uv_64X64_600000.npz", **maps)  # no provenance of ours
    shutil.copytree(results / "avatars" / "102", theirs / "102" / "point_cloud" / "iteration_600000")
    for name in ("avatars/101", "avatars/102", "uv_gt", "prior", "oneshot", "metrics", "tables", "figures", "videos"):
        shutil.rmtree(results / name)

    arguments = ("--config", INTEROP, "--")
    planned = checkout.planned(*arguments)
    assert (planned["adopt_maps"], planned["adopt_avatar"], planned["bake"]) == (1, 1, 1)
    assert "fit" not in planned, "the test person's fit is there already"
    checkout.snakemake(*arguments)

    assert not (results / "avatars" / "101").exists()
    adopted = results / "avatars" / "102"
    provenance = read_provenance(adopted / "point_cloud.ply")
    assert provenance is not None
    assert provenance["stage"] == "adopt-avatar"
    assert json.loads((adopted / "fit.json").read_text())["adopted"]["uv_size"] == 64
    with np.load(theirs / "101" / "gs_attrs_uv_64X64_600000.npz") as maps:
        color = maps["gs_features_uv"]
    assert np.array_equal(load_uv_gt(results / "uv_gt" / "101.npz")[..., 11:].numpy(), color)
    assert (results / "oneshot" / "201" / "point_cloud.ply").is_file()
    assert not checkout.planned(*arguments), "a second run finds nothing to do"


def test_a_template_that_nobody_has_stops_before_any_job(checkout: Checkout) -> None:
    done = checkout.snakemake("--dry-run", "--config", "interop={uv_gt: 'nowhere/{subject}.npz'}", check=False)
    assert done.returncode
    assert "interop.uv_gt: nobody has nowhere/{subject}.npz" in done.stdout

"""A finished run after an upgrade of a package, in each mode of the config's `upgrades`."""

from __future__ import annotations

import h5py
import pytest

from .conftest import Checkout

pytestmark = pytest.mark.slow

OTHER_VERSION = """
import importlib.metadata
version = importlib.metadata.version
importlib.metadata.version = lambda name: "0.1" if name == "h5py" else version(name)
"""
RERUN = ("--config", "upgrades=rerun")


def test_an_upgrade_reruns_what_it_is_asked_to(checkout: Checkout) -> None:
    (checkout.root / "sitecustomize.py").write_text(OTHER_VERSION)
    assert checkout.planned() == {}
    assert checkout.planned("--config", "upgrades=accept") == {}
    said = checkout.run("osgap.cli", "why", "--profile", "profiles/demo", "--configfile", "profiles/demo/demo.yaml",
                        "profiles/demo/reduced.yaml").stdout  # fmt: skip
    assert "Nothing would run" in said
    assert f"outputs were made by other versions: h5py {h5py.__version__} -> 0.1 (upgrades: warn)" in said
    everything = checkout.planned(*RERUN)
    assert {"synthetic_head", "download", "import_tracking", "fit", "bake", "train", "oneshot", "tables"} <= {
        *everything
    }
    checkout.snakemake(*RERUN, "--until", "synthetic_head")
    for arguments in (RERUN, ()):
        planned = checkout.planned(*arguments)
        assert "synthetic_head" not in planned, "made by the present versions"
        assert "synthetic_person" in planned, "of an older head"

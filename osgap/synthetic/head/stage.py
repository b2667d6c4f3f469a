"""The stage `synthetic-head`: the head model of the synthetic people, in FLAME's three files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from osgap.runtime.provenance import Provenance
from osgap.synthetic.head.assets import write_assets


@dataclass(frozen=True)
class HeadOutputs:
    """Where the head model goes."""

    folder: Path
    """Folder of the three files, named as FLAME's."""


def run(outputs: HeadOutputs) -> None:
    """Write the synthetic head in FLAME's three files."""
    # A sculpture made by formulas: no config, no seed.
    provenance = Provenance.collect("synthetic-head", __name__, subject=None, config={}, inputs=[], seed=0)
    write_assets(outputs.folder, provenance.as_dict())

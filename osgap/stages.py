"""The stages of the DAG: where their code is, and which sections of the config they use.

The code of a stage is its module and every `osgap` module that it imports, directly or not; see
`osgap.provenance.code_digests`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One kind of job."""

    module: str
    """Dotted name of the module whose `run` does the work."""
    sections: tuple[str, ...] = ()
    """Sections of the config, or single keys of them (`oneshot.protocols`), that change the result."""
    entry: bool = False
    """Whether the subject's own entry in the config (`subjects.entries`) changes the result."""


STAGES: dict[str, Stage] = {
    "standin-head": Stage("osgap.standin.head", ()),
    "standin-person": Stage("osgap.standin.stage", ("standin",)),
    "download": Stage("osgap.capture.download", ("capture",), entry=True),
    "import": Stage("osgap.capture.importer", ("capture",), entry=True),
    "fit": Stage("osgap.fit.stage", ("fit",)),
    "adopt-avatar": Stage("osgap.exchange.adopt", ("exchange", "fit")),
    "adopt-maps": Stage("osgap.exchange.adopt", ("exchange", "fit")),
    "bake": Stage("osgap.fit.bake", ()),
    "train": Stage("osgap.prior.train", ("prior",)),
    "oneshot": Stage("osgap.prior.oneshot", ("oneshot",), entry=True),
    "evaluate": Stage("osgap.evaluation.stage", ("evaluation",), entry=True),
    "tables": Stage("osgap.evaluation.tables", ("oneshot.protocols",)),
    "figure": Stage("osgap.evaluation.figures", ("report", "oneshot.protocols"), entry=True),
    "video": Stage("osgap.evaluation.videos", ("report", "oneshot.protocols"), entry=True),
}

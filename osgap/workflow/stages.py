"""The stages of the DAG: where their code is, and which sections of the config they use.

The code of a stage is its module and every `osgap` module that it imports, directly or not; see
`osgap.runtime.provenance.code_digests`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One kind of job."""

    module: str
    """Dotted name of the module whose `run` does the work."""
    sections: tuple[str, ...] = ()
    """Sections of the config, or single keys of them (`oneshot.supervision`), that change the result."""
    entry: bool = False
    """Whether the subject's own entry in the config (`subjects.entries`) changes the result."""


STAGES: dict[str, Stage] = {
    "synthetic-head": Stage("osgap.synthetic.head.stage", ()),
    "synthetic-person": Stage("osgap.synthetic.captures.stage", ("synthetic",)),
    "download": Stage("osgap.capture.download.stage", ("capture",), entry=True),
    "import": Stage("osgap.capture.tracking.stage", ("capture",), entry=True),
    "fit": Stage("osgap.fit.stage", ("fit",)),
    "adopt-avatar": Stage("osgap.interop.adopt_avatar.stage", ("interop", "fit")),
    "adopt-maps": Stage("osgap.interop.adopt_maps.stage", ("interop", "fit")),
    "bake": Stage("osgap.bake.stage", ()),
    "train": Stage("osgap.prior.training.stage", ("prior",)),
    "oneshot": Stage("osgap.prior.personalisation.stage", ("oneshot",), entry=True),
    "evaluate": Stage("osgap.evaluation.stage", ("evaluation",), entry=True),
    "tables": Stage("osgap.report.tables.stage", ("oneshot.supervision",)),
    "figure": Stage("osgap.report.figures.stage", ("report", "oneshot.supervision"), entry=True),
    "video": Stage("osgap.report.videos.stage", ("report", "oneshot.supervision"), entry=True),
}

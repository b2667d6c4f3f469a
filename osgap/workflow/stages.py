"""The stages of the DAG: where their code is, and which parts of the config they use.

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
    """Sections of the config, or single keys of them (`oneshot.supervision`), that the job reads."""
    entry: tuple[str, ...] = ()
    """Keys of the subject's own entry in the config (`subjects.entries`) that the job reads."""


STAGES: dict[str, Stage] = {
    "synthetic-head": Stage("osgap.synthetic.head.stage"),
    "synthetic-person": Stage(
        "osgap.synthetic.captures.stage", ("flame", "synthetic", "capture.sequences"), entry=("sequences",)
    ),
    "download": Stage(
        "osgap.capture.download.stage", ("capture.serials", "capture.connections"), entry=("participant",)
    ),
    "import": Stage(
        "osgap.capture.tracking.stage", ("flame", "capture"), entry=("participant", "sequences", "tracking")
    ),
    "fit": Stage("osgap.fit.stage", ("flame", "fit")),
    "adopt-avatar": Stage("osgap.interop.adopt_avatar.stage", ("flame", "interop", "fit")),
    "adopt-maps": Stage("osgap.interop.adopt_maps.stage", ("flame", "interop", "fit")),
    "bake": Stage("osgap.bake.stage", ("flame",)),
    "train": Stage("osgap.prior.training.stage", ("flame", "prior")),
    "oneshot": Stage("osgap.prior.personalisation.stage", ("flame", "oneshot"), entry=("source",)),
    "evaluate": Stage("osgap.evaluation.stage", ("flame", "evaluation"), entry=("source",)),
    "tables": Stage("osgap.report.tables.stage", ("oneshot.supervision",)),
    "figure": Stage("osgap.report.figures.stage", ("flame", "report", "oneshot.supervision"), entry=("source",)),
    "video": Stage("osgap.report.videos.stage", ("flame", "report", "oneshot.supervision"), entry=("source",)),
}

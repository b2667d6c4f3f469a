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
    """Sections of the config, or single keys of them (`oneshot.supervision`), that the job's result depends on.
    `capture.sequences` is the subject's own where their entry names some."""
    entry: tuple[str, ...] = ()
    """Keys of the subject's own entry in the config (`subjects.entries`) that the job reads."""


_VIDEO = (
    "report.video_scale",
    "report.video_seconds",
    "report.video_fps",
    "report.video_yaw_degrees",
    "report.video_crf",
    "oneshot.supervision",
)

STAGES: dict[str, Stage] = {
    "synthetic-head": Stage("osgap.synthetic.head.stage"),
    "synthetic-person": Stage("osgap.synthetic.captures.stage", ("synthetic", "capture.sequences")),
    "download": Stage("osgap.capture.download.stage", ("capture.serials", "capture.sequences"), entry=("participant",)),
    "import": Stage(
        "osgap.capture.importing.stage",
        (
            "capture.download",
            "capture.frames",
            "capture.width",
            "capture.held_out_camera",
            "capture.check",
            "capture.corrections",
            "capture.drop_outliers",
        ),
        entry=("participant", "corrections"),
    ),
    "fit": Stage("osgap.fit.stage", ("fit",)),
    "adopt-avatar": Stage("osgap.interop.adopt_avatar.stage", ("interop", "fit.uv_size")),
    "adopt-maps": Stage("osgap.interop.adopt_maps.stage", ("interop", "fit.uv_size")),
    "bake": Stage("osgap.bake.stage"),
    "train": Stage("osgap.prior.training.stage", ("prior",)),
    "calibrate": Stage("osgap.prior.calibration.stage", ("oneshot",)),
    "oneshot": Stage("osgap.prior.personalisation.stage", ("oneshot",), entry=("source",)),
    "evaluate": Stage("osgap.evaluation.stage", ("evaluation.lpips",), entry=("source",)),
    "tables": Stage("osgap.report.tables.stage", ("oneshot.supervision",)),
    "ablation": Stage("osgap.report.ablation.stage"),
    "figure": Stage("osgap.report.figures.stage", ("report.figure_scale", "oneshot.supervision"), entry=("source",)),
    "video": Stage("osgap.report.videos.stage", _VIDEO, entry=("source",)),
}

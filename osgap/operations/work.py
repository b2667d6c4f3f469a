"""How much a job is, in the units by which its time goes: what `costs.yaml` has seconds for.

Numbers of frames are those of the config, as `osgap.operations.space` estimates them: nothing is opened.

========================  ============================================================================================
Unit                      Counts
========================  ============================================================================================
`gigabytes`               of videos that are downloaded
`traced_megapixels`       rays of synthetic people, in millions
`frame_megapixels`        pixels of frames that an import stores
`visited_megapixels`      pixels of frames that the steps of a fit see
`photographs`             photographs that the encoder reads in all steps, at its full size (512 x 512, 80 million
                          parameters); smaller encoders count for less
`target_megapixels`       pixels that the steps of training or personalisation are compared in
`measured_megapixels`     pixels of frames that an evaluation measures
`shown_megapixels`        pixels that figures and videos render
`results`                 metrics that tables collect
========================  ============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable

from nersemble_data.constants import AVERAGE_GB_PER_VIDEO, SERIALS

from osgap.operations.space import SYNTHETIC_RAW_PER_PIXEL, frame_count, frame_pixels
from osgap.prior.config import OneShotConfig, PriorConfig, Supervision
from osgap.prior.network_config import EncoderConfig, SurfaceConfig
from osgap.workflow.jobs import Job
from osgap.workflow.pipeline import Pipeline

Work = dict[str, float]
"""Unit -> number of them."""


def work_of(pipeline: Pipeline, job: Job) -> Work:
    """How much one job is; nothing for stages that take as long whatever they are told."""
    count = _OF_STAGES.get(job.stage)
    return count(pipeline, job) if count is not None else {}


def _subject(job: Job) -> str:
    assert job.subject is not None
    return job.subject


def _synthetic_person(pipeline: Pipeline, job: Job) -> Work:
    synthetic = pipeline.config.synthetic
    assert synthetic is not None
    return {"traced_megapixels": _frame_megapixels(pipeline, _subject(job)) * synthetic.samples_per_axis**2}


def _download(pipeline: Pipeline, job: Job) -> Work:
    subject = _subject(job)
    if pipeline.config.synthetic is not None:
        return {"gigabytes": SYNTHETIC_RAW_PER_PIXEL * _frame_megapixels(pipeline, subject) / 1e3}
    return {"gigabytes": AVERAGE_GB_PER_VIDEO * len(pipeline.sequences(subject) * len(pipeline.config.capture.serials))}


def _import(pipeline: Pipeline, job: Job) -> Work:
    return {"frame_megapixels": _frame_megapixels(pipeline, _subject(job))}


def _fit(pipeline: Pipeline, _: Job) -> Work:
    fit = pipeline.config.fit
    return {"visited_megapixels": fit.iterations * fit.images_per_step * frame_pixels(pipeline) / 1e6}


def _train(pipeline: Pipeline, _: Job) -> Work:
    prior = pipeline.config.prior
    photographs = prior.steps * prior.sources
    return {
        "photographs": photographs * _network_share(prior),
        "target_megapixels": photographs * prior.targets * frame_pixels(pipeline) / 1e6,
    }


def _oneshot(pipeline: Pipeline, job: Job) -> Work:
    config = pipeline.config.oneshot
    supervision = pipeline.personalised[job.wildcards["folder"]]
    steps = config.all_frames_steps if supervision == "all_frames" else config.steps
    # The trials: of one photograph another run, of several one for each.
    trials = {"one_shot": 1, "few_shot": config.few_shot_photos, "all_frames": 0}[supervision] if config.held_out else 0
    seen = config.frames_per_step if supervision == "all_frames" else _photographs(config, supervision)
    return {"target_megapixels": (1 + trials) * steps * seen * frame_pixels(pipeline) / 1e6}


def _calibrate(pipeline: Pipeline, job: Job) -> Work:
    config = pipeline.config.oneshot
    seen = _photographs(config, pipeline.personalised[job.wildcards["folder"]])
    people = len(pipeline.config.calibration_people)
    return {"target_megapixels": people * config.steps * seen * frame_pixels(pipeline) / 1e6}


def _photographs(config: OneShotConfig, supervision: Supervision) -> int:
    return config.few_shot_photos if supervision == "few_shot" else 1


def _evaluate(pipeline: Pipeline, job: Job) -> Work:
    """The held-out sequence in all cameras, and the held-out camera in the other sequences."""
    subject = _subject(job)
    sequences = max(1, len(pipeline.sequences(subject)))
    a_sequence = frame_count(pipeline, subject) / sequences
    frames = a_sequence + a_sequence / len(SERIALS) * (sequences - 1)
    return {"measured_megapixels": frames * frame_pixels(pipeline) / 1e6}


def _tables(pipeline: Pipeline, _: Job) -> Work:
    return {"results": float(len(pipeline.methods) * len(pipeline.config.subjects.test))}


def _figure(pipeline: Pipeline, job: Job) -> Work:
    """All avatars of a person, or one of each person."""
    avatars = len(pipeline.methods) if job.subject is not None else len(pipeline.config.subjects.test)
    pictures = pipeline.config.report.expressions * avatars
    return {"shown_megapixels": pictures * frame_pixels(pipeline) * pipeline.config.report.figure_scale**2 / 1e6}


def _video(pipeline: Pipeline, _: Job) -> Work:
    """A personalised avatar and the fit, side by side."""
    report = pipeline.config.report
    pictures = 2 * report.video_seconds * report.video_fps
    return {"shown_megapixels": pictures * frame_pixels(pipeline) * report.video_scale**2 / 1e6}


def _frame_megapixels(pipeline: Pipeline, subject: str) -> float:
    return frame_count(pipeline, subject) * frame_pixels(pipeline) / 1e6


def _network_share(prior: PriorConfig) -> float:
    """Arithmetic for one photograph, relative to the full published one's: all but quadratic in widths and sides."""
    full = EncoderConfig()
    if prior.architecture == "surface":
        surface, whole = prior.surface, SurfaceConfig()
        return _SURFACE * (surface.widths[0] / whole.widths[0] * surface.input_size / whole.input_size) ** 2
    encoder = prior.encoder
    width = max(encoder.width / full.width, encoder.token_width / full.token_width)
    return (width * encoder.input_size / full.input_size) ** 2


_SURFACE = 0.1  # of the published network's arithmetic, at the default sizes of both

_OF_STAGES: dict[str, Callable[[Pipeline, Job], Work]] = {
    "synthetic-person": _synthetic_person,
    "download": _download,
    "import": _import,
    "fit": _fit,
    "train": _train,
    "calibrate": _calibrate,
    "oneshot": _oneshot,
    "evaluate": _evaluate,
    "tables": _tables,
    "figure": _figure,
    "video": _video,
}

UNITS = (
    "gigabytes",
    "traced_megapixels",
    "frame_megapixels",
    "visited_megapixels",
    "photographs",
    "target_megapixels",
    "measured_megapixels",
    "shown_megapixels",
    "results",
)

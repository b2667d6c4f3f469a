"""The stages of the workflow: one thin subcommand each. Paths come from the config and `osgap.workflow.layout`; work
is done in the stage's own `run`, which a notebook calls the same way."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from osgap.cli.common import Common, Options, Subject, app
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    from osgap.report.person import PersonFiles
    from osgap.workflow.pipeline import Pipeline


@app.command(name="synthetic-head")
def synthetic_head(common: Options = Common()) -> None:
    """Write the synthetic head model in FLAME's three files."""
    from osgap.synthetic.head import stage

    stage.run(stage.HeadOutputs(common.pipeline().layout.synthetic_head.model.parent))


@app.command(name="synthetic-person")
def synthetic_person(subject: Subject, common: Options = Common()) -> None:
    """Make a synthetic person: raw captures in NeRSemble's tree, and a FLAME tracking export."""
    pipeline = common.pipeline()
    from osgap.synthetic.captures import stage

    layout = pipeline.layout
    outputs = stage.PersonOutputs(
        nersemble=layout.synthetic_nersemble,
        tracking=layout.synthetic_tracking(subject),
        manifest=layout.synthetic_person(subject),
    )
    if pipeline.config.synthetic is None:
        raise UserError("synthetic is not set: this config is about real people; try `make demo` for synthetic people")
    stage.run(
        pipeline.config.synthetic,
        pipeline.head,
        outputs,
        subject=subject,
        seed=pipeline.config.seed,
        sequences=pipeline.sequences(subject),
        workers=common.threads or os.cpu_count() or 1,
    )


@app.command(name="download")
def download(subject: Subject, common: Options = Common()) -> None:
    """Fetch a subject's sequences from NeRSemble's data URL."""
    pipeline = common.pipeline()
    from osgap.capture.download import stage

    stage.run(
        pipeline.config.capture,
        stage.DownloadInputs(),
        stage.DownloadOutputs(pipeline.layout.raw, pipeline.layout.download(subject)),
        subject=subject,
        seed=pipeline.config.seed,
        sequences=pipeline.sequences(subject),
        participant=pipeline.participant(subject),
    )


@app.command(name="import")
def import_tracking(subject: Subject, common: Options = Common()) -> None:
    """Turn a subject's FLAME tracking into captures/ID.h5, with a contact sheet and what was found beside it."""
    pipeline = common.pipeline()
    from osgap.capture.importing import stage

    layout = pipeline.layout
    stage.run(
        pipeline.config.capture,
        stage.ImportInputs(
            tracking=pipeline.tracking(subject),
            head=pipeline.head,
            raw=layout.raw if pipeline.downloads else None,
            manifest=layout.download(subject) if pipeline.downloads else None,
        ),
        stage.ImportOutputs(layout.capture(subject), layout.findings(subject), layout.sheet(subject)),
        subject=subject,
        seed=pipeline.config.seed,
        entry=pipeline.entry(subject),
    )


@app.command(name="fit")
def fit(subject: Subject, common: Options = Common()) -> None:
    """Fit one Gaussian per UV texel to all training frames of a subject."""
    pipeline = common.pipeline()
    from osgap.fit import stage

    folder = pipeline.layout.fit(subject)
    outputs = stage.FitOutputs(
        avatar=folder,
        metrics=folder / "fit.json",
        preview=folder / "preview.png",
        checkpoints=pipeline.layout.checkpoints("fit", subject),
    )
    inputs = stage.FitInputs(pipeline.layout.capture(subject), pipeline.head)
    stage.run(pipeline.config.fit, inputs, outputs, subject=subject, seed=pipeline.config.seed)


@app.command(name="adopt-avatar")
def adopt_avatar(subject: Subject, common: Options = Common()) -> None:
    """Take a subject's fitted avatar from another program (interop.avatars) in place of a fit."""
    pipeline = common.pipeline()
    from osgap.interop.adopt_avatar import stage

    folder = pipeline.layout.fit(subject)
    stage.run(
        pipeline.config.interop,
        stage.AvatarInputs(_adopted(pipeline, "avatars", subject), pipeline.layout.capture(subject), pipeline.head),
        stage.AvatarOutputs(avatar=folder, metrics=folder / "fit.json", preview=folder / "preview.png"),
        subject=subject,
        seed=pipeline.config.seed,
        uv_size=pipeline.config.fit.uv_size,
    )


@app.command(name="adopt-maps")
def adopt_maps(subject: Subject, common: Options = Common()) -> None:
    """Take a subject's attribute maps from another program (interop.uv_gt) in place of baked ones."""
    pipeline = common.pipeline()
    from osgap.interop.adopt_maps import stage

    stage.run(
        pipeline.config.interop,
        stage.MapsInputs(_adopted(pipeline, "uv_gt", subject), pipeline.head),
        stage.MapsOutputs(pipeline.layout.uv_gt(subject)),
        subject=subject,
        seed=pipeline.config.seed,
        uv_size=pipeline.config.fit.uv_size,
    )


@app.command(name="bake")
def bake(subject: Subject, common: Options = Common()) -> None:
    """Write a fitted avatar as UV attribute maps."""
    pipeline = common.pipeline()
    from osgap.bake import stage

    folder = pipeline.layout.fit(subject)
    inputs = stage.BakeInputs(folder, pipeline.head)
    stage.run(inputs, stage.BakeOutputs(pipeline.layout.uv_gt(subject)), subject=subject, seed=pipeline.config.seed)


@app.command(name="train")
def train(
    subjects: Annotated[str | None, tyro.conf.arg(help="Comma-separated. Default is subjects.train.")] = None,
    common: Options = Common(),
) -> None:
    """Train the prior on all train subjects."""
    pipeline = common.pipeline()
    from osgap.prior.training import stage

    people = subjects.split(",") if subjects else pipeline.config.subjects.train
    layout = pipeline.layout
    inputs = stage.TrainInputs(
        captures=tuple(layout.capture(person) for person in people),
        maps=tuple(layout.uv_gt(person) for person in people),
        head=pipeline.head,
    )
    outputs = stage.TrainOutputs(
        model=layout.prior / "model.pt",
        mean=layout.prior / "mean_uv.npz",
        log=layout.prior / "train.json",
        preview=layout.prior / "preview.png",
        checkpoints=layout.checkpoints("train"),
        events=layout.events("train"),
    )
    stage.run(pipeline.config.prior, inputs, outputs, seed=pipeline.config.seed)


@app.command(name="calibrate")
def calibrate(
    supervision: Literal["one_shot", "few_shot"] = "one_shot",
    subjects: Annotated[str | None, tyro.conf.arg(help="Comma-separated. Default is some of subjects.train.")] = None,
    common: Options = Common(),
) -> None:
    """Measure on training people how far avatars of one kind of supervision may leave the prior's answer.

    Args:
        supervision: as of `osgap oneshot`.
    """
    pipeline = common.pipeline()
    from osgap.prior.calibration import stage

    people = subjects.split(",") if subjects else pipeline.config.calibration_people
    layout = pipeline.layout
    inputs = stage.CalibrationInputs(tuple(map(layout.capture, people)), layout.prior / "model.pt", pipeline.head)
    outputs = stage.CalibrationOutputs(layout.calibration(supervision))
    stage.run(pipeline.config.oneshot, inputs, outputs, supervision=supervision, seed=pipeline.config.seed)


@app.command(name="oneshot")
def oneshot(
    subject: Subject,
    supervision: Literal["one_shot", "few_shot", "all_frames"] = "one_shot",
    calibration: Path | None = None,
    common: Options = Common(),
) -> None:
    """Make an avatar of a person whom the prior never saw, from one photograph or more.

    Args:
        supervision: what may be seen of the person: one photograph; one moment in a few cameras; or all training
            frames.
        calibration: what `osgap calibrate` wrote. Default is the run's, where it calibrates.
    """
    pipeline = common.pipeline()
    from osgap.prior.personalisation import stage

    layout = pipeline.layout
    folder = layout.oneshot(subject, supervision)
    stage.run(
        pipeline.config.oneshot,
        pipeline.entry(subject).source,
        stage.OneShotInputs(
            capture=layout.capture(subject),
            prior=layout.prior / "model.pt",
            head=pipeline.head,
            calibration=calibration or next(iter(pipeline.calibration_of(layout.personalised(supervision))), None),
        ),
        stage.OneShotOutputs(
            avatar=folder,
            prior_avatar=folder / "prior",
            report=folder / "oneshot.json",
            preview=folder / "preview.png",
            checkpoints=layout.checkpoints(layout.personalised(supervision), subject),
        ),
        subject=subject,
        seed=pipeline.config.seed,
        supervision=supervision,
    )


@app.command(name="evaluate")
def evaluate(method: Annotated[str, tyro.conf.Positional], subject: Subject, common: Options = Common()) -> None:
    """Measure one method on one subject.

    Args:
        method: mean_avatar, prior, one_shot, few_shot, all_frames or fit.
    """
    pipeline = common.pipeline()
    from osgap.evaluation import stage

    layout = pipeline.layout
    stage.run(
        pipeline.config.evaluation,
        stage.EvaluationInputs(
            capture=layout.capture(subject),
            head=pipeline.head,
            avatar=pipeline.avatar(method, subject),
        ),
        stage.EvaluationOutputs(layout.metrics(method, subject)),
        subject=subject,
        seed=pipeline.config.seed,
        method=method,
        source=pipeline.entry(subject).source,
    )


@app.command(name="tables")
def tables(
    subjects: Annotated[str | None, tyro.conf.arg(help="Comma-separated. Default is subjects.test.")] = None,
    common: Options = Common(),
) -> None:
    """Write metrics/summary.json and a table per evaluation split."""
    pipeline = common.pipeline()
    from osgap.report.tables import stage

    people = subjects.split(",") if subjects else pipeline.config.subjects.test
    outputs = stage.TablesOutputs(pipeline.layout.summary, pipeline.layout.tables)
    stage.run(stage.TablesInputs(tuple(pipeline.metric_files(people))), outputs, seed=pipeline.config.seed)


@app.command(name="ablation")
def ablation(
    experiments: str | None = None,
    subjects: Annotated[str | None, tyro.conf.arg(help="Comma-separated. Default is subjects.test.")] = None,
    common: Options = Common(),
) -> None:
    """Write experiments/summary.json and a table per evaluation split that compares the experiments.

    Args:
        experiments: Their names, methods, and where their parts lie, as JSON: what a rule tells its job. Default is all
            of the config.
    """
    pipeline = common.pipeline()
    from osgap.report.ablation import stage
    from osgap.workflow.layout import Layout

    people = subjects.split(",") if subjects else pipeline.config.subjects.test
    metrics = {}
    for name, compared in json.loads(experiments or pipeline.compared).items():
        layout = Layout(pipeline.config.results, compared["folders"])
        metrics[name] = tuple(layout.metrics(method, person) for method in compared["methods"] for person in people)
    outputs = stage.AblationOutputs(pipeline.layout.ablation_summary, pipeline.layout.ablations)
    stage.run(stage.AblationInputs(metrics), outputs, seed=pipeline.config.seed)


@app.command(name="figure")
def figure(
    kind: Annotated[Literal["person", "cross", "overview"], tyro.conf.Positional],
    subjects: Annotated[str, tyro.conf.Positional],
    driver: str | None = None,
    common: Options = Common(),
) -> None:
    """Draw a figure of one subject, or the overview of several.

    Args:
        kind: what to draw.
        subjects: one subject; for `overview` any number, comma-separated.
        driver: For `cross`: whose motion is shown. Default is what the config says.
    """
    pipeline = common.pipeline()
    from osgap.report.figures import stage

    people = subjects.split(",")
    name = {"person": f"person_{people[0]}", "cross": f"cross_{people[0]}", "overview": "overview"}[kind]
    inputs = stage.FigureInputs(
        head=pipeline.head,
        people=tuple(_person_files(pipeline, person) for person in people),
        driver=pipeline.layout.capture(driver or pipeline.driver(people[0])) if kind == "cross" else None,
    )
    outputs = stage.FigureOutputs(pipeline.layout.figure(name))
    config = pipeline.config
    cross_frames = config.evaluation.cross_frames
    stage.run(config.report, inputs, outputs, kind=kind, seed=config.seed, cross_frames=cross_frames)


@app.command(name="video")
def video(subject: Subject, common: Options = Common()) -> None:
    """Render a turntable with expressions of a subject's one-shot avatar."""
    pipeline = common.pipeline()
    from osgap.report.videos import stage

    stage.run(
        pipeline.config.report,
        stage.VideoInputs(pipeline.head, _person_files(pipeline, subject)),
        stage.VideoOutputs(pipeline.layout.video(subject)),
        subject=subject,
        seed=pipeline.config.seed,
    )


def _adopted(pipeline: Pipeline, key: Literal["avatars", "uv_gt"], subject: str) -> Path:
    from osgap.workflow.adopted import adopted

    found = adopted(pipeline.config.interop, key, subject)
    if found is None:
        raise UserError(f"subject {subject}: interop.{key} names no file of theirs; set it, or fit the subject here")
    return found


def _person_files(pipeline: Pipeline, subject: str) -> PersonFiles:
    from osgap.report.person import PersonFiles

    return PersonFiles(
        subject=subject,
        capture=pipeline.layout.capture(subject),
        avatars={method: pipeline.avatar(method, subject) for method in pipeline.methods},
        source=pipeline.entry(subject).source,
    )

"""`osgap <stage>`: one thin subcommand per stage. Paths come from the config and `osgap.workflow.layout`; work is
done in the stage's own `run`, which a notebook calls the same way."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from osgap.rendering.settings import Clip, Motion, View
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    from osgap.report.person import PersonFiles
    from osgap.workflow.pipeline import Pipeline

Subject = Annotated[str, tyro.conf.Positional]
"""Name of a subject in the config."""


@dataclass(frozen=True)
class Common:
    """What every stage takes."""

    config: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """YAML file, or inline JSON that starts with `{`. May be repeated: later ones win, key by key.
    Default is config.yaml."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE, such as fit.iterations=300. May be repeated; wins over every --config."""
    threads: Annotated[int | None, tyro.conf.arg(aliases=["-j"])] = None
    """Threads of the numerical libraries. Default is theirs: one per core."""
    traceback: bool = False
    """Show where in the code an error was raised."""

    @property
    def sources(self) -> tuple[str, ...]:
        return self.config or ("config.yaml",)

    def limit_threads(self) -> None:
        """Before the libraries load."""
        if self.threads is not None:
            for variable in ("OMP", "MKL", "OPENBLAS", "NUMBA"):
                os.environ[f"{variable}_NUM_THREADS"] = str(self.threads)

    def pipeline(self) -> Pipeline:
        """Limit threads, then read the config."""
        self.limit_threads()
        from osgap.workflow.config import load_config
        from osgap.workflow.pipeline import Pipeline

        return Pipeline(load_config(self.sources, self.set))


Options = tyro.conf.OmitArgPrefixes[Common]

app = tyro.extras.SubcommandApp()


@app.command(name="synthetic-head")
def synthetic_head(common: Options = Common()) -> None:
    """Write the synthetic head model in FLAME's three files."""
    from osgap.synthetic.captures import stage

    stage.run_head(stage.HeadOutputs(common.pipeline().layout.synthetic_head))


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
    workers = common.threads or os.cpu_count() or 1
    config = pipeline.synthetic_config
    stage.run(config, pipeline.head, outputs, subject=subject, seed=pipeline.config.seed, workers=workers)


@app.command(name="download")
def download(subject: Subject, sequence: Annotated[str, tyro.conf.Positional], common: Options = Common()) -> None:
    """Fetch one sequence of one subject from NeRSemble's data URL."""
    pipeline = common.pipeline()
    from osgap.capture.download import stage

    stage.run(
        pipeline.capture_config,
        stage.DownloadInputs(),
        stage.DownloadOutputs(pipeline.layout.raw, pipeline.layout.download(subject, sequence)),
        subject=subject,
        seed=pipeline.config.seed,
        sequence=sequence,
        participant=pipeline.participant(subject),
    )


@app.command(name="import")
def import_tracking(subject: Subject, common: Options = Common()) -> None:
    """Turn a subject's FLAME tracking export into captures/ID.h5."""
    pipeline = common.pipeline()
    from osgap.capture.tracking import stage

    stage.run(
        pipeline.capture_config,
        stage.ImportInputs(
            tracking=pipeline.tracking(subject),
            head=pipeline.head,
            raw=pipeline.layout.raw if pipeline.downloads else None,
            manifests=tuple(pipeline.downloads_of(subject)),
        ),
        stage.ImportOutputs(pipeline.layout.capture(subject)),
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
    from osgap.interop import adopt as stage

    folder = pipeline.layout.fit(subject)
    stage.run_avatar(
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
    from osgap.interop import adopt as stage

    stage.run_maps(
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
    inputs = stage.BakeInputs(folder, folder / "fit.json", pipeline.head)
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


@app.command(name="oneshot")
def oneshot(
    subject: Subject,
    supervision: Literal["one_shot", "few_shot", "all_frames"] = "one_shot",
    common: Options = Common(),
) -> None:
    """Make an avatar of a person whom the prior never saw, from one photograph or more.

    Args:
        supervision: what may be seen of the person: one photograph; one moment in a few cameras; or all training
        frames.
    """
    pipeline = common.pipeline()
    from osgap.prior.personalisation import stage

    layout = pipeline.layout
    folder = layout.oneshot(subject, supervision)
    stage.run(
        pipeline.config.oneshot,
        pipeline.entry(subject).source,
        stage.OneShotInputs(capture=layout.capture(subject), prior=layout.prior / "model.pt", head=pipeline.head),
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
def evaluate(
    method: Annotated[str, tyro.conf.Positional],
    subject: Subject,
    driver: str | None = None,
    common: Options = Common(),
) -> None:
    """Measure one method on one subject.

    Args:
        method: mean_avatar, prior, one_shot, few_shot, all_frames or fit.
        driver: Subject whose motion the avatar is given in cross-reenactment. Default is the next test subject.
    """
    pipeline = common.pipeline()
    from osgap.evaluation import stage

    layout = pipeline.layout
    metrics = layout.metrics(method, subject)
    stage.run(
        pipeline.config.evaluation,
        stage.EvaluationInputs(
            capture=layout.capture(subject),
            head=pipeline.head,
            avatar=pipeline.avatar(method, subject),
            driver=layout.capture(driver or pipeline.driver(subject)),
        ),
        stage.EvaluationOutputs(metrics=metrics, cross=metrics.with_suffix(".png")),
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
    outputs = stage.TablesOutputs(pipeline.layout.summary, pipeline.table_files)
    stage.run(stage.TablesInputs(tuple(pipeline.metric_files(people))), outputs, seed=pipeline.config.seed)


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
        driver: For `cross`: whose motion is shown. Default is the next test subject.
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
    stage.run(pipeline.config.report, inputs, outputs, kind=kind, seed=pipeline.config.seed)


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


AvatarFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AVATAR")]
"""Folder with `point_cloud.ply` and `flame_param.npz`."""
Output = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]


@app.command(name="render")
def render(
    avatar: AvatarFolder,
    output: Output,
    motion: tyro.conf.OmitArgPrefixes[Motion] = Motion(),
    view: tyro.conf.OmitArgPrefixes[View] = View(),
    clip: tyro.conf.OmitArgPrefixes[Clip] = Clip(),
    color: Literal["sh_dc", "rgb"] = "sh_dc",
    common: Options = Common(),
) -> None:
    """Render an avatar under any motion and camera path, to a video or to frames; see docs/rendering.md.

    Args:
        avatar: Folder with point_cloud.ply and flame_param.npz.
        output: A .mp4 file, a .png file for one frame, or a folder for frames as PNG.
        color: What the avatar's own colours are. Files of this program say so themselves.
    """
    pipeline = common.pipeline()
    from osgap.rendering import stage

    stage.run(avatar, output, pipeline.head, motion=motion, view=view, clip=clip, color=color)
    print(output)


@app.command(name="export-avatar")
def export_avatar(
    avatar: AvatarFolder,
    output: Output,
    viewer: Literal["gaussianavatars", "osgap"] = "gaussianavatars",
    color: Literal["sh_dc", "rgb"] = "sh_dc",
    common: Options = Common(),
) -> None:
    """Write an avatar's two files as a viewer of the reference implementations opens them.

    Args:
        avatar: Folder with point_cloud.ply and flame_param.npz.
        output: Folder to write the two files to.
        viewer: Whose viewer: they expect other degrees of spherical harmonics, and OSGAP's takes colours for RGB.
        color: What the avatar's own colours are. Files of this program say so themselves.
    """
    pipeline = common.pipeline()
    from osgap.interop import export as stage

    _written(stage.export_avatar(avatar, output, pipeline.head, viewer=viewer, color=color))


@app.command(name="export-splats")
def export_splats(
    avatar: AvatarFolder,
    output: Output,
    frames: str = "0",
    motion: Path | None = None,
    up: Literal["y", "-y"] = "-y",
    sh_degree: Literal[0, 1, 2, 3] = 3,
    color: Literal["sh_dc", "rgb"] = "sh_dc",
    common: Options = Common(),
) -> None:
    """Write an avatar in the world's coordinates, as any viewer of 3D Gaussian splats opens it.

    Args:
        avatar: Folder with point_cloud.ply and flame_param.npz.
        output: A .ply file for one frame, a folder for several.
        frames: Timesteps, such as 7, 0:10, 0:100:5 or all.
        motion: flame_param.npz of somebody whose motion the avatar is given. Default is its own.
        up: The axis that points up: -y as splat viewers expect, y as the cameras of the capture have it.
        sh_degree: Degree of the spherical harmonics that the reader expects; all but the first are zero.
        color: What the avatar's own colours are. Files of this program say so themselves.
    """
    pipeline = common.pipeline()
    from osgap.interop import export as stage

    paths = stage.export_splats(
        avatar, output, pipeline.head, frames=frames, motion=motion, up=up, sh_degree=sh_degree, color=color
    )
    _written(paths)


@app.command(name="export-mesh")
def export_mesh(
    avatar: AvatarFolder,
    output: Output,
    frames: str = "0",
    motion: Path | None = None,
    up: Literal["y", "-y"] = "y",
    suffix: Literal[".obj", ".ply", ".glb"] = ".obj",
    common: Options = Common(),
) -> None:
    """Write the head mesh of an avatar's frames as OBJ, PLY or GLB.

    Args:
        avatar: Folder with point_cloud.ply and flame_param.npz.
        output: A .obj, .ply or .glb file for one frame, a folder for several.
        frames: Timesteps, such as 7, 0:10, 0:100:5 or all.
        motion: flame_param.npz of somebody whose motion the avatar is given. Default is its own.
        up: The axis that points up: y as glTF has it, -y to lie on exported splats.
        suffix: Format of the files in a folder.
    """
    pipeline = common.pipeline()
    from osgap.interop import export as stage

    paths = stage.export_mesh(avatar, output, pipeline.head, frames=frames, motion=motion, up=up, suffix=suffix)
    _written(paths)


@app.command(name="export-maps")
def export_maps(
    avatar: AvatarFolder,
    output: Output,
    uv_size: int | None = None,
    color: Literal["sh_dc", "rgb"] = "sh_dc",
    common: Options = Common(),
) -> None:
    """Write the UV attribute maps (uv_gt) of an avatar that has one Gaussian per texel.

    Args:
        avatar: Folder with point_cloud.ply and flame_param.npz.
        output: A .npz file.
        uv_size: Texels along either axis. Default is found out.
        color: What the avatar's own colours are. Files of this program say so themselves.
    """
    pipeline = common.pipeline()
    from osgap.interop import export as stage

    _written(stage.export_maps(avatar, output, pipeline.head, uv_size=uv_size, color=color))


@app.command(name="doctor")
def doctor(json: bool = False, common: Options = Common()) -> None:
    """Say what this machine and this config can do, and what is missing. Exit code 1: not ready.

    Args:
        json: For machines: JSON on stdout.
    """
    common.limit_threads()
    from osgap.doctor import examine, show, to_json

    report = examine(common.sources, common.set)
    print(to_json(report)) if json else show(report)
    sys.exit(0 if report.ready else 1)


@app.command(name="why")
def why(arguments: tyro.conf.Positional[tuple[str, ...]] = ()) -> None:
    """Say which jobs `snakemake ARGUMENTS` would run, and what made them."""
    _why(list(arguments))


def _written(paths: list[Path]) -> None:
    print(paths[0] if len(paths) == 1 else f"{len(paths)} files in {paths[0].parent}")


def _adopted(pipeline: Pipeline, key: Literal["avatars", "uv_gt"], subject: str) -> Path:
    found = pipeline.adopted(key, subject)
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


def _why(arguments: list[str]) -> None:
    """`osgap why [SNAKEMAKE ARGUMENTS]`: what Snakemake would run, and why."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(
            "usage: osgap why [SNAKEMAKE ARGUMENTS]\n\nWhich jobs `snakemake ARGUMENTS` would run, and what made them."
        )
        print("Example: osgap why --profile profiles/demo")
        return
    from osgap.workflow.why import why

    found = why(arguments)
    for job in found:
        print(f"{job.rule}  {job.output}")
        for reason in job.reasons:
            print(f"    {reason}")
    print(f"{len(found)} jobs would run." if found else "Nothing would run: everything is up to date.")


def main() -> None:
    """Entry point of the command line."""
    arguments = sys.argv[1:]
    # A scheduler's SIGTERM ends the process as an exception, so that nothing half-written is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if arguments[:1] == ["why"]:  # its arguments are Snakemake's, options and all
            _why(arguments[1:])
        else:
            _run(app, arguments)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (UserError, OSError) as error:
        if "--traceback" in arguments:
            raise
        message = str(error) if isinstance(error, UserError) else _explain(error)
        print(f"osgap: {message}", file=sys.stderr)
        sys.exit(UserError.EXIT_CODE)


def _explain(error: OSError) -> str:
    """What the machine refused, anywhere: no space, no permission, a path that is something else."""
    advice = {
        errno.ENOSPC: "free space there, or write elsewhere (`results` in the config)",
        errno.EDQUOT: "your quota is used up: free space there, or write elsewhere (`results` in the config)",
        errno.EFBIG: "it would be larger than this machine allows: raise the limit (ulimit -f), or write elsewhere",
        errno.EACCES: "check its permissions",
        errno.EPERM: "check its permissions",
        errno.EROFS: "write elsewhere (`results` in the config)",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
    }.get(error.errno or 0, "check the path; --traceback shows where it happened")
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}; {advice}"


def _run(subcommands: Any, arguments: list[str]) -> None:
    run: Callable[..., Any] = subcommands.cli
    run(args=arguments, prog="osgap", description=__doc__)


if __name__ == "__main__":
    main()

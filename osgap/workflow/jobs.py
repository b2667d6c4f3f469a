"""The jobs of a run, from its config alone: what Snakemake's graph would have, in a fraction of a second.

`osgap plan` and `osgap status` ask about thousands of jobs, for which Snakemake needs minutes of a config with hundreds
of people. A test holds this list to Snakemake's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from osgap.workflow.pipeline import Pipeline


@dataclass(frozen=True)
class Job:
    """One job of the run."""

    rule: str
    """Snakemake's name of it."""
    stage: str
    """The stage that it calls; see `osgap.workflow.stages`."""
    outputs: tuple[Path, ...]
    """All files that it writes."""
    log: Path
    """Where the stage writes what it says."""
    wildcards: dict[str, str] = field(default_factory=dict)
    """In the order of the first output's path, as Snakemake has them."""
    inputs: tuple[Path, ...] = ()
    """Files of other jobs of the run that it reads."""

    @property
    def subject(self) -> str | None:
        """Whom it is about, if it is about one."""
        return self.wildcards.get("subject")

    @property
    def name(self) -> str:
        """What it is called in lists: its rule and wildcards."""
        return " ".join([self.rule, *self.wildcards.values()])

    @property
    def done(self) -> bool:
        """Whether all of its outputs are there; whether they are up to date is Snakemake's to say."""
        return all(path.exists() for path in self.outputs)


def jobs(pipeline: Pipeline) -> list[Job]:
    """All jobs that a run from nothing would have, each after those that it needs.

    Raises:
        UserError: the config names things that are not there; see `osgap.workflow.checks`.
    """
    all_jobs = [job for part in _PARTS for job in part(pipeline)]
    made_by = {path: index for index, job in enumerate(all_jobs) for path in job.outputs}
    needed: set[int] = set()
    waiting = [made_by[path] for path in pipeline.targets]
    while waiting:
        index = waiting.pop()
        if index not in needed:
            needed.add(index)
            waiting += [made_by[path] for path in all_jobs[index].inputs if path in made_by]
    return [_with_inputs(all_jobs[index], made_by) for index in sorted(needed)]


def _with_inputs(job: Job, made_by: Iterable[Path]) -> Job:
    """The job without inputs that are there before the run."""
    inputs = tuple(dict.fromkeys(path for path in job.inputs if path in made_by))
    return Job(job.rule, job.stage, job.outputs, job.log, job.wildcards, inputs)


def _synthetic(pipeline: Pipeline) -> Iterator[Job]:
    layout = pipeline.layout
    if pipeline.config.synthetic is None:
        return
    head = tuple(layout.synthetic_head.files)
    yield Job("synthetic_head", "synthetic-head", head, layout.log("synthetic-head"))
    for subject in pipeline.config.subjects.all:
        yield Job(
            "synthetic_person",
            "synthetic-person",
            (layout.synthetic_person(subject),),
            layout.log("synthetic-person", subject),
            {"subject": subject},
            _head(pipeline),
        )


def _captures(pipeline: Pipeline) -> Iterator[Job]:
    layout = pipeline.layout
    for subject in pipeline.config.subjects.all:
        if pipeline.downloads:
            for sequence in pipeline.sequences(subject):
                yield Job(
                    "download",
                    "download",
                    (layout.download(subject, sequence),),
                    layout.log("download", subject, sequence),
                    {"subject": subject, "sequence": sequence},
                    tuple(pipeline.download_sources(subject)),
                )
        tracking = [layout.synthetic_person(subject)] if pipeline.makes(pipeline.tracking_pattern(subject)) else []
        yield Job(
            "import_tracking",
            "import",
            (layout.capture(subject),),
            layout.log("import", subject),
            {"subject": subject},
            (*_head(pipeline), *tracking, *pipeline.downloads_of(subject)),
        )


def _avatars(pipeline: Pipeline) -> Iterator[Job]:
    layout = pipeline.layout
    for subject in pipeline.config.subjects.all:
        adopted = subject in pipeline.adopted_avatars
        yield Job(
            "adopt_avatar" if adopted else "fit",
            "adopt-avatar" if adopted else "fit",
            _files(layout.fit(subject), "point_cloud.ply", "flame_param.npz", "fit.json", "preview.png"),
            layout.log("adopt-avatar" if adopted else "fit", subject),
            {"subject": subject},
            (*_head(pipeline), layout.capture(subject)),
        )


def _maps(pipeline: Pipeline) -> Iterator[Job]:
    layout = pipeline.layout
    for subject in pipeline.config.subjects.all:
        adopted = subject in pipeline.adopted_maps
        yield Job(
            "adopt_maps" if adopted else "bake",
            "adopt-maps" if adopted else "bake",
            (layout.uv_gt(subject),),
            layout.log("adopt-maps" if adopted else "bake", subject),
            {"subject": subject},
            (*_head(pipeline), *([] if adopted else [layout.fit(subject) / "point_cloud.ply"])),
        )


def _prior(pipeline: Pipeline) -> Iterator[Job]:
    layout, train = pipeline.layout, pipeline.config.subjects.train
    yield Job(
        "train",
        "train",
        _files(layout.prior, "model.pt", "mean_uv.npz", "train.json", "preview.png"),
        layout.log("train"),
        {},
        (*_head(pipeline), *map(layout.capture, train), *map(layout.uv_gt, train)),
    )


def _personal(pipeline: Pipeline) -> Iterator[Job]:
    layout = pipeline.layout
    names = ("point_cloud.ply", "flame_param.npz")
    for folder, supervision in pipeline.personalised.items():
        for subject in pipeline.config.subjects.test:
            avatar = layout.oneshot(subject, supervision)
            prior = _files(avatar / "prior", *names)
            yield Job(
                "oneshot",
                "oneshot",
                (*_files(avatar, *names), *prior, *_files(avatar, "oneshot.json", "preview.png")),
                layout.log(folder, subject),
                {"folder": folder, "subject": subject},
                (*_head(pipeline), layout.capture(subject), layout.prior / "model.pt"),
            )


def _measured(pipeline: Pipeline) -> Iterator[Job]:
    layout = pipeline.layout
    for method in pipeline.methods:
        for subject in pipeline.config.subjects.test:
            metrics = layout.metrics(method, subject)
            driver = layout.capture(pipeline.driver(subject))
            avatar = pipeline.avatar_files(method, subject)
            yield Job(
                "evaluate",
                "evaluate",
                (metrics, metrics.with_suffix(".png")),
                layout.log("evaluate", method, subject),
                {"method": method, "subject": subject},
                (*_head(pipeline), layout.capture(subject), *avatar, driver),
            )


def _report(pipeline: Pipeline) -> Iterator[Job]:
    layout, test = pipeline.layout, pipeline.config.subjects.test
    tables = (layout.summary, *pipeline.table_files.values())
    yield Job("tables", "tables", tables, layout.log("tables"), {}, tuple(pipeline.metric_files(test)))
    shown = {subject: tuple(pipeline.shown_files(subject)) for subject in test}
    for subject in test:
        driver = layout.capture(pipeline.driver(subject))
        for rule, name, more in (("person_figure", "person", ()), ("cross_figure", "cross", (driver,))):
            yield _figure(pipeline, rule, f"{name}_{subject}", {"subject": subject}, (*shown[subject], *more))
    everybody = tuple(path for paths in shown.values() for path in paths)
    yield _figure(pipeline, "overview", "overview", {}, everybody)
    for subject in test:
        video = (layout.video(subject),)
        yield Job("video", "video", video, layout.log("video", subject), {"subject": subject}, shown[subject])


def _figure(pipeline: Pipeline, rule: str, name: str, wildcards: dict[str, str], inputs: tuple[Path, ...]) -> Job:
    layout = pipeline.layout
    return Job(rule, "figure", (layout.figure(name),), layout.log("figure", name), wildcards, inputs)


def _head(pipeline: Pipeline) -> tuple[Path, ...]:
    """The head model's files, where the run makes them."""
    return tuple(pipeline.layout.synthetic_head.files) if pipeline.config.synthetic is not None else ()


def _files(folder: Path, *names: str) -> tuple[Path, ...]:
    return tuple(folder / name for name in names)


_PARTS = (_synthetic, _captures, _avatars, _maps, _prior, _personal, _measured, _report)
"""In the order in which they need each other."""

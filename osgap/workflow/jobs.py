"""The jobs of a run, from its config alone: what Snakemake's graph would have, in a fraction of a second.

`osgap plan` and `osgap status` ask about thousands of jobs, for which Snakemake needs minutes of a config with hundreds
of people. A test holds this list to Snakemake's own.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from osgap.workflow.pipeline import Pipeline
from osgap.workflow.run_name import EXPERIMENTS


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
    def place(self) -> str:
        """The folder of the experiment that it belongs to, with a slash at its end; empty for the dataset."""
        return self.wildcards.get("experiment", "")

    @property
    def experiment(self) -> str | None:
        """The experiment that it belongs to."""
        return self.place.split("/")[1] if self.place else None

    @property
    def name(self) -> str:
        """What it is called in lists: its rule and wildcards, and its experiment."""
        values = [value for name, value in self.wildcards.items() if name != "experiment"]
        return " ".join([self.rule, *values, *([f"({self.experiment})"] if self.experiment else [])])

    @property
    def done(self) -> bool:
        """Whether all of its outputs are there; whether they are up to date is Snakemake's to say."""
        return all(path.exists() for path in self.outputs)


def jobs(pipeline: Pipeline, experiment: str | None = None) -> list[Job]:
    """All jobs that a run from nothing would have, each after those that it needs.

    Args:
        experiment: only those that this experiment needs.

    Raises:
        UserError: there is no such experiment, or the config names things that are not there.
    """
    targets = pipeline.targets if experiment is None else pipeline.run(experiment).report_files
    owners = {"": pipeline, **{f"{EXPERIMENTS}/{name}/": run for name, run in pipeline.experiments.items()}}
    found = [job for part in _OF_DATASET for job in part(pipeline)]
    for part in _OF_EXPERIMENTS:
        for place, owner in owners.items():
            found += [job for job in part(owner) if job.place == place]  # what it shares is another's
    if pipeline.experiments:
        found += _ablation(pipeline)
    made_by = {path: index for index, job in enumerate(found) for path in job.outputs}
    needed: set[int] = set()
    waiting = [made_by[path] for path in targets]
    while waiting:
        index = waiting.pop()
        if index not in needed:
            needed.add(index)
            waiting += [made_by[path] for path in found[index].inputs if path in made_by]
    return [_with_inputs(found[index], made_by) for index in sorted(needed)]


def _with_inputs(job: Job, made_by: Container[Path]) -> Job:
    """The job without inputs that are there before the run."""
    return replace(job, inputs=tuple(dict.fromkeys(path for path in job.inputs if path in made_by)))


# the dataset -----------------------------------------------------------------------------------------------------


def _synthetic(pipeline: Pipeline) -> Iterator[Job]:
    layout = pipeline.layout
    if pipeline.config.synthetic is None:
        return
    yield Job("synthetic_head", "synthetic-head", _head(pipeline), layout.log("synthetic-head"))
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
            yield Job(
                "download",
                "download",
                (layout.download(subject),),
                layout.log("download", subject),
                {"subject": subject},
                tuple(pipeline.download_sources(subject)),
            )
        tracking = [layout.synthetic_person(subject)] if _makes_tracking(pipeline, subject) else []
        yield Job(
            "import_tracking",
            "import",
            (layout.capture(subject), layout.findings(subject), layout.sheet(subject)),
            layout.log("import", subject),
            {"subject": subject},
            (*_head(pipeline), *tracking, *pipeline.download_of(subject)),
        )


def _makes_tracking(pipeline: Pipeline, subject: str) -> bool:
    return pipeline.config.synthetic is not None and pipeline.makes(pipeline.tracking_pattern(subject))


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


# experiments -----------------------------------------------------------------------------------------------------


def _prior(pipeline: Pipeline) -> Iterator[Job]:
    layout, train = pipeline.layout, pipeline.config.subjects.train
    outputs = _files(layout.prior, "model.pt", "mean_uv.npz", "train.json", "preview.png")
    inputs = (*_head(pipeline), *map(layout.capture, train), *map(layout.uv_gt, train))
    yield _own(pipeline, "train", "train", outputs, layout.log("train"), {}, inputs)


def _calibrations(pipeline: Pipeline) -> Iterator[Job]:
    layout = pipeline.layout
    captures = map(layout.capture, pipeline.config.calibration_people)
    inputs = (*_head(pipeline), *captures, layout.prior / "model.pt")
    for folder, supervision in pipeline.calibrated.items():
        outputs = (layout.calibration(supervision),)
        log = layout.log("calibrate", folder)
        yield _own(pipeline, "calibrate", "calibrate", outputs, log, {"folder": folder}, inputs)


def _personal(pipeline: Pipeline) -> Iterator[Job]:
    layout = pipeline.layout
    names = ("point_cloud.ply", "flame_param.npz")
    for folder, supervision in pipeline.personalised.items():
        for subject in pipeline.config.subjects.test:
            avatar = layout.oneshot(subject, supervision)
            files = (*_files(avatar, *names), *_files(avatar / "prior", *names))
            outputs = (*files, *_files(avatar, "oneshot.json", "preview.png"))
            prior = (layout.prior / "model.pt", *pipeline.calibration_of(folder))
            inputs = (*_head(pipeline), layout.capture(subject), *prior)
            wildcards = {"folder": folder, "subject": subject}
            yield _own(pipeline, "oneshot", "oneshot", outputs, layout.log(folder, subject), wildcards, inputs)


def _measured(pipeline: Pipeline) -> Iterator[Job]:
    layout = pipeline.layout
    for method in pipeline.methods:
        for subject in pipeline.config.subjects.test:
            outputs = (layout.metrics(method, subject),)
            inputs = (*_head(pipeline), layout.capture(subject), *pipeline.avatar_files(method, subject))
            wildcards = {"method": method, "subject": subject}
            log = layout.log("evaluate", method, subject)
            yield _own(pipeline, "evaluate", "evaluate", outputs, log, wildcards, inputs)


def _report(pipeline: Pipeline) -> Iterator[Job]:
    layout, test = pipeline.layout, pipeline.config.subjects.test
    tables = (layout.summary, *pipeline.layout.tables.values())
    yield _own(pipeline, "tables", "tables", tables, layout.log("tables"), {}, tuple(pipeline.metric_files(test)))
    for subject in test:
        shown = _shown(pipeline, subject, *pipeline.methods)
        driver = layout.capture(pipeline.driver(subject))
        wildcards = {"subject": subject}
        yield _figure(pipeline, "person_figure", f"person_{subject}", wildcards, shown)
        yield _figure(pipeline, "cross_figure", f"cross_{subject}", wildcards, (*shown, driver))
        video, log = (layout.video(subject),), layout.log("video", subject)
        yield _own(pipeline, "video", "video", video, log, wildcards, _shown(pipeline, subject, pipeline.shown, "fit"))
    everybody = tuple(file for subject in test for file in _shown(pipeline, subject, pipeline.shown))
    yield _figure(pipeline, "overview", "overview", {}, everybody)


def _shown(pipeline: Pipeline, subject: str, *methods: str) -> tuple[Path, ...]:
    """As `Pipeline.shown_files`, of a config that may not say yet where the head model is."""
    avatars = [file for method in methods for file in pipeline.avatar_files(method, subject)]
    return (*_head(pipeline), pipeline.layout.capture(subject), *avatars)


def _figure(pipeline: Pipeline, rule: str, name: str, wildcards: dict[str, str], inputs: tuple[Path, ...]) -> Job:
    layout = pipeline.layout
    return _own(pipeline, rule, "figure", (layout.figure(name),), layout.log("figure", name), wildcards, inputs)


def _ablation(pipeline: Pipeline) -> Iterator[Job]:
    outputs = (pipeline.layout.ablation_summary, *pipeline.layout.ablations.values())
    inputs = tuple(pipeline.compared_files)
    yield Job("ablation", "ablation", outputs, pipeline.layout.log("ablation"), {}, inputs)


def _own(
    pipeline: Pipeline,
    rule: str,
    stage: str,
    outputs: tuple[Path, ...],
    log: Path,
    wildcards: dict[str, str],
    inputs: tuple[Path, ...],
) -> Job:
    """A job of whoever has its outputs: an experiment, or the config as it stands."""
    first, *rest = outputs[0].relative_to(pipeline.layout.results).parts
    place = f"{EXPERIMENTS}/{rest[0]}/" if first == EXPERIMENTS else ""
    return Job(rule, stage, outputs, log, {"experiment": place, **wildcards}, inputs)


def _head(pipeline: Pipeline) -> tuple[Path, ...]:
    """The head model's files, where the run makes them."""
    return tuple(pipeline.layout.synthetic_head.files) if pipeline.config.synthetic is not None else ()


def _files(folder: Path, *names: str) -> tuple[Path, ...]:
    return tuple(folder / name for name in names)


# In the order in which they need each other.
_OF_DATASET = (_synthetic, _captures, _avatars, _maps)
_OF_EXPERIMENTS = (_prior, _calibrations, _personal, _measured, _report)

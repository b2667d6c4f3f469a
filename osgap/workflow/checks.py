"""Everything that would stop a run later and can be seen before its first job."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from osgap.capture.download.stage import check_url
from osgap.capture.tracking.finding import check_tracking
from osgap.prior.config import check_validation
from osgap.runtime.errors import UserError
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.synthetic import check_synthetic

_SHOWN_PROBLEMS = 12  # with hundreds of subjects, one mistake is found hundreds of times


def check(pipeline: Pipeline) -> None:
    """All checks, and all that they find at once.

    Raises:
        UserError: one line for each problem, which names the key of the config, what was found and what to do.
    """
    config = pipeline.config
    checks: list[Callable[[], object]] = [
        lambda: pipeline.acceptances,
        partial(check_people, pipeline),
        partial(check_synthetic, pipeline),
        lambda: pipeline.adopted_avatars,
        lambda: pipeline.adopted_maps,
        partial(check_head, pipeline),
        partial(check_recordings, pipeline),
        *(partial(check_tracking_of, pipeline, subject) for subject in config.subjects.all),
        *(partial(check_prior, run) for run in pipeline.runs),
        partial(check_nodes, pipeline),
    ]
    problems: list[str] = []
    for attempt in checks:
        try:
            attempt()
        except UserError as error:
            problems.append(str(error))
    if len(problems) > _SHOWN_PROBLEMS:
        problems[_SHOWN_PROBLEMS:] = [f"… and {len(problems) - _SHOWN_PROBLEMS} more of this kind"]
    if problems:
        raise UserError("\n".join(problems))


def check_people(pipeline: Pipeline) -> None:
    """Whether the lists of subjects make a run.

    Raises:
        UserError: an empty list, an entry of nobody, one participant in both lists.
    """
    subjects = pipeline.config.subjects
    for name, listed in (("train", subjects.train), ("test", subjects.test)):
        if not listed:
            raise UserError(f'subjects.{name} is empty; list at least one subject, such as ["017"]')
    unknown = sorted(set(subjects.entries) - set(subjects.all))
    if unknown:
        raise UserError(
            f"subjects.entries has {', '.join(unknown)}, in neither subjects.train nor subjects.test; "
            f"add the subject to one of them or remove the entry"
        )
    for subject, entry in subjects.entries.items():
        if entry.driver is not None and (entry.driver == subject or entry.driver not in subjects.all):
            found = "themselves" if entry.driver == subject else f"{entry.driver}, who is not in the run"
            raise UserError(
                f"subjects.entries.{subject}.driver: {subject} is driven by {found}; name one of the others in "
                f"subjects.train or subjects.test"
            )
    if pipeline.downloads:
        train = {pipeline.participant(s): s for s in subjects.train}
        for subject in subjects.test:
            twin = train.get(pipeline.participant(subject))
            if twin is not None:
                raise UserError(
                    f"test subject {subject} and train subject {twin} are the same NeRSemble participant "
                    f"{pipeline.participant(subject)}; a test person must be unseen: remove one of the two"
                )


def check_head(pipeline: Pipeline) -> None:
    """Whether the head model's files are there, or will be."""
    missing = [str(path) for path in pipeline.head_files if not path.is_file() and not pipeline.makes(path)]
    if missing:
        raise UserError(
            f"flame.assets: no such file: {', '.join(missing)}; FLAME is licensed: register with its makers, "
            f"download FLAME 2023 and give the files' paths, or try the synthetic people with `make demo`"
        )


def check_recordings(pipeline: Pipeline) -> None:
    """Whether downloads can start, from a place that is there or will be."""
    if not pipeline.makes_recordings:
        check_url(pipeline.config.capture)


def check_tracking_of(pipeline: Pipeline, subject: str) -> None:
    """Whether a subject's tracking is there, or will be."""
    if not pipeline.makes(pipeline.tracking_pattern(subject)):
        check_tracking(pipeline.config.capture, subject, pipeline.entry(subject))


def check_prior(pipeline: Pipeline) -> None:
    """Whether an experiment's prior has the weights that it starts from and learns by, and people to learn from."""
    where = f"experiment {pipeline.name}: " if pipeline.name else ""
    for key, file in pipeline.prior_weights.items():
        if not file.path.is_file():
            raise UserError(f"{where}{key}: no such file: {file.path}; correct the path, or leave the key out")
    try:
        check_validation(pipeline.config.prior.validation, pipeline.config.subjects.train)
    except UserError as error:
        raise UserError(f"{where}{error}") from None


def check_nodes(pipeline: Pipeline) -> None:
    """Whether all experiments train on as many machines: one rule asks Slurm for them.

    Raises:
        UserError: naming one that does not.
    """
    nodes, gpus = pipeline.config.prior.nodes, pipeline.needs("train").gpus
    for name, run in pipeline.experiments.items():
        others, each = run.config.prior.nodes, run.needs("train").gpus
        if others != nodes or (nodes > 1 and (each > 1) != (gpus > 1)):
            raise UserError(
                f"experiments.{name}.prior: {others} machines with {each} GPUs, where the config has {nodes} with "
                f"{gpus}; set prior.nodes and prior.devices once, for all experiments of the run"
            )

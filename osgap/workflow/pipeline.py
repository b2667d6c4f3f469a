"""What a config means for the workflow: who and what is in the run, which files each job reads, what it is told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from osgap.capture.config import SubjectEntry
from osgap.capture.nersemble import participant_of
from osgap.evaluation.methods import METHODS
from osgap.head.config import HeadAssets
from osgap.prior.config import SUPERVISIONS, Supervision
from osgap.runtime.acceptance import Acceptances, read_acceptances
from osgap.runtime.errors import UserError
from osgap.runtime.weights import WeightFile
from osgap.workflow.accept import Recorded, record, rule_parameter
from osgap.workflow.adopted import all_adopted
from osgap.workflow.cache import cache_folder
from osgap.workflow.config import Config
from osgap.workflow.layout import Layout
from osgap.workflow.resources import Needs, by_experiment, launcher, needs, resources
from osgap.workflow.settings import operation, settings
from osgap.workflow.sharing import keys_of, methods_of, places_of
from osgap.workflow.stages import STAGES


class Pipeline:
    """One validated config with its paths: a dataset and one experiment on it.

    Attributes:
        name: of the experiment; None for the config as it stands.
        layout: where its files are.
        recorded: what Snakemake recorded of an output, where Snakemake asks.
    """

    def __init__(self, config: Config, name: str | None = None, layout: Layout | None = None) -> None:
        self.config = config
        self.name = name
        self.layout = layout or Layout(config.results)
        self.recorded: Recorded = lambda _: None

    # experiments -----------------------------------------------------------------------------------------
    @cached_property
    def experiments(self) -> dict[str, Pipeline]:
        """The config's experiments by name; each has for itself what none before it asks for, nor the config."""
        known = [(keys_of(self.config), self.layout)]
        found: dict[str, Pipeline] = {}
        for name in self.config.experiments:
            config = self.config.experiment(name)
            keys = keys_of(config)
            layout = Layout(config.results, places_of(name, keys, known))
            known.append((keys, layout))
            found[name] = Pipeline(config, name, layout)
        return found

    @property
    def runs(self) -> list[Pipeline]:
        """What is made: the experiments, or without any the config as it stands."""
        return [*self.experiments.values()] or [self]

    def run(self, name: str | None) -> Pipeline:
        """The experiment of a name; without one, the config as it stands.

        Raises:
            UserError: the config has no such experiment.
        """
        if name is None:
            return self
        self.config.experiment(name)
        return self.experiments[name]

    def of(self, place: str) -> Pipeline:
        """The experiment whose own folder it is: the wildcard `experiment` of the rules."""
        return self.run(place.split("/")[1] if place else None)

    @property
    def places(self) -> str:
        """The wildcard's pattern."""
        return f"({'|'.join(['', *(f'experiments/{name}/' for name in self.config.experiments)])})"

    @property
    def pattern(self) -> Layout:
        """Paths with the wildcard `{experiment}`, for rules."""
        return Layout(self.config.results, place="{experiment}")

    # what a job is told ----------------------------------------------------------------------------------
    def settings(
        self, stage: str, *subjects: str, keys: Sequence[str] = (), supervision: Supervision | None = None
    ) -> str:
        """The part of the config that decides what a job makes; see `osgap.workflow.settings`."""
        return settings(self.config, self._computation, STAGES[stage], subjects, keys, supervision)

    @cached_property
    def _computation(self) -> dict[str, Any]:
        return self.config.computation(exclude_defaults=True)

    @cached_property
    def operation(self) -> str:
        """What jobs need to know and no result depends on, as JSON: where files are, what is done how often."""
        return operation(self.config)

    @cached_property
    def folders(self) -> str:
        """Where the parts of an experiment lie, as JSON for `osgap STAGE --folders`."""
        return json.dumps(dict(self.layout.places), sort_keys=True)

    @cached_property
    def acceptances(self) -> Acceptances:
        """Which code `osgap accept` lets stand for which."""
        return read_acceptances(self.layout.accepted)

    def code(self, stage: str, output: Path | None = None) -> Callable[[Any], str]:
        """Digest of the modules that the stage imports: editing one runs its jobs again, unless that was accepted.

        Under `upgrades: rerun` so do other versions of packages.

        Args:
            output: the file of the job that has a provenance, with wildcards, where stage and wildcards do not say it.
        """
        output = output or record(self.pattern, stage)
        return rule_parameter(self.acceptances, stage, output, self.recorded, self.config.upgrades)

    def needs(self, rule: str) -> Needs:
        """What a job of a rule needs at its first attempt."""
        return needs(self.config, rule)

    def resources(self, rule: str) -> dict[str, Any]:
        """The same as Snakemake's resources; of a training those of its experiment."""
        if rule != "train" or not self.experiments:
            return resources(self.config, rule)
        own = {f"experiments/{name}/": resources(run.config, rule) for name, run in self.experiments.items()}
        return by_experiment({"": resources(self.config, rule), **own})

    @property
    def cached(self) -> str | bool:
        """What rules of captures, fits and maps say of Snakemake's cache."""
        return "omit-software" if cache_folder(self.config.cache) else False

    def launcher(self, threads: int) -> str:
        """What stands before `osgap train`; see `osgap.workflow.resources.launcher`."""
        return launcher(self.config, threads)

    # subjects --------------------------------------------------------------------------------------------
    def entry(self, subject: str) -> SubjectEntry:
        """What the config says of a subject.

        Raises:
            UserError: nobody of that name is in the config's lists (jobs of a run are told no lists).
        """
        self.config.subjects.refuse_stranger(subject)
        return self.config.subjects.entry(subject)

    def participant(self, subject: str) -> int:
        """NeRSemble's number of a subject."""
        return participant_of(subject, self.entry(subject))

    def sequences(self, subject: str) -> list[str]:
        """Sequences that are imported for a subject."""
        return list(self.entry(subject).sequences or self.config.capture.sequences)

    def driver(self, subject: str) -> str:
        """Whose motion a subject is given in cross-reenactment.

        By default the next train subject's in alphabetical order: that is nobody else's when a test subject is added.
        """
        if (named := self.entry(subject).driver) is not None:
            return named
        others = sorted(s for s in self.config.subjects.train if s != subject)
        if not others:
            raise UserError(f"subject {subject}: nobody else's motion is there; name somebody with --driver")
        return next((s for s in others if s > subject), others[0])

    # where things are read ---------------------------------------------------------------------------------
    def makes(self, path: Path | str) -> bool:
        """Whether the run itself makes a file or folder that its config names, so that it need not be there before.

        So it is with all below `{results}/synthetic`, when the config has the section `synthetic`.
        """
        if self.config.synthetic is None:
            return False
        return Path(path).resolve().is_relative_to(self.layout.synthetic.resolve())

    @property
    def head(self) -> HeadAssets:
        """The head model's three files."""
        if self.config.flame.assets is None:
            raise UserError(
                "flame.assets is not set: give the paths of FLAME's model, masks and template (`flame: assets: {model: "
                ".../flame2023.pkl, masks: .../FLAME_masks.pkl, template: .../head_template_mesh.obj}`), or try the "
                "synthetic people with `make demo`"
            )
        return self.config.flame.assets

    @property
    def head_files(self) -> list[Path]:
        """The head model's three files."""
        return self.head.files

    @property
    def url(self) -> str:
        """Where raw captures come from, as the config or the environment says; empty where neither does."""
        from osgap.capture.download.sources import data_url

        return data_url(self.config.capture)

    @property
    def downloads(self) -> bool:
        """Whether raw captures are part of the run."""
        return self.config.capture.download

    @property
    def makes_recordings(self) -> bool:
        """Whether the data URL is a folder that the run itself fills.

        Raises:
            UserError: the URL is none that can be used.
        """
        from osgap.capture.download.sources import local_folder

        folder = local_folder(self.url) if self.url else None
        return folder is not None and self.makes(folder)

    def download_sources(self, subject: str) -> list[Path]:
        """Files of the run that a download of a subject reads: none, except where the run makes the recordings."""
        return [self.layout.synthetic_person(subject)] if self.makes_recordings else []

    def download_of(self, subject: str) -> list[Path]:
        """The manifest of the raw sequences that an import checks its tracking against, if there are any."""
        return [self.layout.download(subject)] if self.downloads else []

    def tracking_pattern(self, subject: str) -> str:
        """Path of a subject's FLAME tracking export, in which wildcards may stand."""
        from osgap.capture.tracking.finding import tracking_pattern

        return tracking_pattern(self.config.capture, subject, self.entry(subject))

    def tracking(self, subject: str) -> Path:
        """The FLAME tracking export of a subject."""
        from osgap.capture.tracking.finding import find_tracking

        return find_tracking(self.config.capture, subject, self.entry(subject))

    def tracking_files(self, subject: str) -> list[Path]:
        """What an import depends on: the tracking's tables (a change there means that the tracking was made anew)."""
        from osgap.capture.tracking.layouts import tracking_files

        if self.makes(self.tracking_pattern(subject)):
            return [self.layout.synthetic_person(subject)]
        return tracking_files(self.tracking(subject), self.entry(subject).sequences)

    @cached_property
    def adopted_avatars(self) -> dict[str, Path]:
        """Folder of the avatar that another program fitted, of the subjects that have one."""
        return all_adopted(self.config.interop, "avatars", self.config.subjects.all)

    @cached_property
    def adopted_maps(self) -> dict[str, Path]:
        """Attribute maps that another program made, of the train subjects that have them."""
        return all_adopted(self.config.interop, "uv_gt", self.config.subjects.train)

    @staticmethod
    def one_of(subjects: Iterable[str]) -> str:
        """A wildcard's pattern that fits these subjects only."""
        return "|".join(map(re.escape, subjects)) or "(?!)"

    @property
    def methods(self) -> list[str]:
        """What is compared in this run, in the order of the tables."""
        return methods_of(self.config)

    @property
    def personalised(self) -> dict[str, Supervision]:
        """Folder of personalised avatars -> the supervision that they were made by."""
        return {self.layout.personalised(supervision): supervision for supervision in SUPERVISIONS}

    @property
    def calibrated(self) -> dict[str, Supervision]:
        """Those of `personalised` whose strength is calibrated; a folder has one for everybody."""
        return {folder: name for folder, name in self.personalised.items() if self.config.calibrates(name)}

    def calibration_of(self, folder: str) -> list[Path]:
        """The calibration that the avatars of a folder are made with, if there is one."""
        return [self.layout.calibration(self.calibrated[folder])] if folder in self.calibrated else []

    def avatar(self, method: str, subject: str) -> Path:
        """Folder of a method's avatar of a subject; for the mean avatar the mean map, which is everybody's.

        The prior's own prediction is the same whatever follows it; it is kept beside the one-shot avatar.

        Raises:
            UserError: an unknown method.
        """
        if method not in METHODS:
            raise UserError(f"unknown method {method!r}; the methods are {', '.join(METHODS)}")
        if method in SUPERVISIONS:
            return self.layout.oneshot(subject, method)
        return {
            "mean_avatar": self.layout.prior / "mean_uv.npz",
            "prior": self.layout.oneshot(subject) / "prior",
            "fit": self.layout.fit(subject),
        }[method]

    def avatar_files(self, method: str, subject: str) -> list[Path]:
        """The files that `avatar` stands for."""
        path = self.avatar(method, subject)
        return [path] if path.suffix else [path / "point_cloud.ply", path / "flame_param.npz"]

    @property
    def weight_files(self) -> list[Path]:
        """Backbone weights of LPIPS that are there; where one is not, its metric stays empty."""
        weights = self.config.evaluation.lpips
        return [file.path for file in (weights.alex, weights.vgg) if file is not None and file.path.is_file()]

    @property
    def prior_files(self) -> list[Path]:
        """Weights that the prior's training reads: those that it starts from, and those of LPIPS, if any."""
        return [file.path for file in self.prior_weights.values()]

    @property
    def prior_weights(self) -> dict[str, WeightFile]:
        """By the key of the config that names them."""
        return self.config.prior.weight_files

    @property
    def shown(self) -> Supervision:
        """Of the personalised avatars those that pictures show where they show one: that have seen the least."""
        return next(name for name in SUPERVISIONS if name in self.config.oneshot.supervision)

    def shown_files(self, subject: str, *methods: str) -> list[Path]:
        """What a picture of a subject is drawn from.

        Args:
            methods: whose avatars it shows. Default is all.
        """
        avatars = [file for method in methods or self.methods for file in self.avatar_files(method, subject)]
        return [*self.head_files, self.layout.capture(subject), *avatars]

    def video_files(self, subject: str) -> list[Path]:
        """What a video is made of."""
        return self.shown_files(subject, self.shown, "fit")

    @property
    def overview_files(self) -> list[Path]:
        """What the overview is drawn from."""
        test = self.config.subjects.test
        return list(dict.fromkeys(file for subject in test for file in self.shown_files(subject, self.shown)))

    def shown_settings(self, stage: str, *subjects: str, keys: Sequence[str] = ()) -> str:
        """`settings` of a picture that shows one personalised avatar: other supervision does not matter to it."""
        return self.settings(stage, *subjects, keys=keys, supervision=self.shown)

    # targets ---------------------------------------------------------------------------------------------
    @property
    def fitted(self) -> list[str]:
        """Subjects whose avatar in `layout.fit` is part of the run: all but those whose maps are given."""
        return [subject for subject in self.config.subjects.all if subject not in self.adopted_maps]

    @property
    def targets(self) -> list[Path]:
        """What `rule all` asks for."""
        fits = [self.layout.fit(subject) / "preview.png" for subject in self.fitted]
        made = [target for run in self.runs for target in run.report_files]
        compared = [self.layout.ablation_summary, *self.layout.ablations.values()] if self.experiments else []
        return list(dict.fromkeys([*made, *compared, *fits]))

    @property
    def report_files(self) -> list[Path]:
        """Tables, figures and videos of an experiment."""
        test, layout = self.config.subjects.test, self.layout
        return [
            layout.summary,
            *self.layout.tables.values(),
            layout.figure("overview"),
            *(layout.figure(f"person_{subject}") for subject in test),
            *(layout.figure(f"cross_{subject}") for subject in test),
            *(layout.video(subject) for subject in test),
        ]

    def metric_files(self, subjects: Sequence[str]) -> list[Path]:
        """One result per method and subject, in the order of the tables."""
        return [self.layout.metrics(method, subject) for method in self.methods for subject in subjects]

    @property
    def compared(self) -> str:
        """The experiments that are compared, their methods and where their parts lie, as JSON for `osgap ablation`."""
        runs = self.experiments.items()
        return json.dumps({n: {"methods": run.methods, "folders": dict(run.layout.places)} for n, run in runs})

    @property
    def compared_files(self) -> list[Path]:
        """Results of the experiments that are compared."""
        return list(dict.fromkeys(f for run in self.runs for f in run.metric_files(self.config.subjects.test)))

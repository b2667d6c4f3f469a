"""What the Snakefile needs to know of a config: settings and code of each job, and checks before the first one."""

from __future__ import annotations

import glob
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from osgap.capture.config import URL_VARIABLE, CaptureConfig, SubjectEntry
from osgap.capture.nersemble import participant_of
from osgap.evaluation.methods import METHODS, SPLIT_TABLES
from osgap.head.config import HeadAssets
from osgap.prior.config import SUPERVISIONS, Supervision, check_validation
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import code_digest
from osgap.runtime.weights import WeightFile
from osgap.synthetic.config import SyntheticConfig
from osgap.workflow.config import Config, validate
from osgap.workflow.layout import Layout
from osgap.workflow.stages import STAGES

_SHOWN_PROBLEMS = 12  # with hundreds of subjects, one mistake is found hundreds of times


class Pipeline:
    """One validated config with its paths.

    Raises:
        UserError: the config is wrong, or a file that it names is missing.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.layout = Layout(config.results)

    @classmethod
    def for_snakemake(cls, merged: Mapping[str, Any]) -> Pipeline:
        """Validate what Snakemake merged, check what can be checked before any job, and prepare the jobs' environment.

        The data URL is a secret, so it reaches the jobs through the environment and never through a command line.
        """
        pipeline = cls(validate(merged))
        pipeline.check()
        if url := pipeline.url:
            os.environ[URL_VARIABLE] = url
        # Jobs run the `osgap` of the interpreter that runs Snakemake, whether or not its environment is activated.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return pipeline

    # what a job is told ----------------------------------------------------------------------------------
    def settings(self, stage: str, *subjects: str, supervision: Supervision | None = None) -> str:
        """The part of the config that a job uses, as JSON for `osgap STAGE --config`.

        As a rule's parameter it makes Snakemake run the job again when, and only when, that part changes.

        Args:
            subjects: whose entries belong to it.
            supervision: of personalisation, where the job is about one; what concerns others is left out.
        """
        spec = STAGES[stage]
        dump = self.config.model_dump(mode="json", exclude_defaults=True)
        if supervision is not None:
            concerning = self.config.oneshot.concerning(supervision)
            dump["oneshot"] = concerning.model_dump(mode="json", exclude_defaults=True)
        part: dict[str, Any] = {"seed": self.config.seed, "results": str(self.config.results)}
        for name in spec.sections:
            section, _, key = name.partition(".")
            used = dump.get(section, {}) if not key else {k: v for k, v in dump.get(section, {}).items() if k == key}
            if used:
                part[section] = used
        part.get("capture", {}).pop("url", None)
        if self.synthetic:
            # The people's looks and motion concern the stages that make them; the others need to know that the
            # head model is the synthetic one, and what was performed.
            sequences = {"sequences": list(self.synthetic_config.sequences)}
            part["synthetic"] = dump["synthetic"] if "synthetic" in spec.sections else sequences
        elif self.config.flame.assets:
            part["flame"] = {"assets": self.config.flame.assets.model_dump(mode="json")}
        entries = dump.get("subjects", {}).get("entries", {})
        if spec.entry and (own := {name: entries[name] for name in subjects if name in entries}):
            part["subjects"] = {"entries": own}
        return json.dumps(part, sort_keys=True)

    @staticmethod
    def code(stage: str) -> str:
        """Digest of the modules that the stage imports: editing one of them runs its jobs again."""
        return code_digest(STAGES[stage].module)

    # subjects --------------------------------------------------------------------------------------------
    @property
    def synthetic(self) -> bool:
        """Whether the people are the synthetic ones."""
        return self.config.synthetic is not None

    def entry(self, subject: str) -> SubjectEntry:
        """What the config says of a subject.

        Raises:
            UserError: nobody of that name is in the config's lists (jobs of a run are told no lists).
        """
        known = self.config.subjects.all
        if known and subject not in known:
            raise UserError(
                f"subject {subject} is in neither subjects.train nor subjects.test; check the name, or add it there"
            )
        return self.config.subjects.entry(subject)

    def participant(self, subject: str) -> int:
        """NeRSemble's number of a subject."""
        return participant_of(subject, self.entry(subject))

    def sequences(self, subject: str) -> list[str]:
        """Sequences that are imported for a subject."""
        if self.config.synthetic is not None:
            return list(self.config.synthetic.sequences)
        return list(self.entry(subject).sequences or self.config.capture.sequences)

    def driver(self, subject: str) -> str:
        """Whose motion a test subject is given in cross-reenactment: the next test subject's, or the first trained."""
        others = [s for s in self.config.subjects.test if s != subject] or self.config.subjects.train
        later = [s for s in others if s > subject]
        return (later or others)[0]

    @property
    def synthetic_config(self) -> SyntheticConfig:
        """Settings of the synthetic people."""
        if self.config.synthetic is None:
            raise UserError(
                "synthetic is not set: this config is about real people; try `make demo` for synthetic people"
            )
        return self.config.synthetic

    @property
    def capture_config(self) -> CaptureConfig:
        """Settings of download and import, with the data URL and the sequences that hold in this run."""
        update: dict[str, Any] = {"url": self.url}
        if self.synthetic:
            update["sequences"] = list(self.synthetic_config.sequences)
        return self.config.capture.model_copy(update=update)

    # files that the run does not make --------------------------------------------------------------------
    @property
    def head(self) -> HeadAssets:
        """The head model's three files."""
        if self.config.flame.assets is not None:
            return self.config.flame.assets
        if self.synthetic:
            folder = self.layout.synthetic_head
            return HeadAssets(
                model=folder / "flame2023.pkl",
                masks=folder / "FLAME_masks.pkl",
                template=folder / "head_template_mesh.obj",
            )
        raise UserError(
            "flame.assets is not set: give the paths of FLAME's model, masks and template (`flame: assets: {model: "
            ".../flame2023.pkl, masks: .../FLAME_masks.pkl, template: .../head_template_mesh.obj}`), or try the "
            "synthetic people with `make demo`"
        )

    @property
    def head_files(self) -> list[Path]:
        """The head model's three files."""
        return self.head.files

    @property
    def url(self) -> str | None:
        """Where the captures come from: the the synthetic people's own folder, the config, or the environment."""
        if self.synthetic:
            return self.layout.synthetic_nersemble.resolve().as_uri()
        return self.config.capture.url or os.environ.get(URL_VARIABLE)

    @property
    def downloads(self) -> bool:
        """Whether raw captures are part of the run."""
        return self.synthetic or self.config.capture.download

    def tracking(self, subject: str) -> Path:
        """The FLAME tracking export of a subject."""
        if self.synthetic:
            from osgap.synthetic.captures.tracking import union_folder

            return union_folder(self.layout.synthetic_tracking(subject), subject, self.sequences(subject))
        from osgap.capture.tracking.stage import find_tracking

        return find_tracking(self.config.capture, subject, self.entry(subject))

    def adopted(self, key: Literal["avatars", "uv_gt"], subject: str) -> Path | None:
        """What another program has already made of a subject; None where it has not.

        Raises:
            UserError: when several paths fit the config's template.
        """
        template: str | None = getattr(self.config.interop, key)
        if template is None:
            return None
        pattern = template.format(subject=subject)
        matches = sorted(glob.glob(pattern))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        if len(matches) > 1:
            raise UserError(
                f"subject {subject}: {len(matches)} paths fit {pattern} (interop.{key}): {', '.join(matches[:3])}; "
                f"make the pattern fit one"
            )
        return Path(matches[0]) if matches else None

    @cached_property
    def adopted_avatars(self) -> dict[str, Path]:
        """Folder of the avatar that another program fitted, of the subjects that have one."""
        return self._all_adopted("avatars", self.config.subjects.all)

    @cached_property
    def adopted_maps(self) -> dict[str, Path]:
        """Attribute maps that another program made, of the train subjects that have them."""
        return self._all_adopted("uv_gt", self.config.subjects.train)

    def _all_adopted(self, key: Literal["avatars", "uv_gt"], subjects: Sequence[str]) -> dict[str, Path]:
        found = {subject: path for subject in subjects if (path := self.adopted(key, subject)) is not None}
        if (template := getattr(self.config.interop, key)) and subjects and not found:
            raise UserError(
                f"interop.{key}: nobody has {template}; correct the path, or leave the key out to have everybody "
                f"fitted here"
            )
        return found

    @staticmethod
    def one_of(subjects: Iterable[str]) -> str:
        """A wildcard's pattern that fits these subjects only."""
        return "|".join(map(re.escape, subjects)) or "(?!)"

    def tracking_files(self, subject: str) -> list[Path]:
        """What an import depends on: the tracking's tables (a change there means that the tracking was made anew)."""
        if self.synthetic:
            return [self.layout.synthetic_person(subject)]
        from osgap.capture.tracking.stage import tracking_files

        return tracking_files(self.tracking(subject), self.entry(subject).sequences)

    @property
    def methods(self) -> list[str]:
        """What is compared in this run, in the order of the tables: all but the supervision that is not asked for."""
        others = set(SUPERVISIONS) - set(self.config.oneshot.supervision)
        return [method for method in METHODS if method not in others]

    @property
    def personalised(self) -> dict[str, Supervision]:
        """Folder of personalised avatars -> the supervision that they were made by."""
        return {self.layout.personalised(supervision): supervision for supervision in SUPERVISIONS}

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
        named = {"prior.weights": self.config.prior.weights, "prior.vgg": self.config.prior.vgg}
        return {key: file for key, file in named.items() if file is not None}

    def shown_files(self, subject: str) -> list[Path]:
        """What a figure or video of a subject is drawn from."""
        avatars = [file for method in self.methods for file in self.avatar_files(method, subject)]
        return [*self.head_files, self.layout.capture(subject), *avatars]

    def downloads_of(self, subject: str) -> list[Path]:
        """Manifests of the raw sequences that an import checks its tracking against."""
        if not self.downloads:
            return []
        return [self.layout.download(subject, sequence) for sequence in self.sequences(subject)]

    # targets ---------------------------------------------------------------------------------------------
    @property
    def fitted(self) -> list[str]:
        """Subjects whose avatar in `layout.fit` is part of the run: all but those whose maps are given."""
        return [subject for subject in self.config.subjects.all if subject not in self.adopted_maps]

    @property
    def targets(self) -> list[Path]:
        """What `rule all` asks for."""
        test, layout = self.config.subjects.test, self.layout
        return [
            layout.summary,
            *self.table_files.values(),
            layout.figure("overview"),
            *(layout.figure(f"person_{subject}") for subject in test),
            *(layout.figure(f"cross_{subject}") for subject in test),
            *(layout.video(subject) for subject in test),
            *(layout.fit(subject) / "preview.png" for subject in self.fitted),
        ]

    def metric_files(self, subjects: Sequence[str]) -> list[Path]:
        """One result per method and subject, in the order of the tables."""
        return [self.layout.metrics(method, subject) for method in self.methods for subject in subjects]

    @property
    def table_files(self) -> dict[tuple[str, str], Path]:
        """(evaluation split, suffix) -> file."""
        return {(p, suffix): self.layout.table(p, suffix) for p in SPLIT_TABLES for suffix in ("csv", "md", "tex")}

    # before the first job --------------------------------------------------------------------------------
    def check(self) -> None:
        """Everything that would stop the run later and can be seen now, all findings at once."""
        problems: list[str] = []

        def attempt(check: Any, *arguments: Any) -> None:
            try:
                check(*arguments)
            except UserError as error:
                problems.append(str(error))

        attempt(self.check_people)
        attempt(lambda: self.adopted_avatars)
        attempt(lambda: self.adopted_maps)
        if not self.synthetic:
            attempt(self._check_head)
            if self.config.capture.download:
                from osgap.capture.download.stage import check_url

                attempt(check_url, self.config.capture)
            for subject in self.config.subjects.all:
                attempt(self._check_tracking, subject)
        attempt(self._check_prior_weights)
        attempt(check_validation, self.config.prior.validation, self.config.subjects.train)
        if len(problems) > _SHOWN_PROBLEMS:
            problems[_SHOWN_PROBLEMS:] = [f"… and {len(problems) - _SHOWN_PROBLEMS} more of this kind"]
        if problems:
            raise UserError("\n".join(problems))

    def check_people(self) -> None:
        """Whether the lists of subjects make a run.

        Raises:
            UserError: an empty list, an entry of nobody, one participant in both lists.
        """
        subjects = self.config.subjects
        for name, listed in (("train", subjects.train), ("test", subjects.test)):
            if not listed:
                raise UserError(f'subjects.{name} is empty; list at least one subject, such as ["017"]')
        unknown = sorted(set(subjects.entries) - set(subjects.all))
        if unknown:
            raise UserError(
                f"subjects.entries has {', '.join(unknown)}, in neither subjects.train nor subjects.test; "
                f"add the subject to one of them or remove the entry"
            )
        if self.downloads:
            train = {self.participant(s): s for s in subjects.train}
            for subject in subjects.test:
                twin = train.get(self.participant(subject))
                if twin is not None:
                    raise UserError(
                        f"test subject {subject} and train subject {twin} are the same NeRSemble participant "
                        f"{self.participant(subject)}; a test person must be unseen: remove one of the two"
                    )

    def _check_head(self) -> None:
        missing = [str(path) for path in self.head_files if not path.is_file()]
        if missing:
            raise UserError(
                f"flame.assets: no such file: {', '.join(missing)}; FLAME is licensed: register with its makers, "
                f"download FLAME 2023 and give the files' paths, or try the synthetic people with `make demo`"
            )

    def _check_prior_weights(self) -> None:
        for key, file in self.prior_weights.items():
            if not file.path.is_file():
                raise UserError(f"{key}: no such file: {file.path}; correct the path, or leave the key out")

    def _check_tracking(self, subject: str) -> None:
        from osgap.capture.tracking.stage import check_tracking

        check_tracking(self.config.capture, subject, self.entry(subject))

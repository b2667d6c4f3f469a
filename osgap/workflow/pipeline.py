"""What a config means for the workflow: who and what is in the run, which files each job reads, what it is told."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from osgap.capture.config import SubjectEntry
from osgap.capture.nersemble import participant_of
from osgap.evaluation.methods import METHODS, SPLIT_TABLES
from osgap.head.config import HeadAssets
from osgap.prior.config import SUPERVISIONS, Supervision
from osgap.runtime.acceptance import Acceptances, read_acceptances
from osgap.runtime.code import code_digest
from osgap.runtime.errors import UserError
from osgap.runtime.weights import WeightFile
from osgap.workflow.accept import Recorded, record, rule_parameter
from osgap.workflow.config import Config
from osgap.workflow.layout import Layout
from osgap.workflow.stages import STAGES


class Pipeline:
    """One validated config with its paths."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.layout = Layout(config.results)
        self.recorded: Recorded = lambda _: None
        """What Snakemake recorded of an output, where Snakemake asks."""

    # what a job is told ----------------------------------------------------------------------------------
    def settings(self, stage: str, *subjects: str, supervision: Supervision | None = None) -> str:
        """The part of the config that a job uses, as JSON for `osgap STAGE --config`.

        As a rule's parameter it makes Snakemake run the job again when, and only when, that part changes. The data URL
        is in no dump of the config; it reaches the jobs through the environment.

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
            used = dump.get(section)
            if used is None:
                continue
            if not key:
                part[section] = used
            elif key in used:
                part.setdefault(section, {})[key] = used[key]
        entries = dump.get("subjects", {}).get("entries", {})
        own = {s: {key: entries[s][key] for key in spec.entry if key in entries[s]} for s in subjects if s in entries}
        if own := {subject: entry for subject, entry in own.items() if entry}:
            part["subjects"] = {"entries": own}
        return json.dumps(part, sort_keys=True)

    @cached_property
    def acceptances(self) -> Acceptances:
        """Which code `osgap accept` lets stand for which."""
        return read_acceptances(self.layout.accepted)

    def code(self, stage: str, output: Path | None = None) -> str | Callable[[Any], str]:
        """Digest of the modules that the stage imports: editing one runs its jobs again, unless that was accepted.

        Args:
            output: the file of the job that has a provenance, with wildcards, where stage and wildcards do not say it.
        """
        if stage not in self.acceptances:
            return code_digest(STAGES[stage].module)
        return rule_parameter(self.acceptances, stage, output or record(self.layout, stage), self.recorded)

    # subjects --------------------------------------------------------------------------------------------
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
        return list(self.entry(subject).sequences or self.config.capture.sequences)

    def driver(self, subject: str) -> str:
        """Whose motion a test subject is given in cross-reenactment: the next test subject's, or the first trained."""
        others = [s for s in self.config.subjects.test if s != subject] or self.config.subjects.train
        later = [s for s in others if s > subject]
        return (later or others)[0]

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

    def downloads_of(self, subject: str) -> list[Path]:
        """Manifests of the raw sequences that an import checks its tracking against."""
        if not self.downloads:
            return []
        return [self.layout.download(subject, sequence) for sequence in self.sequences(subject)]

    def tracking_pattern(self, subject: str) -> str:
        """Path of a subject's FLAME tracking export, in which wildcards may stand."""
        from osgap.capture.tracking.stage import tracking_pattern

        return tracking_pattern(self.config.capture, subject, self.entry(subject))

    def tracking(self, subject: str) -> Path:
        """The FLAME tracking export of a subject."""
        from osgap.capture.tracking.stage import find_tracking

        return find_tracking(self.config.capture, subject, self.entry(subject))

    def tracking_files(self, subject: str) -> list[Path]:
        """What an import depends on: the tracking's tables (a change there means that the tracking was made anew)."""
        from osgap.capture.tracking.stage import tracking_files

        if self.makes(self.tracking_pattern(subject)):
            return [self.layout.synthetic_person(subject)]
        return tracking_files(self.tracking(subject), self.entry(subject).sequences)

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

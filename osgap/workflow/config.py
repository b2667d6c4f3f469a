"""The whole config: YAML files and inline overrides, deep-merged and validated by one model.

The Snakefile and the command line both call `load_config`, so a key that one accepts the other accepts. The
sections themselves live beside the code that uses them (`osgap/<package>/config.py`).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from osgap.capture.config import CaptureConfig, SubjectEntry
from osgap.evaluation.config import EvaluationConfig
from osgap.fit.config import FitConfig
from osgap.head.config import HeadAssets
from osgap.interop.config import InteropConfig
from osgap.prior.config import OneShotConfig, PriorConfig, Supervision, people_to_calibrate_on
from osgap.report.config import ReportConfig
from osgap.runtime.artifacts import PROVENANCE_KEY
from osgap.runtime.errors import UserError
from osgap.runtime.gpus import Accelerator
from osgap.runtime.section import OPERATIONAL, PLACE, Section
from osgap.runtime.upgrades import Upgrades
from osgap.synthetic.config import SyntheticConfig
from osgap.workflow.cache_config import CacheConfig
from osgap.workflow.cluster import ClusterConfig
from osgap.workflow.experiments import NAME_PATTERN, OVERLAID, Experiment


class Flame(Section):
    """The head model."""

    assets: HeadAssets | None = None
    """FLAME's three files."""


_SHOWN = 8  # names in a message


class Subjects(Section):
    """Who is in the run."""

    train: list[str] = []
    """Subjects that the prior is trained on; quoted, because YAML reads a bare 017 as the number 15."""
    test: list[str] = []
    """Subjects that the prior never sees; quoted. Each becomes an avatar from one photograph."""
    entries: dict[str, SubjectEntry] = {}
    """What differs for single subjects, by subject."""

    @field_validator("train", "test", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if isinstance(value, list):
            for item in value:
                if not isinstance(item, str):
                    raise ValueError(
                        f'subject {item!r} is a {type(item).__name__}; write it in quotes, such as "017" '
                        f"(YAML reads a bare 017 as the number 15)"
                    )
                if not item or not all(c.isalnum() or c in "-_" for c in item):
                    raise ValueError(f"subject {item!r} names files and folders: use letters, digits, '-' and '_'")
        return value

    @model_validator(mode="after")
    def _disjoint(self) -> Subjects:
        for name, listed in (("train", self.train), ("test", self.test)):
            twice = sorted({s for s in listed if listed.count(s) > 1})
            if twice:
                raise ValueError(f"subject {', '.join(twice)} stands more than once in subjects.{name}; list it once")
        both = sorted(set(self.train) & set(self.test))
        if both:
            raise ValueError(
                f"subject {', '.join(both)} is in both subjects.train and subjects.test; a test person must be "
                f"unseen: remove it from one of the two"
            )
        return self

    @property
    def all(self) -> list[str]:
        """Train subjects, then test subjects."""
        return [*self.train, *self.test]

    def entry(self, subject: str) -> SubjectEntry:
        """What the config says of one subject (nothing, by default)."""
        return self.entries.get(subject, SubjectEntry())

    def refuse_stranger(self, name: str) -> None:
        """Raise `UserError` where the lists name subjects, and this is none of them."""
        if not self.all or name in self.all:
            return
        listed = ", ".join(self.all[:_SHOWN]) + (", …" if len(self.all) > _SHOWN else "")
        if "." not in name and "/" not in name:
            raise UserError(
                f"subject {name} is in neither subjects.train nor subjects.test ({listed}); check the name, or "
                f"add it there"
            )
        raise UserError(
            f"{name}: is a file name; a subject is the name of a person in subjects.train or subjects.test ({listed}). "
            f"For the avatar of a photograph, track it first: capture.tracking names the export (docs/data.md); add "
            f"the person to subjects.test, and say in subjects.entries.NAME.source which of the frames it is."
        )


class Config(Section):
    """Everything that a run can be told."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """The seed that all others derive from, with the stage and the subject [number]."""
    results: Path = Field(default=Path("results"), json_schema_extra=PLACE)
    """Folder of everything that the run writes. `{results}` in any other text of the config stands for it."""
    accelerator: Accelerator = Field(default="auto", json_schema_extra=OPERATIONAL)
    """Where stages compute: `auto` is on GPUs where there are any, else on the CPU; `cpu` leaves GPUs alone; `cuda`
    stops where there is none. No job runs again because of it."""
    upgrades: Upgrades = Field(default="warn", json_schema_extra=OPERATIONAL)
    """What happens to results and checkpoints of other versions of Python, torch, numpy, numba, OpenCV or h5py: they
    stand, and a log says so (`warn`); they are made again (`rerun`); they stand (`accept`)."""
    subjects: Subjects = Subjects()
    flame: Flame = Flame()
    capture: CaptureConfig = CaptureConfig()
    synthetic: SyntheticConfig | None = None
    """Procedural people in place of licensed data, made by the run in `{results}/synthetic`; `flame.assets`,
    `capture.url` and `capture.tracking` name their files there. None in a real run."""
    interop: InteropConfig = InteropConfig()
    fit: FitConfig = FitConfig()
    prior: PriorConfig = PriorConfig()
    oneshot: OneShotConfig = OneShotConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    report: ReportConfig = ReportConfig()
    experiments: dict[str, Experiment] = {}
    """Runs of one dataset that differ in what follows the fits, by name. These are made, each in
    `{results}/experiments/NAME`, and compared in one table; without any it is the config as it stands."""
    cache: CacheConfig = CacheConfig()
    cluster: ClusterConfig = Field(default=ClusterConfig(), json_schema_extra=OPERATIONAL)

    def calibrates(self, supervision: Supervision) -> bool:
        """Whether the strength of personalisation is calibrated: where not everything is seen."""
        return supervision != "all_frames" and bool(self.calibration_people)

    @property
    def calibration_people(self) -> list[str]:
        """Training people whom the strength of personalisation is calibrated on."""
        return people_to_calibrate_on(self.subjects.train, self.prior.validation, self.oneshot.calibration_people)

    @field_validator("experiments")
    @classmethod
    def _names(cls, value: dict[str, Experiment]) -> dict[str, Experiment]:
        for name in value:
            if not re.fullmatch(NAME_PATTERN, name):
                raise ValueError(f"experiment {name!r} names a folder: use letters, digits, '-' and '_'")
            if name == PROVENANCE_KEY:
                raise ValueError(f"experiment {name!r}: the experiments' summary has its own; give it another name")
        return value

    @model_validator(mode="before")
    @classmethod
    def _fill_in_results(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        results = str(content.get("results", cls.model_fields["results"].default))
        return {key: _with_results(value, results) if key != "results" else value for key, value in content.items()}

    def experiment(self, name: str) -> Config:
        """The config of one experiment, which names no experiments itself.

        Raises:
            UserError: there is none of that name, or what it lays over a section is wrong there.
        """
        if name not in self.experiments:
            known = ", ".join(self.experiments) or "none"
            raise UserError(f"experiment {name}: the config has none of that name; its section experiments has {known}")
        laid_over = self.experiments[name]
        update: dict[str, Any] = {} if laid_over.seed is None else {"seed": laid_over.seed}
        for section in OVERLAID:
            own = getattr(self, section)
            merged = deep_merge(own.model_dump(mode="json", exclude_defaults=True), getattr(laid_over, section))
            try:
                update[section] = type(own).model_validate(merged)
            except ValidationError as error:
                raise UserError(
                    "\n".join(_explain(item, (section,), f"experiments.{name}.") for item in error.errors())
                ) from None
        return self.model_copy(update={**update, "experiments": {}})


def _with_results(value: Any, results: str) -> Any:
    """The value with `{results}` replaced in its texts; other braces are filled in where they are used."""
    if isinstance(value, str):
        return value.replace("{results}", results)
    if isinstance(value, Mapping):
        return {key: _with_results(item, results) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_results(item, results) for item in value]
    return value


def load_config(sources: Iterable[str | Path | Mapping[str, Any]], overrides: Iterable[str] = ()) -> Config:
    """Merge and validate.

    Args:
        sources: in order, later ones win per key: paths of YAML files, inline YAML or JSON mappings (texts that
            start with `{`), or mappings.
        overrides: `a.b=value` texts, the value in YAML.

    Raises:
        UserError: a file that is missing or no mapping; an unknown key, a wrong type, a value out of range.
    """
    merged: dict[str, Any] = {}
    names = []
    for source in sources:
        merged = deep_merge(merged, _read(source))
        if not isinstance(source, Mapping) and not str(source).lstrip().startswith("{"):
            names.append(str(source))
    for override in overrides:
        merged = deep_merge(merged, _parse_override(override))
    return validate(merged, where=", ".join(names) or "config")


def validate(content: Mapping[str, Any], where: str = "config") -> Config:
    """Validate a merged config; `where` stands in the error message."""
    try:
        config = Config.model_validate(content)
        for name in config.experiments:
            config.experiment(name)
    except ValidationError as error:
        raise UserError("\n".join([f"{where}:", *(f"  {_explain(item)}" for item in error.errors())])) from None
    except UserError as error:
        raise UserError("\n".join([f"{where}:", *(f"  {line}" for line in str(error).splitlines())])) from None
    return config


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` wins; mappings merge key by key, everything else (lists too) is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = deep_merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _read(source: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    inline = str(source).lstrip().startswith("{")
    try:
        text = str(source) if inline else Path(source).read_text()
        content = yaml.safe_load(text) or {}
    except FileNotFoundError:
        raise UserError(f"{source}: no such config file; check the path given with --config") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not a text in UTF-8 ({error.reason}); save it as such") from None
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except yaml.YAMLError as error:
        name = "the inline config" if inline else source
        raise UserError(f"{name}: not valid YAML{_position(error)}; correct it") from None
    if not isinstance(content, Mapping):
        found = type(content).__name__
        raise UserError(
            f"{source}: expected `key: value` lines at the top, found a {found}; check the path given with --config"
        )
    return content


def _position(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the line itself: a secret may stand in it."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{where} ({problem})" if problem else where


def _parse_override(text: str) -> dict[str, Any]:
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise UserError(f"--set {text}: expected KEY=VALUE, such as --set fit.iterations=300")
    try:
        content: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {path}: the value is not valid YAML{_position(error)}; put it in quotes") from None
    for key in reversed(path.split(".")):
        content = {key: content}
    return content


def _explain(error: Any, within: Sequence[str] = (), prefix: str = "") -> str:
    """One line for one validation error: the key, what was found, what would be accepted.

    Args:
        within: path of the section that was validated.
        prefix: what stands before the key's path in the config.
    """
    location = [*within, *(str(part) for part in error["loc"])]
    key = prefix + ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known keys here: {', '.join(sorted(known))}"
        if location[-1] in Config.model_fields and len(location) > 1:
            hint = f"`{location[-1]}` is a key of the top: write it there, in no section"
        return f"{key}: unknown key; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: found {json.dumps(error.get('input'), default=str)}; {message}"


def _known_keys(location: list[str]) -> list[str]:
    """The field names of the section at `location`."""
    model: Any = Config
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:  # a key of a mapping of sections, such as subjects.entries.017
            continue
        model = _section_of(field.annotation) or model
    return list(model.model_fields)


def _section_of(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_of(argument)
        if found is not None:
            return found
    return None

"""What a job is told: one part decides when it runs again, the other does not.

Both are JSON for `osgap STAGE --config`. `settings` is a rule's parameter, so that Snakemake runs the job again when,
and only when, that part of the config changes. `operation` says where files are and what is done how often. It reaches
the jobs through the environment, because parameters are part of a cache's keys; what an experiment changes of it is a
parameter that is a function of the output, which Snakemake does not record. The data URL is in no dump of the config,
and in the environment, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from osgap.prior.config import SUPERVISIONS, Supervision
from osgap.workflow.config import Config
from osgap.workflow.stages import Stage

OPERATION_VARIABLE = "OSGAP_OPERATION"
"""Environment variable in which a run's jobs find `operation`; whatever a command is told otherwise wins over it."""


def settings(
    config: Config,
    computation: Mapping[str, Any],
    stage: Stage,
    subjects: Sequence[str] = (),
    keys: Sequence[str] = (),
    supervision: Supervision | None = None,
) -> str:
    """The part of a config that decides what a job makes.

    Args:
        computation: `config.computation(exclude_defaults=True)`, which many jobs share.
        subjects: whose entries belong to it.
        keys: of the config that the job uses beside those of its stage.
        supervision: of personalisation, where the job is about one; what concerns others is left out.
    """
    if supervision is not None:
        oneshot = config.oneshot.concerning(supervision).computation(exclude_defaults=True)
        listed = {} if supervision == SUPERVISIONS[0] else {"supervision": [supervision]}
        computation = {**computation, "oneshot": {**oneshot, **listed}}
    if len(subjects) == 1 and "capture.sequences" in stage.sections:
        computation = {**computation, "capture": _capture_of(config, subjects[0])}
    part: dict[str, Any] = {"seed": config.seed}
    for name in (*stage.sections, *keys):
        section, _, key = name.partition(".")
        used = computation.get(section)
        if used is None:
            continue
        if not key:
            part[section] = used
        elif key in used:
            part.setdefault(section, {})[key] = used[key]
    own = {subject: _entry(computation, subject, stage.entry) for subject in subjects}
    if own := {subject: entry for subject, entry in own.items() if entry}:
        part["subjects"] = {"entries": own}
    return json.dumps(part, sort_keys=True)


def _capture_of(config: Config, subject: str) -> dict[str, Any]:
    """The section `capture` for one subject: whether the sequences are their own or everybody's does not matter."""
    own = config.subjects.entry(subject).sequences
    capture = config.capture if own is None else config.capture.model_copy(update={"sequences": own})
    return capture.computation(exclude_defaults=True)


def _entry(computation: Mapping[str, Any], subject: str, keys: Sequence[str]) -> dict[str, Any]:
    """Some keys of a subject's entry; a participant's number that the name says anyway is left out."""
    entry = computation.get("subjects", {}).get("entries", {}).get(subject, {})
    own = {key: entry[key] for key in keys if entry.get(key) is not None}
    if subject.isdecimal() and own.get("participant") == int(subject):
        del own["participant"]
    return own


def operation(config: Config) -> str:
    """What a job needs to know besides, and no result depends on."""
    return json.dumps(config.operation() | {"results": str(config.results)}, sort_keys=True)


def own_sequences(config: Config, subject: str) -> str:
    """The sequences that a subject's entry names, if it does, as `settings`, for an import.

    They restrict what is read of NeRSemble's benchmark. What they change is among the job's inputs, so that naming
    those that are there anyway makes nothing run again.
    """
    own = config.subjects.entry(subject).sequences
    return json.dumps({"subjects": {"entries": {subject: {"sequences": own}}}} if own else {})

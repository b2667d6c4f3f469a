"""`osgap accept`: finished outputs stand although their code has changed since, because a user says that they may.

Snakemake compares one parameter of a rule, the digest of the stage's code, with the one that it recorded when it made
the output. Where something was accepted, each job gets the very digest that was recorded, as long as the output was
made by the present code or by code that is accepted as equal; otherwise the present digest, and the job runs. What an
output was made by stands in its provenance.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from osgap.runtime.acceptance import (
    Acceptance,
    Acceptances,
    read_acceptances,
    standing,
    write_acceptances,
)
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.code import code_digest, code_digests, digest_of
from osgap.runtime.errors import UserError
from osgap.runtime.upgrades import Upgrades, current_versions, earlier_versions
from osgap.workflow.layout import Layout
from osgap.workflow.stages import STAGES

_RECORDED = re.compile(r"'([0-9a-f]{16}(?: after [0-9a-f, ]+)?)'")
_CHECKPOINTS = {"fit": ("fit",), "train": ("train",), "oneshot": ("oneshot", "few_shot", "all_frames")}
"""Folders of checkpoints, of the stages that keep some."""


@dataclass
class Evidence:
    """What code made the outputs of a stage that are there, and the checkpoints that it would go on from."""

    stage: str
    now: str
    """Digest of the stage's present code."""
    accepted: tuple[str, ...]
    """Digests that stand for it."""
    outputs: dict[Path, frozenset[str]] = field(default_factory=dict)
    """File -> the digests of all code that had a part in it."""
    checkpoints: dict[Path, frozenset[str]] = field(default_factory=dict)
    modules: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Digest -> which modules are others now, where that is known."""

    @property
    def pending(self) -> list[str]:
        """Digests that made something, and stand for nothing yet."""
        made = frozenset().union(*self.outputs.values(), *self.checkpoints.values())
        return sorted(made - {self.now, *self.accepted})

    def made_by(self, digests: Iterable[str]) -> tuple[int, int]:
        """How many outputs and checkpoints code of these digests had a part in."""
        known = set(digests)
        outputs, checkpoints = (sum(bool(d & known) for d in x.values()) for x in (self.outputs, self.checkpoints))
        return outputs, checkpoints


def gather(layout: Layout, stage: str) -> Evidence:
    """What is there of a stage.

    Raises:
        UserError: no such stage, or a damaged `accepted.json`.
    """
    if stage not in STAGES:
        raise UserError(f"no stage is called {stage}; the stages are {', '.join(STAGES)}")
    code = code_digests(STAGES[stage].module)
    now = digest_of(code)
    evidence = Evidence(stage, now, standing(read_acceptances(layout.accepted), stage, now))
    for path in records(layout.results, stage):
        provenance = provenance_of(path, stage)
        if provenance is not None:
            evidence.outputs[path] = frozenset(_codes(provenance))
            old: Mapping[str, str] = provenance["code"]
            others = {module for module in {*old, *code} if old.get(module) != code.get(module)}
            evidence.modules[digest_of(old)] = tuple(sorted(others))
    for name in _CHECKPOINTS.get(stage, ()):
        for folder in _found(layout.results, partial(Layout.checkpoints, stage=name, subject="*")):
            if any(folder.glob("*.pt")):
                from osgap.runtime.checkpoint import codes_of

                evidence.checkpoints[folder] = frozenset(codes_of(folder))
    return evidence


def accept(layout: Layout, stages: Sequence[str]) -> list[Evidence]:
    """Let all that is there of some stages stand for their present code; what was found of each.

    Raises:
        UserError: no such stage, or a damaged `accepted.json`.
    """

    def with_pending(evidence: Evidence, listed: tuple[Acceptance, ...]) -> tuple[Acceptance, ...]:
        modules = evidence.modules
        return (*listed, *(Acceptance(old, evidence.now, modules.get(old, ())) for old in evidence.pending))

    return _revised(layout, stages, with_pending)


def undo(layout: Layout, stages: Sequence[str]) -> list[Evidence]:
    """Take back what was accepted for the present code of some stages; what was found of each, before.

    Raises:
        UserError: no such stage, or a damaged `accepted.json`.
    """
    return _revised(layout, stages, lambda evidence, listed: tuple(each for each in listed if each.new != evidence.now))


def _revised(
    layout: Layout,
    stages: Sequence[str],
    revise: Callable[[Evidence, tuple[Acceptance, ...]], tuple[Acceptance, ...]],
) -> list[Evidence]:
    """Write what `revise` makes of each stage's acceptances, where that is something else."""
    found = [gather(layout, stage) for stage in dict.fromkeys(stages)]
    before = read_acceptances(layout.accepted)
    # A stage that was there once stays, without acceptances: its outputs are still to be judged by what made them, not
    # by what Snakemake recorded.
    after = dict(before)
    for evidence in found:
        listed = before.get(evidence.stage, ())
        if (revised := revise(evidence, listed)) != listed:
            after[evidence.stage] = revised
    if after != before:
        write_acceptances(layout.accepted, after)
    return found


def records(results: Path, stage: str) -> list[Path]:
    """The files of a stage that say what made them, of all experiments, sorted."""
    return _found(results, lambda within: record(within, stage))


def _found(results: Path, path: Callable[[Layout], Path]) -> list[Path]:
    """What is there of a path with wildcards, in the results folder and in those of experiments."""
    layouts = (Layout(results, place=place) for place in ("", "experiments/*/"))
    patterns = {re.sub(r"{\w+}", "*", str(path(layout).relative_to(results))) for layout in layouts}
    return sorted({found for pattern in patterns for found in results.glob(pattern)})


def record(layout: Layout, stage: str) -> Path:
    """The file of each job of a stage that says what made it, with the wildcards of its rule."""
    return {
        "synthetic-head": layout.synthetic_head.template,
        "synthetic-person": layout.synthetic_person("{subject}"),
        "download": layout.download("{subject}"),
        "import": layout.capture("{subject}"),
        "fit": layout.fit("{subject}") / "fit.json",
        "adopt-avatar": layout.fit("{subject}") / "fit.json",
        "bake": layout.uv_gt("{subject}"),
        "adopt-maps": layout.uv_gt("{subject}"),
        "train": layout.prior / "train.json",
        "calibrate": layout.calibration("{folder}"),
        "oneshot": layout.oneshot("{subject}", "{folder}") / "oneshot.json",
        "evaluate": layout.metrics("{method}", "{subject}"),
        "tables": layout.summary,
        "ablation": layout.ablation_summary,
        "figure": layout.figure("{figure}"),
        "video": layout.video("{subject}"),
    }[stage]


# what rules are told -------------------------------------------------------------------------------------
Recorded = Callable[[Path], str | None]
"""The digest of its code that Snakemake recorded for an output; None where it knows of none."""


def rule_parameter(
    acceptances: Acceptances, stage: str, output: Path, recorded: Recorded, upgrades: Upgrades = "warn"
) -> Callable[[Any], str]:
    """The digest of a stage's code as a function of a job's wildcards, for Snakemake.

    Args:
        output: the job's file that has a provenance, with wildcards.
        upgrades: the config's: under `rerun` what other versions of packages made has to differ as well.
    """
    now = code_digest(STAGES[stage].module)
    equal = {now, *standing(acceptances, stage, now)}
    versions = current_versions() if upgrades == "rerun" else {}

    def code(wildcards: Any) -> str:
        path = Path(str(output).format(**dict(wildcards.items())))
        if not path.exists():
            return now
        known = recorded(path)
        # What this code made in place of something else was recorded as such. Anything else that is recorded may be of
        # the output before, where this is asked once more after its job.
        own = known if known is not None and known.startswith(f"{now} after ") else now
        if stage not in acceptances and upgrades != "rerun":
            return own  # no file need be opened
        provenance = provenance_of(path, stage)
        made_by = _codes(provenance) if provenance is not None else {known or now}
        upgraded = _upgraded(provenance, versions) if upgrades == "rerun" else None
        if made_by <= equal and upgraded is None:
            return known or now if stage in acceptances else own
        # Recorded when other code was accepted as this one, or this one as other code: must differ all the same.
        others = [*sorted(made_by - equal), *filter(None, [upgraded])]
        return now if known != now else f"{now} after {', '.join(others)}"

    return code


def _upgraded(provenance: Mapping[str, Any] | None, now: Mapping[str, str]) -> str | None:
    """A digest of the other versions that had a part in an output; None where there were none."""
    if provenance is None:
        return None
    had = [*provenance.get("upgraded", {}).items(), *earlier_versions([provenance.get("versions", {})], now).items()]
    return digest_of({name: str(versions) for name, versions in had}) if had else None


def snakemake_records(workflow: Any) -> Recorded:
    """What a `snakemake.workflow.Workflow` has recorded."""

    def recorded(path: Path) -> str | None:
        from snakemake.io import IOFile

        if workflow.persistence is None:
            return None
        parameters = workflow.persistence.params(IOFile(path.as_posix())) or ()
        found = (_RECORDED.fullmatch(str(parameter)) for parameter in parameters)
        return next((match[1] for match in found if match), None)

    return recorded


def in_force(acceptances: Acceptances) -> Iterator[str]:
    """One sentence for each stage whose present code other code is accepted as."""
    for stage in (stage for stage in acceptances if stage in STAGES):
        now = code_digest(STAGES[stage].module)
        if old := standing(acceptances, stage, now):
            modules = sorted({m for each in acceptances[stage] if each.new == now for m in each.modules})
            about = f" ({', '.join(modules)})" if modules else ""
            yield f"{stage}: what code {', '.join(old)} made is accepted as made by the present {now}{about}"


def _codes(provenance: Mapping[str, Any]) -> set[str]:
    return {digest_of(provenance["code"]), *provenance.get("resumed", ())}


def provenance_of(path: Path, stage: str | None = None) -> dict[str, Any] | None:
    """What a file says of itself; None where it is another stage's, or says nothing that can be read."""
    try:
        provenance = read_provenance(path)
    except (OSError, ValueError, UserError, zipfile.BadZipFile):
        return None
    if not isinstance(provenance, dict) or stage not in (None, provenance.get("stage")):
        return None
    return provenance if isinstance(provenance.get("code"), dict) else None

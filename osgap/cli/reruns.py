"""What runs again: `why` says what made it, `accept` says that it need not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import tyro

from osgap.cli.common import Common, Options, app

if TYPE_CHECKING:
    from osgap.workflow.accept import Evidence


@app.command(name="why")
def why(arguments: tyro.conf.Positional[tuple[str, ...]] = ()) -> None:
    """Say which jobs `snakemake ARGUMENTS` would run, and what made them."""
    run_why(list(arguments))


def run_why(arguments: list[str]) -> None:
    """`osgap why [SNAKEMAKE ARGUMENTS]`: what Snakemake would run, and why."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(
            "usage: osgap why [SNAKEMAKE ARGUMENTS]\n\nWhich jobs `snakemake ARGUMENTS` would run, and what made them."
        )
        print("Example: osgap why --profile profiles/demo")
        return
    from osgap.workflow.why import why

    plan = why(arguments)
    for job in plan.jobs:
        first, *others = job.outputs
        print(f"{job.rule}  {first}{f' and {len(others)} more' if others else ''}")
        for reason in job.reasons:
            print(f"    {reason}")
    print(f"{len(plan.jobs)} jobs would run." if plan.jobs else "Nothing would run: everything is up to date.")
    for sentence in (*plan.accepted, *plan.versions):
        print(sentence)


@app.command(name="accept")
def accept(
    stages: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="STAGE")] = (),
    undo: bool = False,
    common: Options = Common(),
) -> None:
    """Let finished outputs of some stages stand, although their code has changed since; see docs/reruns.md.

    Args:
        stages: Such as fit train. Without any, what differs is listed, and nothing is accepted.
        undo: Take back what was accepted for the present code, of these stages or of all.
    """
    layout = common.pipeline().layout
    from osgap.workflow import accept as work
    from osgap.workflow.stages import STAGES

    if undo:
        found = work.undo(layout, stages or tuple(STAGES))
        for evidence in found:
            if evidence.accepted:
                print(f"{evidence.stage}: {_count(evidence, evidence.accepted)} no longer accepted")
            elif stages:
                print(f"{evidence.stage}: nothing was accepted for the present code ({evidence.now})")
        if not stages and not any(evidence.accepted for evidence in found):
            print("Nothing was accepted for the present code.")
    elif stages:
        for evidence in work.accept(layout, stages):
            if evidence.pending:
                print(f"{evidence.stage}: {_count(evidence, evidence.pending)} accepted as made by the present code")
                _say_modules(evidence)
            else:
                print(f"{evidence.stage}: nothing to accept, {_standing(evidence)}")
    else:
        found = [work.gather(layout, stage) for stage in STAGES]
        for evidence in found:
            if evidence.pending:
                print(f"{evidence.stage}: {_count(evidence, evidence.pending)} made by other code than the present")
                _say_modules(evidence)
            elif evidence.accepted:
                print(f"{evidence.stage}: {_count(evidence, evidence.accepted)} accepted as made by the present code")
        names = [evidence.stage for evidence in found if evidence.pending]
        print(f"To let all of it stand: osgap accept {' '.join(names)}" if names else "Nothing differs.")


def _count(evidence: Evidence, digests: Iterable[str]) -> str:
    outputs, checkpoints = evidence.made_by(digests)
    parts = [f"{n} {name}{'s' * (n != 1)}" for n, name in ((outputs, "output"), (checkpoints, "checkpoint")) if n]
    return " and ".join(parts) or "nothing that is still there"


def _standing(evidence: Evidence) -> str:
    if not evidence.outputs and not evidence.checkpoints:
        return "no output and no checkpoint of it is there"
    return "all that is there stands already"


def _say_modules(evidence: Evidence) -> None:
    modules = {module for digest in evidence.pending for module in evidence.modules.get(digest, ())}
    for module in sorted(modules):
        print(f"    code {module} changed")

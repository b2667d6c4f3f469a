"""What one photograph, a few and all frames are worth: priors and ways of personalisation in one table.

    python benchmarks/photographs.py --config profiles/study/study.yaml
    python benchmarks/photographs.py --config profiles/study/makehuman.yaml --exports PEOPLE --half tune
    python benchmarks/photographs.py --config profiles/demo/demo.yaml --people 2 1 --results few

Makes everything of a config with each *prior* and each *personalisation* that `--variants` names, in a few lasting
processes (`benchmarks/sweep.py`), and prints the tables as Markdown: means of every method over the test people, what
more photographs change person by person, other priors against the first, and everybody's numbers. Progress goes to
stderr. `--variants` is a YAML file such as `benchmarks/photographs.yaml`:

    priors: {published: {}, wide: {prior: {encoder: {width: 64}}}}      # laid over the config, as its `experiments` are
    personalisations: {default: {}, gentle: {oneshot: {steps: 50}}}
    tune: {makehuman: [subject_001]}              # by the name of the last --config: people to choose settings by,
    report: {makehuman: [subject_003]}            # and others for the table. Without: `subjects.test`

For the table, those to choose settings by are `prior.validation`: people whom the prior does not know, to calibrate on.

Each prior with each personalisation is an experiment of the config, `PRIOR-PERSONALISATION`, in a folder of its own
below `experiments/` of the results folder; captures, fits, maps, and priors that are the same, are shared. All is made
by the workflow's own stages. What is done is not done again, and what was killed goes on: the same command continues.
`--limit` ends it in time and with exit code 75, everything saved. `--repeat 2` makes all that follows the maps again
with another seed, for the spread between runs. `--only report-tables` prints what there is.

Below `study/` in the results folder: `HALF.md` (the tables), `HALF.csv` and `HALF.json` (every number of every person,
the machine, seconds of every job), and `sheets/VARIANT/PERSON.png`: front, sides and back by every method.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's osgap, whatever is installed

from benchmarks import comparison
from benchmarks.comparison import Variant
from benchmarks.sweep import STAGES_IN_ORDER, Crew, Ledger, Report, Sweep, folder_of
from benchmarks.workers import SHEET, load_ahead
from osgap.cli.common import Common
from osgap.prior.config import SUPERVISIONS
from osgap.runtime import gpus
from osgap.runtime.allocation import VISIBLE
from osgap.runtime.artifacts import write_json, write_text
from osgap.runtime.errors import UserError
from osgap.runtime.termination import AGAIN
from osgap.workflow.checks import check
from osgap.workflow.config import Config, deep_merge, load_config
from osgap.workflow.jobs import Job, jobs
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.stages import STAGES

ROOT = Path(__file__).parents[1]
HALVES = ("tune", "report")
_SIDE_BY_SIDE = 3  # jobs on one card: one person leaves most of it idle
_HEAD = {"model": "head_model.pkl", "masks": "head_masks.pkl", "template": "head_template.obj"}


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(arguments)
    try:
        return _run(options, arguments)
    except UserError as error:
        _log(f"{Path(__file__).name}: {error}")
        return UserError.EXIT_CODE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", default=[], help="over config.yaml; may be repeated")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over every --config")
    parser.add_argument("--results", type=Path, help="folder; default is the config's")
    parser.add_argument("--exports", type=Path, help="folder of people in VHAP's layout, with their head in model/")
    parser.add_argument("--variants", type=Path, default=ROOT / "benchmarks/photographs.yaml")
    parser.add_argument("--half", choices=HALVES, default="report", help="which test people")
    parser.add_argument("--people", type=int, nargs=2, metavar=("TRAIN", "TEST"), help="only the first so many")
    parser.add_argument("--stages", nargs="+", choices=STAGES_IN_ORDER, default=STAGES_IN_ORDER)
    parser.add_argument("--repeat", type=int, default=1, metavar="RUNS", help="with seeds that follow the config's")
    parser.add_argument("--side-by-side", type=int, help="jobs on a card at once; default is 3, on a CPU one per core")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="save everything and end then")
    parser.add_argument("--any-code", action="store_true", help="what other code made by the same settings stands")
    parser.add_argument("--only", choices=["report-tables"], help="make nothing")
    return parser


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    if options.only is None:
        load_ahead()
    chosen = _read_variants(options.variants)
    common, variants, halves = configured(options, chosen)
    config = load_config(common.sources, common.set)
    pipeline = Pipeline(config)
    report = Report()
    cards: tuple[str, ...] = ()
    if options.only is None:
        check(pipeline)
        gpus.use(config.accelerator)
        with gpus.lease_gpus("auto"):
            if gpus.device_type() == "cuda":
                cards = tuple(os.environ[VISIBLE].split(","))
            report = _make(options, pipeline, variants, common, cards)
            _say_times(report)
            machine = _describe(arguments, bool(cards))
        _remember(pipeline, {**machine, **_times(report)})
    _write(options, pipeline, variants, halves)
    for name, message in report.failed.items():
        _log(f"failed: {name}: {message.splitlines()[-1] if message else ''}")
    if report.left:
        _log(f"left: {len(report.left)} jobs, such as {report.left[0]}")
    return 1 if report.failed else AGAIN if report.left else 0


# who and what -------------------------------------------------------------------------------------------------


def _read_variants(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: no variants can be read ({error}); see --help") from None
    known = {"priors", "personalisations", *HALVES}
    if not isinstance(content, dict) or not content.keys() <= known or not content.get("priors"):
        raise UserError(f"{path}: expected `priors`, and what else of {', '.join(sorted(known))}; see --help")
    return {"personalisations": {"default": {}}, **content}


def configured(
    options: argparse.Namespace, chosen: Mapping[str, Any]
) -> tuple[Common, list[Variant], dict[str, list[str]]]:
    """What every stage is told, the variants, and who is in which half.

    Raises:
        UserError: a half without people, or settings that are none.
    """
    sources = tuple(map(str, (ROOT / "config.yaml", *options.config)))
    told = list(options.set)
    if options.results is not None:
        told.append(_set("results", str(options.results)))
    if options.exports is not None:
        told.append(_set("capture.tracking", f"{options.exports}/{{subject}}"))
        told += [_set(f"flame.assets.{role}", f"{options.exports}/model/{name}") for role, name in _HEAD.items()]
    config = load_config(sources, told)
    family = Path(sources[-1]).stem
    halves = {half: list(chosen.get(half, {}).get(family, ())) for half in HALVES}
    halves["report"] = halves["report"] or [p for p in config.subjects.test if p not in halves["tune"]]
    test = halves[options.half]
    if not test:
        raise UserError(f"{options.variants}: {options.half} names nobody of {family}; list people there")
    train = config.subjects.train
    if options.people:
        train, test = train[: options.people[0]], test[: options.people[1]]
    kept_out = [person for person in config.prior.validation if person in train]
    if options.half == "report":  # those who settings were chosen by say how far to go, too
        kept_out += [person for person in halves["tune"] if person not in kept_out]
        train = [*train, *(person for person in kept_out if person not in train)]
    variants = [
        Variant(prior, personalisation, run, f"{prior}-{personalisation}" + (f"-run{run + 1}" if run else ""))
        for run in range(options.repeat)
        for prior in chosen["priors"]
        for personalisation in chosen["personalisations"]
    ]
    told += [
        *(_set("subjects.train", train), _set("subjects.test", test)),
        _set("prior.validation", kept_out if len(kept_out) < len(train) else []),
        _set("oneshot.supervision", list(SUPERVISIONS)),
        _set("experiments", {variant.name: _overlay(chosen, variant, config) for variant in variants}),
    ]
    return Common(sources, tuple(told)), variants, halves


def _overlay(chosen: Mapping[str, Any], variant: Variant, config: Config) -> dict[str, Any]:
    """What an experiment lays over the config."""
    prior, personalisation = chosen["priors"][variant.prior], chosen["personalisations"][variant.personalisation]
    seed = {"seed": config.seed + variant.run} if variant.run else {}
    return deep_merge(deep_merge(prior or {}, personalisation or {}), seed)


def _set(key: str, content: Any) -> str:
    return f"{key}={json.dumps(content)}"


# making -------------------------------------------------------------------------------------------------------


def _make(
    options: argparse.Namespace,
    pipeline: Pipeline,
    variants: Sequence[Variant],
    common: Common,
    cards: tuple[str, ...],
) -> Report:
    made = [job for job in jobs(pipeline) if job.stage in STAGES_IN_ORDER] + _sheets(pipeline, variants)
    side_by_side = options.side_by_side or (_SIDE_BY_SIDE if cards else options.cores)
    crew = Crew(cards, side_by_side, options.cores)
    sweep = Sweep(
        made,
        Ledger(pipeline, made, options.any_code),
        crew,
        common,
        options.stages,
        options.limit,
        _log,
    )
    where = f"{len(cards)} GPUs" if cards else "the CPU"
    _log(f"{len(made)} jobs, {side_by_side} side by side on {where}, {options.cores} cores")
    return sweep.run()


def _sheets(pipeline: Pipeline, variants: Sequence[Variant]) -> list[Job]:
    found = []
    for variant in variants:
        if variant.run:
            continue
        run = pipeline.run(variant.name)
        for person in run.config.subjects.test:
            output = folder_of(pipeline) / "sheets" / variant.name / f"{person}.png"
            avatars = [file for method in run.methods for file in run.avatar_files(method, person)]
            log = folder_of(pipeline) / "logs" / variant.name / f"{person}.log"
            wildcards = {"experiment": f"experiments/{variant.name}/", "subject": person}
            found.append(Job(SHEET, SHEET, (output,), log, wildcards, (run.layout.capture(person), *avatars)))
    return found


# what came of it ----------------------------------------------------------------------------------------------


def _write(
    options: argparse.Namespace, pipeline: Pipeline, variants: Sequence[Variant], halves: Mapping[str, Sequence[str]]
) -> None:
    people = pipeline.config.subjects.test
    measured = comparison.read(lambda v, m, p: pipeline.run(v.name).layout.metrics(m, p), variants, people)
    train = len(set(pipeline.config.subjects.train) - set(pipeline.config.prior.validation))
    title = f"{pipeline.layout.results.name}, {options.half}: {train} people to learn from, {len(people)} others"
    text = comparison.tables(measured, variants, title)
    found = comparison.records(measured, {person: half for half in HALVES for person in halves[half]})
    folder = folder_of(pipeline)
    write_text(folder / f"{options.half}.md", text)
    write_text(folder / f"{options.half}.csv", comparison.as_csv(found))
    runs = json.loads(_runs(pipeline).read_text()) if _runs(pipeline).is_file() else {"runs": []}
    settings = pipeline.config.model_dump(mode="json", exclude_defaults=True, include=_TOLD)
    write_json(folder / f"{options.half}.json", {"settings": settings, "numbers": found, **runs})
    print(text)


_TOLD = {"subjects", "synthetic", "fit", "prior", "oneshot", "evaluation", "experiments"}  # no places


def _runs(pipeline: Pipeline) -> Path:
    return folder_of(pipeline) / "runs.json"


def _remember(pipeline: Pipeline, run: Mapping[str, Any]) -> None:
    """Add to what every start of this command has taken, and where."""
    path = _runs(pipeline)
    before = json.loads(path.read_text())["runs"] if path.is_file() else []
    write_json(path, {"runs": [*before, run]})


def _describe(arguments: Sequence[str], on_gpu: bool) -> dict[str, Any]:
    import torch

    from benchmarks import people

    modules = [STAGES[stage].module for stage in ("fit", "train", "calibrate", "oneshot", "evaluate")]
    return people.describe(__file__, arguments, modules, torch.device("cuda", 0) if on_gpu else torch.device("cpu"))


def _times(report: Report) -> dict[str, Any]:
    """Seconds of each stage: of its jobs together, of what its processes needed besides, from first to last."""
    stages = {}
    for stage in STAGES_IN_ORDER:
        if own := [job for job in report.jobs if job["stage"] == stage]:
            spent = sum(job["own"] for job in own)
            besides = sum(job["end"] - job["start"] for job in own) - spent
            span = max(job["end"] for job in own) - min(job["start"] for job in own)
            stages[stage] = {"jobs": len(own), **_rounded(in_stages=spent, besides=besides, first_to_last=span)}
    return {**_rounded(seconds=report.seconds), "stages": stages, "done_before": report.found}


def _rounded(**seconds: float) -> dict[str, float]:
    return {name: round(value, 1) for name, value in seconds.items()}


def _say_times(report: Report) -> None:
    times = _times(report)
    _log(f"{times['seconds']} s, {report.found} jobs were done before; seconds:")
    for stage, part in times["stages"].items():
        _log(f"  {stage:16} " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in part.items()))


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

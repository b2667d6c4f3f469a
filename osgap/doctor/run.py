"""What the config asks for, and whether it is there: head model, data, tracking, weights, disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from osgap.capture.config import URL_VARIABLE
from osgap.capture.download.stage import check_reachable
from osgap.doctor.findings import Finding, Status, gigabytes, some
from osgap.operations.space import existing_folder, free_space, space_needed
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import file_digest
from osgap.runtime.weights import WeightFile
from osgap.workflow.checks import check_people, check_tracking_of
from osgap.workflow.config import load_config
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.synthetic import check_synthetic

_TIMEOUT_S = 5.0
_MOST_HASHED = 2e9  # bytes; more would take longer than the rest together
_SHOWN_LINES = 4
_MADE = "made by the run: nothing licensed is needed"


def read_config(sources: Sequence[str], overrides: Sequence[str]) -> tuple[Pipeline | None, Finding]:
    """The config, or None, and what was found of it."""
    try:
        pipeline = Pipeline(load_config(sources, overrides))
    except Exception as error:  # whatever is wrong with it is what the user wants to know
        lines = (str(error) or type(error).__name__).splitlines()
        more = f"\n  … and {len(lines) - _SHOWN_LINES} more lines" if len(lines) > _SHOWN_LINES else ""
        found = "\n".join(lines[:_SHOWN_LINES]) + more
        return None, _finding("config", "missing", found, "Correct the config; config.yaml lists every key.")
    names = ["inline" if str(source).lstrip().startswith("{") else str(source) for source in sources]
    return pipeline, _finding("config", "ok", ", ".join([*names, *overrides]))


def findings(pipeline: Pipeline) -> list[Finding]:
    """All findings about a config that can be read."""
    weights = pipeline.config.evaluation.lpips
    checks: list[Callable[[Pipeline], Finding]] = [_people, _head, _url, _tracking]
    found = [check(pipeline) for check in checks]
    for key, file in pipeline.prior_weights.items():
        found.append(_weights(key, file))
    found.append(_weights("evaluation.lpips.alex", weights.alex, "alexnet-owt", "7be5be79"))
    found.append(_weights("evaluation.lpips.vgg", weights.vgg, "vgg16", "397923af"))
    return [*found, _disk(pipeline)]


def _finding(name: str, status: Status, found: str, fix: str = "") -> Finding:
    return Finding("config", name, status, found, fix)


def _people(pipeline: Pipeline) -> Finding:
    subjects = pipeline.config.subjects
    found = f"{len(subjects.train)} to train on, {len(subjects.test)} to test"
    try:
        check_people(pipeline)
        check_synthetic(pipeline)
    except UserError as error:
        problem, _, advice = str(error).rpartition("; ")
        return _finding("subjects", "missing", problem or found, _sentence(advice))
    return _finding("subjects", "ok", found + (" (synthetic people)" if pipeline.config.synthetic else ""))


def _head(pipeline: Pipeline) -> Finding:
    name = "head model"
    fix = (
        "Register at flame.is.tue.mpg.de, download FLAME 2023 (with jaw rotation) and the vertex masks, and set `flame:"
        " {assets: {model: …/flame2023.pkl, masks: …/FLAME_masks.pkl, template: …/head_template_mesh.obj}}`."
    )
    assets = pipeline.config.flame.assets
    if assets is None:
        return _finding(name, "missing", "flame.assets is not set", fix)
    if all(map(pipeline.makes, assets.files)):
        return _finding(name, "ok", _MADE)
    missing = [str(path) for path in assets.files if not path.is_file()]
    if missing:
        return _finding(name, "missing", f"no such file: {', '.join(missing)}", fix)

    from osgap.head.assets import load_head
    from osgap.head.releases import identify

    try:
        edition = load_head(assets).edition_id
        release = identify(assets)
    except UserError as error:
        return _finding(name, "missing", str(error), "Put the publisher's unmodified file there.")
    if not release.is_flame:
        return _finding(name, "ok", f"readable; {release.name}, edition {edition}; licence: {release.licence}")
    found = f"{release.name}{'' if release.model_known else ' by its name'}, edition {edition}, readable"
    if release.unknown_files:
        found += f"; no published checksum for its {', '.join(release.unknown_files)}"
    else:
        found += "; checksums as published"
    found += f"; licence{':' if release.model_known else ', if it is that,'} {release.licence}"
    if "no_jaw" in assets.model.name.lower() and not release.model_known:
        return _finding(name, "warning", found, "Take flame2023.pkl: tracking exports move the jaw, which this cannot.")
    return _finding(name, "ok", found)


def _url(pipeline: Pipeline) -> Finding:
    name = "data URL"
    if not pipeline.downloads:
        return _finding(name, "ok", "not needed: capture.download is false")
    if pipeline.config.capture.url:
        place = "in the config (capture.url)"
    elif os.environ.get(URL_VARIABLE, "").strip():
        place = f"in the environment ({URL_VARIABLE})"
    else:
        place = "in nersemble-data's own file"
    try:
        if pipeline.makes_recordings:
            return _finding(name, "ok", _MADE)
        check_reachable(pipeline.config.capture, timeout_s=_TIMEOUT_S)
    except UserError as error:
        problem, mark, advice = str(error).partition(". ")
        if not mark:
            problem, _, advice = str(error).rpartition("; ")
        if problem.startswith("the data URL ("):
            problem = f"set {place}, but it {problem.partition(') ')[2]}"
        return _finding(name, "missing", problem or advice, _sentence(advice))
    return _finding(name, "ok", f"set {place}, and reachable")


def _tracking(pipeline: Pipeline) -> Finding:
    name = "tracking"
    subjects = pipeline.config.subjects.all
    problems: dict[str, str] = {}
    for subject in subjects:
        try:
            check_tracking_of(pipeline, subject)
        except UserError as error:
            problems[subject] = str(error)
    found = f"{len(subjects) - len(problems)} of {len(subjects)} subjects"
    if not problems:
        made = all(pipeline.makes(pipeline.tracking_pattern(subject)) for subject in subjects)
        return _finding(name, "ok", _MADE if made else found)
    found += f"; missing: {some(list(problems))}"
    unnamed = [s for s in problems if not (pipeline.config.capture.tracking or pipeline.entry(s).tracking)]
    if len(unnamed) == len(problems):
        fix = (
            "Set capture.tracking to the folders of the FLAME tracking exports, such as "
            "'data/tracking/UNION10_{subject}_*'."
        )
    else:
        fix = _sentence(next(iter(problems.values())))
    return _finding(name, "missing", found, fix)


def _weights(key: str, file: WeightFile | None, torchvision: str = "", digest: str = "") -> Finding:
    if file is None:
        found = f"not set: the column {key.removeprefix('evaluation.').replace('.', '_')} stays empty"
        fix = f"Set it to {{path: …/{torchvision}-{digest}.pth, sha256: '{digest}'}}, a file of torchvision's."
        return _finding(key, "warning", found, fix)
    if not file.path.is_file():
        return _finding(key, "missing", f"{file.path}: no such file", f"Fetch it, or leave {key} out.")
    size = file.path.stat().st_size
    if size > _MOST_HASHED:
        found = f"{file.path}, {gigabytes(size)}: too large to check its SHA-256 here"
        return _finding(key, "warning", found, f"Compare `sha256sum {file.path}` with {key}.sha256.")
    actual = file_digest(file.path)
    if not actual.startswith(file.sha256):
        found = f"{file.path} has SHA-256 {actual[:16]}…, not {file.sha256[:16]}"
        return _finding(key, "missing", found, f"Fetch the file again, or correct {key}.sha256.")
    return _finding(key, "ok", f"{file.path.name}, checksum as configured")


def _disk(pipeline: Pipeline) -> Finding:
    results = pipeline.config.results
    folder = existing_folder(results)
    if not os.access(folder, os.W_OK):
        return _finding("disk", "missing", f"{folder} cannot be written to", "Set results to a folder of yours.")
    needed, free = space_needed(pipeline), free_space(folder)
    total = sum(needed.values())
    largest = sorted((item for item in needed.items() if item[1]), key=lambda item: -item[1])[:2]
    more = f"about {gigabytes(total)} more ({', '.join(f'{key} {gigabytes(size)}' for key, size in largest)})"
    found = f"{gigabytes(free)} free in {results}; the run needs {more if largest else 'nothing more'}"
    if total > free:
        return _finding("disk", "missing", found, f"Free {gigabytes(total - free)}, or set results to a larger disk.")
    return _finding("disk", "ok", found)


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:].rstrip(".") + "." if text else ""

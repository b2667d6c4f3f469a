"""Measure the look at captures: false alarms over exports that are right, what it says of exports that are broken.

    python benchmarks/captures.py results/demo/synthetic/tracking ../shared/captures_cc0 --noise 1 --kinds all --every 9

Looks for tracking exports of one sequence in the folders, with the head model beside them (`model/` or `head/`, there
or in a folder above), and prints a line for each capture and JSON at the end: `alarms` of `captures` that are right
stop, have outliers or a doubtful head, `seconds` is the median processor time of a look (with the decoding), and for
each kind of breakage how many were `named` rightly, `stopped` with another cause, imported with a note (`noted`: a
warning or outliers), or passed `unnoticed`. `--noise 1` adds copies with tracking error (1 mm, 0.6 degrees), as
`make_people.py --param-noise 1` does, and `--cuts` copies with one camera, and with two, three or four. Kinds are those
of `tests/capture/breakage.py`, of every so many captures (`--every`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # this checkout's osgap, whatever is installed

from capture.breakage import KINDS, Kind, copied, parameters  # noqa: E402

from osgap.capture.sanity.findings import Findings  # noqa: E402
from osgap.capture.sanity.inspect import inspect  # noqa: E402
from osgap.capture.tracking.recording import Pictures, Recording  # noqa: E402
from osgap.capture.tracking.vhap.export import read_export  # noqa: E402
from osgap.head.assets import load_head  # noqa: E402
from osgap.head.config import HeadAssets  # noqa: E402
from osgap.head.model import HeadModel  # noqa: E402
from osgap.runtime.errors import UserError  # noqa: E402

HEADS = {
    "model": ("head_model.pkl", "head_masks.pkl", "head_template.obj"),
    "head": ("flame2023.pkl", "FLAME_masks.pkl", "head_template_mesh.obj"),
}
NOISE = {"translation": 1e-3, "rotation": 0.01, "neck_pose": 0.01, "jaw_pose": 0.01, "eyes_pose": 0.02, "expr": 0.1}
"""Standard deviations of tracking error: metres, radians, and of expression coefficients."""


BORROWED = {
    "parameters_of_another": ("shape", "static_offset", "expr", *(name for name in NOISE if name != "expr")),
    "shape_of_another": ("shape", "static_offset"),
}
"""Further kinds, and which arrays are another person's in them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--head", type=Path, help="folder of the head model of exports that have none beside them")
    parser.add_argument("--noise", type=float, default=0.0, help="scale of the tracking error of additional copies")
    parser.add_argument("--cuts", action="store_true", help="copies of one and of two to four cameras as well")
    parser.add_argument("--kinds", default="none", help="all, none, or names separated by commas")
    parser.add_argument("--every", type=int, default=1, help="of the captures, one of so many is broken")
    parser.add_argument("--part", default="0/1", help="K/N: every Nth capture from the Kth on, such as 1/2")
    arguments = parser.parse_args()
    first, _, step = arguments.part.partition("/")
    every = find_exports(arguments.folders)
    exports = every[int(first) :: int(step)]
    kinds = {"all": [*KINDS, *BORROWED], "none": []}.get(arguments.kinds, arguments.kinds.split(","))
    alarms, seconds, captures = [], [], 0
    broken: dict[str, dict[str, int]] = {
        name: dict.fromkeys(("named", "stopped", "noted", "unnoticed"), 0) for name in kinds
    }
    for number, export in enumerate(exports):
        head = head_of(export, arguments.head)
        with tempfile.TemporaryDirectory() as folder:
            right = [export]
            if arguments.noise:
                right.append(copied(export, Path(folder) / "noise"))
                add_noise(right[-1], arguments.noise, number)
            for path, cameras in [(path, cut) for path in right for cut in cuts(number, arguments.cuts)]:
                start = time.process_time()
                findings = look(path, head, cameras)
                if not cameras:
                    seconds.append(time.process_time() - start)
                captures += 1
                alarm = isinstance(findings, str) or not findings.sound or findings.outliers or _doubted(findings)
                noise = " with noise" if path != export else ""
                said = f"{export.name}{noise}, cameras {cameras or 'all'}: {told(findings)}"
                print(f"{'FALSE ALARM' if alarm else 'right':9s} {said}", flush=True)
                alarms += [said] if alarm else []
        for name in kinds if number % arguments.every == 0 else []:
            kind = KINDS[name] if name in KINDS else borrowed(donor(every, export, arguments.head), BORROWED[name])
            answer, said = judge(export, head, kind)
            broken[name][answer] += 1
            print(f"{answer:9s} {name:26s} {export.name}: {said}", flush=True)
    result = {
        "captures": captures,
        "alarms": len(alarms),
        "rate": round(len(alarms) / max(captures, 1), 4),
        "seconds": round(float(np.median(seconds)), 2) if seconds else None,
        "kinds": broken,
    }
    print(json.dumps(result, indent=1))


def find_exports(folders: list[Path]) -> list[Path]:
    """Exports of one sequence below folders."""
    found = {path.parent for folder in folders for path in folder.rglob("transforms.json")}
    return sorted(path for path in found if (path / "flame_param").is_dir())


def head_of(export: Path, default: Path | None) -> HeadModel:
    """The head model beside an export, or in a folder above."""
    places = [above / kind for above in export.resolve().parents for kind in HEADS]
    for folder in [*places, *([default] if default else [])]:
        for names in HEADS.values():
            if all((folder / name).is_file() for name in names):
                return _loaded(folder, names)
    raise SystemExit(f"{export}: no head model beside it; give --head")


@cache
def _loaded(folder: Path, names: tuple[str, str, str]) -> HeadModel:
    model, masks, template = (folder / name for name in names)
    return load_head(HeadAssets(model=model, masks=masks, template=template))


def add_noise(export: Path, scale: float, seed: int) -> None:
    """Tracking error, as `make_people.py --param-noise` adds it."""
    random = np.random.default_rng(seed)

    def change(arrays: dict[str, np.ndarray]) -> None:
        for name, deviation in NOISE.items():
            error = random.normal(0, scale * deviation, arrays[name].shape)
            arrays[name] = (arrays[name] + error).astype(np.float32)

    parameters(export, change)


def donor(exports: list[Path], export: Path, default: Path | None) -> Path:
    """Another export with the same head model, a few places on."""
    head, number = head_of(export, default), exports.index(export)
    order = [exports[(number + step) % len(exports)] for step in range(4, len(exports) + 4)]
    return next(export for export in order if head_of(export, default) is head)


def borrowed(source: Path, names: tuple[str, ...]) -> Kind:
    """Arrays of another export in place of an export's own."""
    files = sorted((source / "flame_param").glob("*.npz"))

    def apply(out: Path) -> None:
        for number, file in enumerate(sorted((out / "flame_param").glob("*.npz"))):
            with np.load(file) as own, np.load(files[number % len(files)]) as other:
                arrays = {name: other[name] if name in names and name in other else own[name] for name in own}
            np.savez(file, **arrays)

    return Kind(apply, None, "another person")


def cuts(number: int, wanted: bool) -> list[tuple[int, ...]]:
    """Cameras to keep, of sixteen; none: all of them."""
    random = np.random.default_rng(number)
    some = [tuple(sorted(random.choice(16, count, replace=False).tolist())) for count in (1, 2 + number % 3)]
    return [(), *(some if wanted else [])]


def kept(recording: Recording, cameras: tuple[int, ...]) -> Recording:
    """A recording of some of the cameras."""
    rows = list(cameras)
    assert isinstance(recording.frames, Pictures)
    return replace(
        recording,
        serials=[recording.serials[c] for c in rows],
        world_to_camera=recording.world_to_camera[rows],
        intrinsics=recording.intrinsics[rows],
        frames=Pictures(
            [[row[c] for c in rows] for row in recording.frames.images],
            [[row[c] for c in rows] for row in recording.frames.masks],
        ),
    )


def look(export: Path, head: HeadModel, cameras: tuple[int, ...] = ()) -> Findings | str:
    """What is found in an export, or what its reader refuses."""
    try:
        recording = read_export(export, export.name, "222200037", head.vertex_count)
        return inspect(kept(recording, cameras) if cameras else recording, head, export.name)
    except UserError as error:
        return str(error)


def judge(export: Path, head: HeadModel, kind: Kind) -> tuple[str, str]:
    """`named`, `stopped`, `noted` or `unnoticed`, and what was said of a broken copy."""
    with tempfile.TemporaryDirectory() as folder:
        broken = copied(export, Path(folder) / export.name)
        kind.apply(broken)
        findings = look(broken, head)
        if isinstance(findings, str):
            return "stopped", findings
        if kind.outliers:
            named = findings.sound and findings.outliers == kind.outliers
        elif kind.warned and findings.sound:
            named = any(kind.words in warning for warning in findings.warnings)
        else:
            cause = (findings.cause or "").partition(" Measured: ")[0]
            words = any(word in cause for word in kind.words.split("|"))
            named = words and (findings.correction or "").startswith(kind.correction or "")
        noted = "noted" if findings.warnings or findings.outliers else "unnoticed"
        return "named" if named else "stopped" if not findings.sound else noted, told(findings)


def _doubted(findings: Findings) -> bool:
    return any("the head is doubtful" in warning for warning in findings.warnings)


def told(findings: Findings | str) -> str:
    """In a line."""
    if isinstance(findings, str):
        return findings
    said = [findings.cause or "", f"({findings.correction})" if findings.correction else "", *findings.warnings[:2]]
    if findings.outliers:
        said.append(f"{len(findings.outliers)} outliers")
    return " ".join(part for part in said if part)[:260] or "nothing"


if __name__ == "__main__":
    main()

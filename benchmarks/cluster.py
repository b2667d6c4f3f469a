"""How long Snakemake takes to plan a study of hundreds of people, and how many jobs Slurm would get.

    python benchmarks/cluster.py --train 400 --test 45

Nothing is computed and no data is needed: the tracking exports and the head model are empty files that are only looked
at. Reports processor seconds and peak memory of `snakemake --profile slurm --dry-run` and of `osgap plan`, and the jobs
and submissions that both plan, in which a group counts once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Make the study in a temporary folder, plan it, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=400, help="people to learn from")
    parser.add_argument("--test", type=int, default=45, help="people to be tested on")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = write_study(Path(folder), arguments.train, arguments.test)
        print(json.dumps({"snakemake": dry_run(config), "osgap plan": plan(config)}, indent=2))


def write_study(folder: Path, train: int, test: int) -> Path:
    """A config of real people, whose files are there and empty: its path."""
    people = [f"{number:03d}" for number in range(1, train + test + 1)]
    for person in people:
        export = folder / "tracking" / f"UNION10_{person}_x"
        export.mkdir(parents=True)
        for split in ("train", "val", "test"):
            (export / f"transforms_{split}.json").touch()
    head = {name: folder / name for name in ("model", "masks", "template")}
    for file in head.values():
        file.touch()
    config = {
        "results": str(folder / "results"),
        "subjects": {"train": people[:train], "test": people[train:]},
        "flame": {"assets": {name: str(file) for name, file in head.items()}},
        "capture": {"tracking": f"{folder}/tracking/UNION10_{{subject}}_*", "url": "https://data.invalid/secret"},
    }
    path = folder / "study.yaml"
    path.write_text(json.dumps(config))
    return path


def dry_run(config: Path) -> dict[str, Any]:
    """What planning costs, and how many jobs are planned."""
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--configfile", str(config), "--dry-run"]
    text, used = measured(command)
    total = re.findall(r"^total +(\d+)$", text, re.MULTILINE)
    return {**used, "jobs": int(total[-1])}


def plan(config: Path) -> dict[str, Any]:
    """The same of `osgap plan`, with how many submissions they are."""
    command = [
        sys.executable,
        "-m",
        "osgap.cli",
        "plan",
        "--gpus",
        "8",
        "--json",
        "--config",
        "config.yaml",
        "--config",
        str(config),
    ]
    text, used = measured(command)
    planned = json.loads(text)
    return {**used, "jobs": planned["total"]["jobs"], **planned["slurm"]}


def measured(command: list[str]) -> tuple[str, dict[str, Any]]:
    """What a command prints, and its processor seconds and peak memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, {"cpu_s": round(seconds, 1), "peak_mb": round(after.ru_maxrss * 1024 / 1e6)}


if __name__ == "__main__":
    main()

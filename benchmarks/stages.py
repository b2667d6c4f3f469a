"""Time every stage of a run, one job of each kind, each in a process of its own, as Snakemake would start it.

    python benchmarks/stages.py                                        # the demo's size, on the CPU
    python benchmarks/stages.py --size 550x802 --timesteps 7 --device cuda --config '{"prior": {"steps": 300}}'

Runs the jobs of two synthetic people, one to train on and one to test, in a temporary folder (or `--work`, where what
is done already is not done again), and prints JSON: for each stage and method the seconds from start to end, those of
the processors, the largest resident memory of one of its processes and, on a GPU, the most memory that was in use on
the card; and how many units of `osgap.operations.work` the job was. `osgap/operations/costs.yaml` has what follows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's osgap, whatever is installed

from benchmarks import people
from osgap.operations.work import work_of
from osgap.runtime.artifacts import write_json
from osgap.workflow.config import load_config
from osgap.workflow.jobs import Job, jobs
from osgap.workflow.pipeline import Pipeline

ROOT = Path(__file__).parents[1]
_POLL_S = 0.2


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="88x128", metavar="WxH")
    parser.add_argument("--timesteps", type=int, default=8, help="per sequence, of three")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--config", default="{}", help="over the demo's on a CPU, over config.yaml's on a GPU")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        results = options.work or Path(folder)
        sources = [*_sources(options, results), options.config]
        pipeline = Pipeline(load_config(sources))
        config = results / "config.json"
        write_json(config, json.loads(pipeline.config.model_dump_json(exclude_defaults=True)))
        told = ["--config", str(config), "--set", f"capture.url={pipeline.layout.synthetic_nersemble}"]
        measured = [
            _measure(pipeline, job, [*told, "--threads", str(options.threads)], options.device)
            for job in jobs(pipeline)
            if not job.done
        ]
    description = people.describe(__file__, arguments, [], people.pick(options.device))
    print(json.dumps({**description, "threads": options.threads, "jobs": measured}, indent=1))


def _sources(options: argparse.Namespace, results: Path) -> list[Any]:
    """The demo's config in another folder, without its coarse settings on a GPU."""
    width, height = (int(side) for side in options.size.split("x"))
    demo = load_config([ROOT / "profiles/demo/demo.yaml"], [f"results={results}"])
    dump = demo.model_dump(mode="json", exclude_defaults=True)
    dump["capture"]["url"] = str(results / "synthetic" / "nersemble")
    dump["subjects"] = {"train": ["101"], "test": ["201"]}
    dump["synthetic"] = {"width": width, "height": height, "timesteps_per_sequence": options.timesteps}
    if options.device == "cuda":
        for section in ("fit", "prior", "oneshot"):
            del dump[section]
    return [json.dumps(dump)]


def _measure(pipeline: Pipeline, job: Job, told: list[str], device: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "osgap.cli", *_command(pipeline, job), *told]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    used = _used_by_all_children()
    with _CardMemory(device) as card:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
    if status:
        sys.exit(f"{job.name} ended with {os.waitstatus_to_exitcode(status)}:\n{said}")
    measured = {
        "stage": job.stage,
        **{name: value for name, value in job.wildcards.items() if value},
        "seconds": round(wall, 2),
        "cpu_seconds": round(_used_by_all_children() - used, 2),
        "peak_rss_mib": round(usage.ru_maxrss / 1024),
        **({"peak_gpu_mib": card.peak_mib} if device == "cuda" else {}),
        "work": {name: round(amount, 4) for name, amount in work_of(pipeline, job).items()},
    }
    people.log(json.dumps(measured))
    return measured


def _command(pipeline: Pipeline, job: Job) -> list[str]:
    """What the rule of a job calls."""
    values = job.wildcards
    if job.stage == "figure":
        kind = job.rule.removesuffix("_figure")
        return ["figure", kind, values.get("subject", "201"), *(["--driver", "101"] if kind == "cross" else [])]
    if job.stage == "calibrate":
        return ["calibrate", "--supervision", pipeline.calibrated[values["folder"]]]
    if job.stage == "evaluate":
        return ["evaluate", values["method"], values["subject"]]
    if job.stage == "oneshot":
        return ["oneshot", values["subject"]]
    return [job.stage, *(value for name, value in values.items() if name != "experiment")]


def _used_by_all_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class _CardMemory:
    """The most memory that was in use on the first card, of all processes."""

    def __init__(self, device: str) -> None:
        self.peak_mib = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch) if device == "cuda" else None

    def __enter__(self) -> _CardMemory:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        card = pynvml.nvmlDeviceGetHandleByIndex(0)
        while not self._ended.wait(_POLL_S):
            self.peak_mib = max(self.peak_mib, pynvml.nvmlDeviceGetMemoryInfo(card).used >> 20)


if __name__ == "__main__":
    main()

"""Commands named like Slurm's that write down how they were called; `sbatch` may also run what it was given.

The folder of a `Stub` goes in front of PATH. What a site's settings make of a job is then read from `Stub.submissions`,
on machines without Slurm.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ANSWERS = {
    "scontrol": "MinJobAge               = 300 sec\nMaxArraySize            = 1001\n",
    "sinfo": "PARTITION\nmain*\n",
}


@dataclass(frozen=True)
class Stub:
    """Below one folder.

    Args:
        folder: made when the stub is installed.
        run: whether `sbatch` runs the job, at once and to its end; otherwise it only counts as completed, which does
            for jobs whose outputs are there.
    """

    folder: Path
    run: bool = False

    def install(self, **answers: str) -> Stub:
        """Write the commands.

        Args:
            answers: what a command prints, other than `ANSWERS` says; without an answer it prints nothing.
        """
        (self.folder / "bin").mkdir(parents=True)
        for name in ("sbatch", "squeue", "srun", "scancel", "scontrol", "sinfo", "sacct", "sacctmgr", "sshare"):
            command = self.folder / "bin" / name
            command.write_text(f'#!/bin/sh\nexec {sys.executable} -I {Path(__file__).resolve()} {name} "$@"\n')
            command.chmod(0o755)
        (self.folder / "settings.json").write_text(json.dumps({"run": self.run, "answers": ANSWERS | answers}))
        return self

    def environment(self, outside: Mapping[str, str]) -> dict[str, str]:
        """`outside`, with these commands in front of all others."""
        path = os.pathsep.join([str(self.folder / "bin"), outside.get("PATH", os.defpath)])
        return {**outside, "PATH": path, "OSGAP_STUB": str(self.folder)}

    @property
    def calls(self) -> list[list[str]]:
        """Every command with its arguments, in their order."""
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def submissions(self) -> dict[str, list[str]]:
        """Arguments of `sbatch` without the job itself, by the comment that names rule and wildcards."""
        found = {}
        for name, *arguments in self.calls:
            if name == "sbatch":
                comment = arguments[arguments.index("--comment") + 1]
                found[comment] = [word for word in arguments if not word.startswith("--wrap")]
        return found


def answer(folder: Path, name: str, arguments: list[str]) -> int:
    """What a command does."""
    settings = json.loads((folder / "settings.json").read_text())
    with (folder / "calls.jsonl").open("a") as file:
        file.write(json.dumps([name, *arguments]) + "\n")
    if name == "sbatch":
        return submit(folder, arguments, settings["run"])
    if name == "srun":
        return subprocess.run(after_options(arguments), check=False).returncode
    if name == "squeue":
        for job in sorted((folder / "jobs").glob("*")):
            print(f"{job.name}|{job.read_text()}")
    else:
        print(settings["answers"].get(name, ""), end="")
    return 0


def submit(folder: Path, arguments: list[str], run: bool) -> int:
    """Give the job a number and a state, and the log that was asked for."""
    jobs = folder / "jobs"
    jobs.mkdir(exist_ok=True)
    number = 1000 + len(list(jobs.iterdir()))
    while (jobs / str(number)).exists():
        number += 1
    state = "COMPLETED"
    if run:
        command = next(word for word in arguments if word.startswith("--wrap=")).removeprefix("--wrap=")
        log = Path(arguments[arguments.index("--output") + 1].replace("%j", str(number)))
        environment = {**os.environ, "SLURM_JOB_ID": str(number)}
        with log.open("w") as out:
            done = subprocess.run(command, shell=True, stdout=out, stderr=out, env=environment, check=False)
        state = "COMPLETED" if done.returncode == 0 else "FAILED"
    (jobs / str(number)).write_text(state)
    print(number)
    return 0


def after_options(arguments: list[str]) -> list[str]:
    """The command that srun was given."""
    first = next(index for index, word in enumerate(arguments) if not word.startswith("-"))
    return arguments[first:]


if __name__ == "__main__":
    sys.exit(answer(Path(os.environ["OSGAP_STUB"]), sys.argv[1], sys.argv[2:]))

"""Processes that outlive the one that started them, known by their id and their command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path


class Daemons:
    """Of one folder, which remembers them in `daemons.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "daemons.json"
        self.children: list[subprocess.Popen] = []

    def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """Run a program that stays in the foreground; what it prints goes to `log/NAME.out`."""
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, **(environment or {})}, cwd=self.folder,
            )  # fmt: skip
        self.children.append(process)
        self.file.write_text(json.dumps([*self.known(), {"name": name, "pid": process.pid, "command": list(command)}]))

    def known(self) -> list[dict]:
        return json.loads(self.file.read_text()) if self.file.exists() else []

    def running(self, name: str) -> bool:
        return any(each["name"] == name and self.is_one(each["pid"], each["command"]) for each in self.known())

    def is_one(self, pid: int, command: list[str]) -> bool:
        """Whether that process is still the one that was started, not another with its number, nor a zombie."""
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        return line.rstrip(b"\0").split(b"\0") == [os.fsencode(part) for part in command]

    def stop(self, name: str, patience: float = 15, by: signal.Signals = signal.SIGTERM) -> None:
        """End those of this name; forcibly, when they do not within `patience` seconds."""
        ours = [each for each in self.known() if each["name"] == name]
        for sent in (by, signal.SIGKILL):
            alive = [each["pid"] for each in ours if self.is_one(each["pid"], each["command"])]
            for pid in alive:
                os.kill(pid, sent)
            until(lambda: not any(self.is_one(each["pid"], each["command"]) for each in ours), patience)
            if not alive:
                break
        for child in self.children:
            child.poll()  # no zombies of ours
        self.file.write_text(json.dumps([each for each in self.known() if each["name"] != name]))


def until(done: Callable[[], bool], patience: float, pause: float = 0.1) -> bool:
    """Wait until something is so, `patience` seconds at most; whether it is."""
    end = time.monotonic() + patience
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True

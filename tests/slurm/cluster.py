"""A Slurm of one or more nodes on this machine, with fake GPUs, for tests and for trying the profile.

    python -m tests.slurm.cluster start         # prints what to type to use it
    python -m tests.slurm.cluster stop

Everything lies below one folder, no root is needed, and no other Slurm of the machine is touched: Debian's packages
slurm-wlm and munge are enough (mariadb-server and slurmdbd for accounting).
"""

from __future__ import annotations

import argparse
import getpass
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from .daemons import Daemons, until
from .files import CLUSTER, Options, Ports, write

SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db")


def program(name: str) -> str:
    """Where a daemon lies; ordinary users have no sbin on their PATH."""
    return shutil.which(name, path=SYSTEM_PATH) or name


def missing(slurmdbd: bool = False) -> list[str]:
    """The programs that are not here, of those that a cluster needs."""
    needed = (*PROGRAMS, *(ACCOUNTING if slurmdbd else ()))
    return [name for name in needed if shutil.which(name, path=SYSTEM_PATH) is None]


class ClusterError(RuntimeError):
    """The cluster did not start, or does not answer."""


class Cluster:
    """Below one folder, whose path must be short: sockets lie in it.

    Args:
        folder: made when the cluster starts.
        options: of a cluster that is to be started.
    """

    def __init__(self, folder: Path, options: Options | None = None) -> None:
        self.folder = folder.resolve()
        self.options = options or Options()
        self.daemons = Daemons(self.folder)
        self.conf = self.folder / "etc" / "slurm.conf"

    def environment(self, outside: Mapping[str, str]) -> dict[str, str]:
        """`outside`, with Slurm's commands talking to this cluster."""
        path = os.pathsep.join([str(self.folder / "bin"), outside.get("PATH", os.defpath)])
        return {**outside, "PATH": path, "SLURM_CONF": str(self.conf)}

    def jobs(self) -> list[dict[str, str]]:
        """What Slurm knows of every job that is not older than `min_job_age`, by the names that it gives."""
        lines = self.run("scontrol", "--oneliner", "show", "job").splitlines()
        return [dict(word.partition("=")[::2] for word in line.split() if "=" in word) for line in lines]

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """What one of Slurm's commands says.

        Raises:
            ClusterError: it failed, which `check` may forgive.
        """
        done = subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise ClusterError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def start(self) -> None:
        """Write the files, start the daemons, and wait until the nodes take jobs.

        Raises:
            ClusterError: a program is missing, or the nodes do not come up.
        """
        absent = missing(self.options.slurmdbd)
        if absent:
            raise ClusterError(f"not on this machine: {', '.join(absent)}; Debian has them: {PACKAGES}")
        if self.daemons.running("slurmctld"):
            raise ClusterError(f"there is a cluster in {self.folder}: stop it first")
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = Ports.find(self.options.nodes)
        write(self.folder, self.options, ports)
        try:
            self._start_munge()
            if self.options.slurmdbd:
                self._start_accounting(ports)
            self.start_controller()
            for name in self.options.names:
                self.start_node(name)
            if not until(self._is_up, 30):
                raise ClusterError(f"the nodes did not come up: {self._states()}; see {self.folder / 'log'}")
        except BaseException:
            self.stop()
            raise

    def start_controller(self) -> None:
        """slurmctld, which goes on from its state; the nodes keep their jobs meanwhile."""
        self.daemons.start("slurmctld", program("slurmctld"), "-D", "-f", str(self.conf))
        if not until(lambda: "is UP" in self.run("scontrol", "ping", check=False), 30):
            raise ClusterError(f"slurmctld does not answer: see {self.folder / 'log' / 'slurmctld.log'}")

    def start_node(self, name: str) -> None:
        self.daemons.start(f"slurmd-{name}", program("slurmd"), "-D", "-N", name, "-f", str(self.conf))

    def stop_controller(self, by: signal.Signals = signal.SIGTERM) -> None:
        self.daemons.stop("slurmctld", by=by)

    def stop_node(self, name: str, by: signal.Signals = signal.SIGTERM) -> None:
        self.daemons.stop(f"slurmd-{name}", by=by)

    def stop(self) -> None:
        """End the jobs, then the daemons: these and no others. The folder stays, with the logs."""
        if self.daemons.running("slurmctld"):
            self.run("scancel", f"--user={getpass.getuser()}", check=False)
            until(lambda: not self.run("squeue", "--noheader", check=False).strip(), 5 + self.options.kill_wait)
        for process in self.processes_of_jobs():
            os.kill(process, signal.SIGKILL)
        names = {each["name"] for each in self.daemons.known()}
        for name in sorted(names, key=lambda name: ORDER.index(name.partition("-")[0])):
            self.daemons.stop(name)

    def _is_up(self) -> bool:
        return set(self._states().split()) == {"idle"}

    def _states(self) -> str:
        return self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T", check=False)

    def _start_munge(self) -> None:
        munge = self.folder / "munge"
        self.daemons.start(
            "munged", program("munged"), "--foreground", f"--key-file={munge / 'key'}",
            f"--socket={munge / 'socket' / 'socket'}", f"--pid-file={munge / 'pid'}", f"--seed-file={munge / 'seed'}",
            f"--log-file={self.folder / 'log' / 'munged.log'}",
        )  # fmt: skip
        if not until((munge / "socket" / "socket").exists, 15):
            raise ClusterError(f"munged did not start: see {self.folder / 'log'}")

    def _start_accounting(self, ports: Ports) -> None:
        data, socket, user = self.folder / "database", self.folder / "state" / "mariadb", getpass.getuser()
        if not data.exists():
            subprocess.run(
                [program("mariadb-install-db"), "--no-defaults", f"--user={user}", f"--datadir={data}",
                 "--auth-root-authentication-method=normal", "--skip-test-db"],
                check=True, capture_output=True,
            )  # fmt: skip
        self.daemons.start(
            "mariadbd", program("mariadbd"), "--no-defaults", f"--user={user}", f"--datadir={data}",
            f"--socket={socket}", f"--pid-file={socket}.pid", "--bind-address=127.0.0.1", f"--port={ports.database}",
            f"--init-file={self.folder / 'etc' / 'accounting.sql'}", "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900",
        )  # fmt: skip
        if not until(socket.exists, 60):
            raise ClusterError(f"MariaDB did not start: see {self.folder / 'log' / 'mariadbd.out'}")
        self.daemons.start("slurmdbd", program("slurmdbd"), "-D", environment={"SLURM_CONF": str(self.conf)})
        if not until(lambda: "Cluster" in self.run("sacctmgr", "show", "cluster", check=False), 60, pause=0.2):
            raise ClusterError(f"slurmdbd does not answer: see {self.folder / 'log' / 'slurmdbd.log'}")
        for words in (f"cluster {CLUSTER}", "account lab", f"user {user} account=lab"):
            self.run("sacctmgr", "--immediate", "add", *words.split(), check=False)

    def processes_of_jobs(self) -> list[int]:
        """Processes of jobs that nobody ended: slurmd leaves them running when it stops."""
        mark = b"SLURM_CONF=" + os.fsencode(self.conf) + b"\0"
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                variables = b"\0" + (folder / "environ").read_bytes()
            except OSError:
                continue
            if b"\0" + mark in variables and (b"\0SLURM_JOB_ID=" in variables or b"\0SLURM_JOBID=" in variables):
                found.append(int(folder.name))
        return found


ORDER = ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged")
PACKAGES = "apt-get install --no-install-recommends slurm-wlm munge (for accounting also slurmdbd mariadb-server)"


def main() -> int:
    default = Path(tempfile.gettempdir()) / f"osgap-slurm-{getpass.getuser()}"
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.cluster", description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("--folder", type=Path, default=default, help=f"where all of it lies [{default}]")
    for option in fields(Options):
        if option.name == "settings":
            parser.add_argument("--setting", action="append", default=[], help="another line of slurm.conf")
        elif isinstance(option.default, bool):
            action = argparse.BooleanOptionalAction
            parser.add_argument(f"--{option.name.replace('_', '-')}", action=action, default=option.default)
        else:
            kind = type(option.default)
            parser.add_argument(f"--{option.name.replace('_', '-')}", type=kind, default=option.default)
    given = vars(parser.parse_args())
    action, folder, settings = given.pop("action"), given.pop("folder"), given.pop("setting")
    cluster = Cluster(folder, Options(**given, settings=tuple(settings)))
    if action == "stop":
        cluster.stop()
        return 0
    try:
        cluster.start()
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    print(f'export PATH="{cluster.folder}/bin:$PATH" SLURM_CONF="{cluster.conf}"')
    return 0


if __name__ == "__main__":
    sys.exit(main())

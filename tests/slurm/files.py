"""The configuration files of a Slurm that lives below one folder."""

from __future__ import annotations

import getpass
import secrets
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path

COMMANDS = ("sacct", "sacctmgr", "salloc", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun", "sshare")
CLUSTER = "osgap-test"


@dataclass(frozen=True)
class Options:
    """What differs between the clusters that the tests need.

    Attributes:
        nodes: how many; more than one makes as many slurmd on this machine, whose job steps share its processors.
        gpus: per node; fake ones, links to character devices that every machine has.
        cpus: that Slurm believes each node has.
        memory: that Slurm believes each node has [MB].
        min_job_age: how long a finished job stays in `squeue` [s].
        kill_wait: from SIGTERM to SIGKILL, at the end of a job's time and after scancel [s].
        grace: from SIGTERM to the end of a job that the partition `urgent` preempts [s].
        max_time: of a job, as Slurm writes it; `INFINITE` or minutes.
        enforce_memory: a job over its memory is killed, a second later at most. (Without cgroups it is Slurm's own
            accounting that does it.)
        slurmdbd: with accounting in MariaDB, so that `sacct` answers.
        settings: more lines of slurm.conf.
    """

    nodes: int = 1
    gpus: int = 2
    cpus: int = 8
    memory: int = 64000
    min_job_age: int = 300
    kill_wait: int = 5
    grace: int = 0
    max_time: str = "INFINITE"
    enforce_memory: bool = True
    slurmdbd: bool = False
    settings: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Of the nodes."""
        return [f"node{number}" for number in range(1, self.nodes + 1)]


@dataclass(frozen=True)
class Ports:
    """Free when they were looked for."""

    controller: int
    accounting: int
    database: int
    nodes: list[int] = field(default_factory=list)

    @classmethod
    def find(cls, nodes: int) -> Ports:
        """Of this machine's own address, for this many nodes."""
        sockets = [socket.socket() for _ in range(nodes + 3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        controller, accounting, database, *others = (each.getsockname()[1] for each in sockets)
        for each in sockets:
            each.close()
        return cls(controller, accounting, database, others)


def write(folder: Path, options: Options, ports: Ports) -> None:
    """Everything that the daemons read, and the folders that they write into."""
    for name in ("etc", "bin", "log", "state", "dev", "munge", "munge/socket"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # munged refuses a key that others may read, and a socket that they cannot reach.
    for name, mode in ((".", 0o755), ("munge", 0o711), ("munge/socket", 0o755)):
        (folder / name).chmod(mode)
    key = folder / "munge" / "key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    for name in options.names:
        (folder / "spool" / name).mkdir(parents=True, exist_ok=True)
        for number in range(options.gpus):
            device = folder / "dev" / name / f"gpu{number}"
            device.parent.mkdir(exist_ok=True)
            device.unlink(missing_ok=True)
            device.symlink_to("/dev/null")
    (folder / "etc" / "slurm.conf").write_text(slurm_conf(folder, options, ports))
    (folder / "etc" / "gres.conf").write_text(gres_conf(folder, options))
    if options.slurmdbd:
        write_accounting(folder, ports)
    write_commands(folder)


def slurm_conf(folder: Path, options: Options, ports: Ports) -> str:
    """For an ordinary user: whoever starts the daemons is Slurm's user and the only one whose jobs run."""
    user, host = getpass.getuser(), socket.gethostname().partition(".")[0]
    lines = [
        f"ClusterName={CLUSTER}",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={ports.controller}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        # A requeued job waits until its first credential has expired: two minutes by default.
        f"AuthInfo=socket={folder}/munge/socket/socket,cred_expire=5",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool/%n",
        f"SlurmctldPidFile={folder}/state/slurmctld.pid",
        f"SlurmdPidFile={folder}/state/slurmd-%n.pid",
        f"SlurmctldLogFile={folder}/log/slurmctld.log",
        f"SlurmdLogFile={folder}/log/slurmd-%n.log",
        # No cgroups: containers have none to give.
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "MpiDefault=none",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=1",
        *(["JobAcctGatherParams=OverMemoryKill"] if options.enforce_memory else []),
        "ReturnToService=2",
        f"KillWait={options.kill_wait}",
        f"MinJobAge={options.min_job_age}",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU_Memory",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "GresTypes=gpu",
        "SlurmdParameters=config_overrides",  # more processors than there are
        *accounting_lines(folder, options, ports),
        *options.settings,
    ]
    for name, port in zip(options.names, ports.nodes, strict=True):
        lines.append(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={options.cpus} "
            f"RealMemory={options.memory} State=UNKNOWN" + (f" Gres=gpu:h200:{options.gpus}" if options.gpus else "")
        )
    partition = f"Nodes=ALL MaxTime={options.max_time} State=UP"
    lines.append(f"PartitionName=main Default=YES PriorityTier=1 GraceTime={options.grace} {partition}")
    lines.append(f"PartitionName=urgent PriorityTier=10 PreemptMode=OFF {partition}")
    return "\n".join(lines) + "\n"


def gres_conf(folder: Path, options: Options) -> str:
    """Without device files the node would be invalid."""
    if not options.gpus:
        return ""
    numbers = f"[0-{options.gpus - 1}]"
    return "".join(
        f"NodeName={name} Name=gpu Type=h200 File={folder}/dev/{name}/gpu{numbers}\n" for name in options.names
    )


def accounting_lines(folder: Path, options: Options, ports: Ports) -> list[str]:
    if not options.slurmdbd:
        return ["AccountingStorageType=accounting_storage/none"]
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={ports.accounting}",
        f"AccountingStoragePass={folder}/munge/socket/socket",  # with munge, it is where munged listens
        "AccountingStoreFlags=job_comment",
        "AccountingStorageTRES=gres/gpu",
    ]


def write_accounting(folder: Path, ports: Ports) -> None:
    """slurmdbd's file, and the SQL that MariaDB starts with."""
    user, password = getpass.getuser(), secrets.token_hex(16)
    conf = folder / "etc" / "slurmdbd.conf"
    conf.touch(mode=0o600)  # slurmdbd refuses one that others may read
    conf.write_text(
        f"AuthType=auth/munge\nAuthInfo=socket={folder}/munge/socket/socket\n"
        f"DbdHost=localhost\nDbdAddr=127.0.0.1\nDbdPort={ports.accounting}\nSlurmUser={user}\n"
        f"PidFile={folder}/state/slurmdbd.pid\nLogFile={folder}/log/slurmdbd.log\n"
        "StorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\n"
        f"StoragePort={ports.database}\nStorageUser=slurm\nStoragePass={password}\nStorageLoc=slurm_acct\n"
    )
    sql = folder / "etc" / "accounting.sql"
    sql.touch(mode=0o600)
    sql.write_text(
        f"CREATE OR REPLACE USER slurm@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        "GRANT ALL ON slurm_acct.* TO slurm@'127.0.0.1';\n"
    )


def write_commands(folder: Path) -> None:
    """Slurm's commands, which find this cluster by themselves.

    SLURM_CONF alone does not do: Snakemake's plugin takes it out of the environment in which a job calls `srun`.
    """
    for name in COMMANDS:
        program = shutil.which(name, path="/usr/bin:/usr/local/bin:/opt/slurm/bin")
        if program is None:
            continue
        command = folder / "bin" / name
        command.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/etc/slurm.conf exec {program} "$@"\n')
        command.chmod(0o755)

"""`osgap <stage>`: one thin subcommand per stage, and some tools."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from osgap.cli import config, init, operations, reruns, stages, tools
from osgap.cli.common import app
from osgap.runtime.errors import UserError

__all__ = ["app", "config", "init", "main", "operations", "reruns", "stages", "tools"]


def main() -> None:
    """Entry point of the command line."""
    arguments = sys.argv[1:]
    # A scheduler's SIGTERM ends the process as an exception, so that nothing half-written is left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        _say_where(arguments)
        if arguments[:1] == ["why"]:  # its arguments are Snakemake's, options and all
            reruns.run_why(arguments[1:])
        else:
            _run(app, arguments)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():  # `osgap --help | head` has read enough
            sys.exit(0)
        if "--traceback" in arguments:
            raise
        message = str(error) if isinstance(error, UserError) else _explain(error)
        print(f"osgap: {message}", file=sys.stderr)
        sys.exit(UserError.EXIT_CODE)
    finally:
        if _nobody_reads():  # Python would complain when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _nobody_reads() -> bool:
    """Whether the output goes into a pipe that has been closed, as by `head`. That is no error of the command's."""
    try:
        file = sys.stdout.fileno()
    except (OSError, ValueError):  # it goes into no file: a test's, a notebook's
        return False
    poll = select.poll()
    poll.register(file, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _say_where(arguments: list[str]) -> None:
    """The first line of a cluster job's log: which job it is, on which machine.

    Whatever ends the process without a word, such as too little memory, leaves a log that is not empty; Snakemake shows
    Slurm's log, which has the cause, beside such a one only.
    """
    if job := os.environ.get("SLURM_JOB_ID"):
        logging.getLogger(__name__).info(
            "osgap %s: Slurm job %s on %s", " ".join(arguments[:1]), job, socket.gethostname()
        )


def _explain(error: OSError) -> str:
    """What the machine refused, anywhere: no space, no permission, a path that is something else."""
    advice = {
        errno.ENOSPC: "free space there, or write elsewhere (`results` in the config)",
        errno.EDQUOT: "your quota is used up: free space there, or write elsewhere (`results` in the config)",
        errno.EFBIG: "it would be larger than this machine allows: raise the limit (ulimit -f), or write elsewhere",
        errno.EACCES: "check its permissions",
        errno.EPERM: "check its permissions",
        errno.EROFS: "write elsewhere (`results` in the config)",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
    }.get(error.errno or 0, "check the path; --traceback shows where it happened")
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}; {advice}"


def _run(subcommands: Any, arguments: list[str]) -> None:
    run: Callable[..., Any] = subcommands.cli
    run(args=arguments, prog="osgap", description=__doc__)

"""Captures, fits and maps that several runs share: Snakemake's between-workflow cache.

An entry's key is a digest of the rule, of the settings that decide its result, of its code and of the contents of what
it reads. No path is in it, so that it is found from any results folder and any checkout. Jobs on a cluster look there,
too: Snakemake does not tell them `--cache`, the config does.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from osgap.runtime.errors import UserError
from osgap.workflow.cache_config import CacheConfig

LOCATION_VARIABLE = "SNAKEMAKE_OUTPUT_CACHE"
"""Environment variable by which Snakemake knows the folder."""


def cache_folder(config: CacheConfig) -> Path | None:
    """Where the cache is, if there is one."""
    named = config.folder or os.environ.get(LOCATION_VARIABLE)
    return Path(named).absolute() if named else None


def open_cache(config: CacheConfig, workflow: Any, *, licensed: bool) -> None:
    """Let this `snakemake`, and the jobs that it starts, use the cache, if there is one.

    Args:
        workflow: Snakemake's own, before its jobs are planned.
        licensed: whether the run is about real people.

    Raises:
        UserError: others can read the folder, and the data are licensed; or it cannot be written to.
    """
    folder = cache_folder(config)
    if folder is None:
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cache.folder: {folder} cannot be made ({error.strerror}); name another folder") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cache.folder: {folder} cannot be written to; change its permissions, or name another folder")
    mode = stat.S_IMODE(folder.stat().st_mode)
    if licensed and mode & 0o077 and not config.others_may_read:
        raise UserError(
            f"cache.folder: others can get into {folder} (mode {mode:o}), and captures and fits of licensed data would "
            f"lie there: `chmod 700` it, or set cache.others_may_read to true if all of them have the licences"
        )
    os.environ[LOCATION_VARIABLE] = str(folder)
    if workflow.workflow_settings.cache is None:
        workflow.workflow_settings.cache = []

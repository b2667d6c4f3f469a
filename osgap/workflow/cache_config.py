"""The section `cache` of the config."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from osgap.runtime.section import OPERATIONAL, Section


class CacheConfig(Section):
    """Captures, fits and maps that several results folders share."""

    folder: Path | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Folder of the cache, on a file system that all machines see; outputs become links into it. Default is the
    environment variable SNAKEMAKE_OUTPUT_CACHE, or none: nothing is shared."""
    others_may_read: bool = Field(default=False, json_schema_extra=OPERATIONAL)
    """Whether people who can read the folder are licensed for what is in it. False: for real people it must be closed
    to everybody else."""

"""From what Snakemake has merged of config files and options to a run that can start."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from osgap.capture.config import URL_VARIABLE
from osgap.workflow.accept import in_force, snakemake_records
from osgap.workflow.cache import open_cache
from osgap.workflow.checks import check
from osgap.workflow.config import validate
from osgap.workflow.pipeline import Pipeline
from osgap.workflow.settings import OPERATION_VARIABLE

observers: list[Callable[[Pipeline], None]] = []
"""Who wants to know what Snakemake's config means (`osgap why`)."""


def prepare(merged: Mapping[str, Any], workflow: Any) -> Pipeline:
    """Validate a config, check what can be checked before any job, and prepare the jobs' environment.

    The data URL is a secret, so it reaches the jobs through the environment and never through a command line.

    Args:
        workflow: Snakemake's own, which knows what it recorded of each output, and whether it is that of a job.

    Raises:
        UserError: the config is wrong, or a file that it names is missing.
    """
    pipeline = Pipeline(validate(merged))
    if workflow.is_main_process:  # each job starts Snakemake again, and looks after one person
        check(pipeline)
    open_cache(pipeline.config.cache, workflow, licensed=pipeline.config.synthetic is None)
    pipeline.recorded = snakemake_records(workflow)
    for sentence in in_force(pipeline.acceptances):
        from snakemake.logging import logger

        logger.info(f"accepted for {sentence}, see {pipeline.layout.accepted}", extra={"accepted": sentence})
    for observe in observers:
        observe(pipeline)
    os.environ[OPERATION_VARIABLE] = pipeline.operation
    if pipeline.url:
        os.environ[URL_VARIABLE] = pipeline.url
    # Jobs run the `osgap` of the interpreter that runs Snakemake, whether or not its environment is activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return pipeline

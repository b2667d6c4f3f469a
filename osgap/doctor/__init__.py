"""`osgap doctor`: what this machine and this config can do, each measured, and what to do about what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from osgap.doctor.findings import Finding, Report
from osgap.doctor.screen import show, to_json

__all__ = ["Finding", "Report", "examine", "show", "to_json"]


def examine(sources: Sequence[str], overrides: Sequence[str] = ()) -> Report:
    """Examine the machine, and the config that `osgap.workflow.config.load_config` makes of the same arguments.

    Takes seconds, changes nothing, and never raises on a config or a machine that is wrong: that is a finding.
    """
    from osgap.doctor import cluster, machine, run

    pipeline, config = run.read_config(sources, overrides)
    return Report(
        [
            *machine.findings(pipeline),
            *cluster.findings(pipeline),
            config,
            *(run.findings(pipeline) if pipeline else []),
        ]
    )

"""Several experiments on one dataset: what each of them changes, and which of them makes what.

A dataset is a results folder with its captures, fits and maps. An experiment lays other settings of the prior, of
personalisation and of the evaluation over the config, and has a folder of its own for what that changes. What it leaves
as it is, it shares: with the config as it stands, whose outputs lie in the results folder itself, or with the first
experiment in the list that asks for the same.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from osgap.runtime.section import Section

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]*"
"""Names of experiments: they are names of folders."""


OVERLAYS = "x-overlays"
"""In the JSON schema of a mapping: the section whose keys it holds."""


class Experiment(Section):
    """What one experiment changes, laid over the sections of the same names; nothing at all is the config as it is."""

    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """The seed of its training and of what follows it [number]. Default is that of the config."""
    prior: dict[str, Any] = Field(default={}, json_schema_extra={OVERLAYS: "prior"})
    """What it changes of the prior and its training."""
    oneshot: dict[str, Any] = Field(default={}, json_schema_extra={OVERLAYS: "oneshot"})
    """What it changes of personalisation."""
    evaluation: dict[str, Any] = Field(default={}, json_schema_extra={OVERLAYS: "evaluation"})
    """What it changes of the evaluation."""


OVERLAID = ("prior", "oneshot", "evaluation")
"""Sections that an experiment can change."""

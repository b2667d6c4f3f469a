"""The base of every section of the config."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the config: immutable, unknown keys are errors, field docstrings describe the fields.

    Each package defines its own sections, so that adding an option to one stage leaves the code digest of the
    others alone; `osgap.workflow.config` composes them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

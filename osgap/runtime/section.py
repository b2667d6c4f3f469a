"""The base of every section of the config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

OPERATIONAL: dict[str, Any] = {"operational": True}
"""`Field(…, json_schema_extra=OPERATIONAL)`: a key that changes where or how fast something is made, and not what.
It is told to every job, and makes none run again; provenance and the keys of checkpoints do not know it."""

PLACE: dict[str, Any] = {**OPERATIONAL, "place": True}
"""The same of a key that says where files are that are read or made: what is in them counts, and not the path.
Snakemake, though, takes files at another path for others, and makes again what depends on them."""


class Section(BaseModel):
    """A part of the config: immutable, unknown keys are errors, field docstrings describe the fields.

    Each package defines its own sections, so that adding an option to one stage leaves the code digest of the
    others alone; `osgap.workflow.config` composes them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    def computation(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """What decides a result: all keys but the operational ones, as JSON has them."""
        return _part(self, self.model_dump(mode="json", exclude_defaults=exclude_defaults), operational=False)

    def operation(self) -> dict[str, Any]:
        """The operational keys that are not at their defaults, as JSON has them."""
        return _part(self, self.model_dump(mode="json", exclude_defaults=True), operational=True)


def is_operational(field: FieldInfo) -> bool:
    """Whether a key is marked as `OPERATIONAL` or `PLACE`."""
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("operational"))


def _part(section: Section | Mapping[str, Section], dump: Mapping[str, Any], *, operational: bool) -> dict[str, Any]:
    if not isinstance(section, Section):  # several, by names of the user's
        parts = {name: _part(section[name], value, operational=operational) for name, value in dump.items()}
        return {name: part for name, part in parts.items() if part or not operational}
    fields = type(section).model_fields
    # A section with an operational key is no section without the keys that it requires.
    required = operational and any(is_operational(field) for field in fields.values())
    part: dict[str, Any] = {}
    for name, value in dump.items():
        field, held = fields[name], getattr(section, name)
        if is_operational(field):
            if operational:
                part[name] = value
        elif isinstance(held, Section) or _are_sections(held):
            within = _part(held, value, operational=operational)
            # One that is off by default is there, even if all of it is at its defaults.
            if within or not (operational or isinstance(field.default, Section)):
                part[name] = within
        elif not operational or (required and field.is_required()):
            part[name] = value
    return part


def _are_sections(held: Any) -> bool:
    return isinstance(held, Mapping) and bool(held) and all(isinstance(value, Section) for value in held.values())

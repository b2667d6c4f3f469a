"""What the config's model says to others: the JSON schema for editors, and `docs/config.md` for readers.

Both come from the sections' types, constraints and docstrings (`osgap/**/config.py`). A docstring says what a key means
and, in square brackets, its unit: "Image width [pixels]." `osgap.workflow.config_check` sees to it that
`config.yaml` and the documentation say the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from osgap.runtime.section import OPERATIONAL, PLACE
from osgap.workflow.config import Config
from osgap.workflow.experiments import OVERLAYS

Schema = dict[str, Any]

ANY = "ID"
"""Stands in a path for a name that the user chooses, such as a subject's: `subjects.entries.ID.source`."""

REQUIRED = object()
"""Default of a key without one: it must be given where its section is."""

_UNIT = re.compile(r"\s+\[([A-Za-z][^]]*)]")

_INTRODUCTION = """\
<!-- Made by `osgap config --reference > docs/config.md` from the docstrings of osgap/**/config.py: edit those. -->
# Every key of the config

`config.yaml` shows the same keys with their values in the full run. Change them in a file of your own that holds only
what differs (`snakemake --configfile mine.yaml`), or one by one (`osgap fit 306 --set fit.iterations=300`).
`osgap config --config config.yaml --config mine.yaml` prints what results, and says what is wrong.

Editors with a YAML language server complete and explain the keys of a file that starts with this line, where the
schema's path is as seen from the file:

    # yaml-language-server: $schema=docs/config.schema.json

`null` is a value that is not given; what then holds stands in the last column. A key that reruns nothing may be
changed at any time: no result depends on it. Any other makes those jobs run again that use it. No result depends on
where a file lies either, but Snakemake takes a file at another path for another file, and makes again what reads it.
"""


@dataclass(frozen=True)
class Key:
    """One value that a config can hold."""

    path: tuple[str, ...]
    schema: Schema
    """Its JSON schema."""
    default: Any
    """As JSON has it; `REQUIRED` where there is none."""
    reruns_nothing: bool = False
    """Whether it, or the section that it is in, is marked as `OPERATIONAL`, and not as `PLACE`."""

    @property
    def name(self) -> str:
        """Dotted, as `--set` takes it."""
        return ".".join(self.path)

    @property
    def unit(self) -> str | None:
        """What its docstring has in square brackets."""
        found = _UNIT.search(self.schema.get("description", ""))
        return found[1] if found else None

    @property
    def meaning(self) -> str:
        """Its docstring without the unit."""
        return " ".join(_UNIT.sub("", self.schema.get("description", ""), count=1).split())

    @property
    def is_number(self) -> bool:
        """Whether its value has numbers in it."""
        return bool({"integer", "number"} & set(_types(self.schema)))


@dataclass(frozen=True)
class Part:
    """A section of the config."""

    path: tuple[str, ...]
    meaning: str
    """What the docstrings of the field and of its class say, as Markdown."""
    keys: tuple[Key, ...]
    """Its own; sections within it are parts of their own."""


class _SchemaOfSections(GenerateJsonSchema):
    """Without what pydantic repeats: names as titles, and defaults of whole sections beside those of their keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Schema:
        made = super().default_schema(schema)
        if isinstance(made.get("default"), dict):
            del made["default"]
        return made


def schema() -> Schema:
    """The JSON schema of a config file: every key may be left out, none may be added. Not to be changed."""
    return _schema_of(Config)


@cache
def _schema_of(model: type[BaseModel]) -> Schema:
    made = model.model_json_schema(schema_generator=_SchemaOfSections)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def schema_text() -> str:
    """`docs/config.schema.json`."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def children(node: Schema, whole: Schema) -> dict[str, Schema] | None:
    """The keys of a section by name; `{ANY: …}` for a mapping from names of the user's; None for a value.

    Args:
        node: a part of the schema.
        whole: the schema, to look up references.
    """
    for option in (node, *node.get("anyOf", ())):
        target = whole["$defs"][option["$ref"].rpartition("/")[2]] if "$ref" in option else option
        if "properties" in target:
            return dict(target["properties"])
        if isinstance(target.get("additionalProperties"), dict):
            return {ANY: target["additionalProperties"]}
    return None


def parts() -> list[Part]:
    """All sections, in the order of the model; the first are the keys that are in none."""
    whole = schema()
    return list(_parts(whole, whole, Config().model_dump(mode="json"), (), (), reruns_nothing=False))


def keys() -> dict[tuple[str, ...], Key]:
    """All keys by their paths."""
    return {key.path: key for part in parts() for key in part.keys}


def page() -> str:
    """`docs/config.md`."""
    listed = parts()
    top = [part.path[0] for part in listed if len(part.path) == 1]
    contents = "Sections: " + ", ".join(f"[`{name}`](#{name})" for name in top) + ".\n"
    return "\n".join([_INTRODUCTION, contents, *(_described(part) for part in listed)])


def config_text(config: Config) -> str:
    """A config as YAML that makes the same one, secrets left out."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    return text


def default_text(default: Any) -> str:
    """A default as YAML, on one line."""
    text: str = yaml.safe_dump(default, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def type_text(node: Schema) -> str:
    """A key's type and bounds, as people say them."""
    if "anyOf" in node:
        options = [type_text(option) for option in node["anyOf"]]
        return (", or " if any("," in option for option in options) else " or ").join(options)
    if OVERLAYS in node:
        return f"keys of `{node[OVERLAYS]}`"
    if "enum" in node:
        return "one of " + ", ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    if node["type"] == "array":
        return _list_text(node)
    if node["type"] == "string":
        kind = "path" if node.get("format") == "path" else "text"
        return f"{kind} that matches `{node['pattern']}`" if "pattern" in node else kind
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {_power_of_two(node[word])}" for word, sign in signs.items() if word in node]
    if "multipleOf" in node:
        bounds.append(f"a multiple of {node['multipleOf']}")
    kind = "true or false" if node["type"] == "boolean" else node["type"]
    return " ".join([kind, ", ".join(bounds)]).rstrip()


def _list_text(node: Schema) -> str:
    several = node.get("prefixItems", ())
    item = type_text(several[0] if several else node["items"])
    if several:
        return f"list of {len(several)} {item}s"
    kind = f"list of {item}s" if item == "text" else f"list, each {item}"
    return f"{kind}; at least {node['minItems']}" if "minItems" in node else kind


def _power_of_two(bound: float) -> str:
    """Bounds of what a machine can hold."""
    if isinstance(bound, int) and bound > 2**32 and bound.bit_count() == 1:
        return f"2^{bound.bit_length() - 1}"
    return str(bound)


def _types(node: Schema) -> Iterator[str]:
    if "type" in node:
        yield node["type"]
    for option in (*node.get("anyOf", ()), *node.get("prefixItems", ()), node.get("items", {})):
        if option:
            yield from _types(option)


def _parts(
    node: Schema, whole: Schema, defaults: Any, path: tuple[str, ...], said: Sequence[str], *, reruns_nothing: bool
) -> Iterator[Part]:
    fields = children(node, whole) or {}
    values = defaults if isinstance(defaults, Mapping) else {}
    within = {name: field for name, field in fields.items() if children(field, whole) is not None}
    own = [
        Key(
            (*path, name),
            field,
            values.get(name, field.get("default", {} if OVERLAYS in field else REQUIRED)),
            reruns_nothing or _reruns_nothing(field),
        )
        for name, field in fields.items()
        if name not in within
    ]
    yield Part(path, " ".join(" ".join(said).split()), tuple(own))
    for name, field in within.items():
        docs = [field.get("description", ""), _docstring(field, whole)]
        marked = reruns_nothing or _reruns_nothing(field)
        yield from _parts(field, whole, values.get(name), (*path, name), docs, reruns_nothing=marked)


def _reruns_nothing(node: Schema) -> bool:
    return OPERATIONAL.items() <= node.items() and not PLACE.items() <= node.items()


def _docstring(node: Schema, whole: Schema) -> str:
    """Of the class behind a field."""
    for option in (node, *node.get("anyOf", ())):
        if "$ref" in option:
            return str(whole["$defs"][option["$ref"].rpartition("/")[2]].get("description", ""))
    return ""


def _described(part: Part) -> str:
    heading = f"{'##' if len(part.path) < 2 else '###'} {'.'.join(part.path) or 'The run'}"
    lines = [heading, ""]
    if part.meaning:
        lines += [part.meaning, ""]
    if part.keys:
        lines += ["| Key | Type | Unit | Default | Meaning |", "|---|---|---|---|---|", *map(_row, part.keys), ""]
    return "\n".join(lines)


def _row(key: Key) -> str:
    default = "required" if key.default is REQUIRED else f"`{default_text(key.default)}`"
    cells = [f"`{key.name}`", type_text(key.schema), key.unit or "", default, _meaning(key)]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _meaning(key: Key) -> str:
    return f"{key.meaning} Reruns nothing." if key.reruns_nothing else key.meaning

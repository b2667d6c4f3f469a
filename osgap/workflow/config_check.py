"""Whether `config.yaml`, the pages that are made from the model, and the documentation say what the model says.

`config.yaml` shows every key at its default. What is off by default is a commented example, a line whose `#` stands
right before the key (prose has a space there); a line whose value is another one on purpose says `# default: []`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from osgap.runtime.errors import UserError
from osgap.workflow.config import load_config, validate
from osgap.workflow.experiments import OVERLAYS
from osgap.workflow.reference import (
    ANY,
    REQUIRED,
    Key,
    Schema,
    children,
    default_text,
    keys,
    page,
    schema,
    schema_text,
)

GENERATED = {
    "docs/config.md": ("--reference", page),
    "docs/config.schema.json": ("--schema", schema_text),
}
"""Files that the model makes: the option of `osgap config` that prints one, and its text."""

_EXAMPLE = re.compile(r"^( *)#(?=[^\s#])", re.MULTILINE)
_DEFAULT = re.compile(r"#.*\bdefault: (.+?)\s*$")
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`((?:(?!\n\s*\n)[^`])+)`")
_SET = re.compile(r"--set[ =]([a-z_]+(?:\.\w+)*)=")
_FILES = {"csv", "h5", "html", "json", "md", "npz", "pkl", "ply", "png", "pt", "py", "smk", "yaml"}
"""What is no key after a section's name: `report.html`."""


@dataclass(frozen=True)
class Found:
    """A key that stands in a text."""

    path: tuple[str, ...]
    """As it stands there."""
    known: tuple[str, ...]
    """The same with `ANY` for names of the user's."""
    line: int
    """From 1."""
    siblings: tuple[str, ...] | None = None
    """Where the model does not know the key: those that it knows there."""

    @property
    def unknown(self) -> str:
        """What to say of a key that the model does not know."""
        close = difflib.get_close_matches(self.path[-1], self.siblings or (), n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(self.siblings or ('nothing',))}"
        return f"{'.'.join(self.path)}: unknown key; {hint}"


def check(root: Path, files: Iterable[Path] = ()) -> list[str]:
    """What is wrong, one line per finding; empty when everything agrees.

    Args:
        root: folder of the checkout.
        files: Markdown and YAML files whose keys alone are looked at. Without any, everything is.
    """
    if files := list(files):
        return [line for file in files for line in _names(file, file)]
    lines = [*_undocumented(), *_full_config(root / "config.yaml"), *_stale(root)]
    for file in _documents(root):
        lines += _names(file, file.relative_to(root))
    return lines


def _documents(root: Path) -> list[Path]:
    """Whatever names keys. A profile's `config.yaml` is Snakemake's."""
    texts = [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").rglob("*.md"))]
    profiles = sorted(path for path in (root / "profiles").rglob("*.yaml") if path.name != "config.yaml")
    made = {root / name for name in GENERATED}
    return [path for path in (*texts, *profiles) if path.is_file() and path not in made]


def _undocumented() -> Iterator[str]:
    for key in keys().values():
        if not key.meaning:
            yield f"{key.name}: no docstring; say below the field what it means"
        elif key.is_number and key.unit is None:
            yield f"{key.name}: a number without a unit; name it in the docstring, as in `Image width [pixels].`"


def _stale(root: Path) -> Iterator[str]:
    for name, (option, text) in GENERATED.items():
        path = root / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text():
            state = "is not what the config's docstrings say now" if path.is_file() else "is missing"
            yield f"{name}: {state}; run `osgap config {option} > {name}`"


# config.yaml --------------------------------------------------------------------------------------------
def _full_config(path: Path) -> Iterator[str]:
    """Every key is there once, known, and at its default."""
    try:
        text = path.read_text(encoding="utf-8")
        shown = _EXAMPLE.sub(r"\1", text)
        content, root = yaml.safe_load(shown), yaml.compose(shown)
    except OSError as error:
        yield f"{path.name}: cannot be read ({error.strerror})"
        return
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        yield (
            f"{path.name}:{mark.line + 1 if mark else 1}: not YAML once the examples are taken in "
            f"({getattr(error, 'problem', error)}); a comment that is no example has a space after its #"
        )
        return
    found = list(_walk(root, schema(), schema()))
    yield from (unknown := list(_unknown(path.name, found)))
    yield from _twice(path.name, found)
    model = keys()
    for missing in sorted(model.keys() - {item.known for item in found}, key=list(model).index):
        yield f"{path.name}: {model[missing].name} is missing; {_remedy(model[missing])}"
    if not unknown:
        try:
            load_config([path])
        except UserError as error:
            yield from _each(path.name, error)
        else:
            yield from _values(path.name, content, found, text.splitlines())


def _remedy(key: Key) -> str:
    if key.default is REQUIRED or key.default is None or any(part == ANY for part in key.path):
        return f"add an example, `#{key.path[-1]}: …`, at its place"
    return f"add `{key.path[-1]}: {default_text(key.default)}` at its place"


def _twice(name: str, found: Iterable[Found]) -> Iterator[str]:
    first: dict[tuple[str, ...], int] = {}
    for item in found:
        if item.path in first:
            yield f"{name}:{item.line}: {'.'.join(item.path)} stands in line {first[item.path]} already; keep one"
        first.setdefault(item.path, item.line)


def _values(name: str, content: dict[str, Any], found: Iterable[Found], lines: list[str]) -> Iterator[str]:
    """Whether values are valid, examples included, and the model's defaults where nothing else is said."""
    dumps: dict[str, Any] = {}
    for section, value in content.items():  # one by one: some exclude each other
        try:
            dumps[section] = validate({section: value}).model_dump(mode="json")[section]
        except UserError as error:
            yield from _each(name, error)
    model = keys()
    for item in found:
        key, line = model.get(item.known), lines[item.line - 1]
        example = line.lstrip().startswith("#")
        if key is None or item.path[0] not in dumps or key.default is REQUIRED or (example and key.default is None):
            continue
        try:
            value = _at(dumps, item.path)
        except KeyError:  # a secret, which is in no dump
            continue
        said = _DEFAULT.search(line)
        if said and yaml.safe_load(said[1]) != key.default:
            yield f"{name}:{item.line}: {key.name}: the default is {default_text(key.default)}, not {said[1]}"
        elif not said and value != key.default:
            default = default_text(key.default)
            yield (
                f"{name}:{item.line}: {key.name} is {default_text(value)}, the default is {default}; show that, or end "
                f"the comment with `default: {default}`"
            )


def _each(name: str, error: UserError) -> Iterator[str]:
    """The lines of an error of the config, each with the file's name."""
    first, *lines = str(error).splitlines()
    yield from (f"{name}: {line.strip()}" for line in lines) if lines else iter([f"{name}: {first}"])


def _at(tree: Any, path: Iterable[str]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


# keys in other files ------------------------------------------------------------------------------------
def _names(file: Path, name: Path) -> Iterator[str]:
    """The keys that a file names and the model does not know."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        yield f"{name}: cannot be read ({error.strerror})"
        return
    whole = schema()
    if file.suffix != ".md":
        try:
            yield from _unknown(str(name), _walk(yaml.compose(text), whole, whole))
        except yaml.YAMLError as error:
            yield f"{name}: not valid YAML ({getattr(error, 'problem', error)})"
        return
    yield from _unknown(str(name), sorted(_in_markdown(text, whole), key=lambda item: item.line))


def _in_markdown(text: str, whole: Schema) -> Iterator[Found]:
    """Keys in code spans (`fit.uv_size: 300`), in fenced YAML that is a config, and after `--set`."""
    sections = children(whole, whole) or {}
    dotted = re.compile(rf"(?<![\w./-])((?:{'|'.join(sections)})(?:\.\w+)+)(: *\{{ *\w+:.*\}})?", re.DOTALL)
    for block in _FENCED.finditer(text):
        node = _composed(block[2]) if block[1] in ("yaml", "yml") else None
        if isinstance(node, yaml.MappingNode) and any(key.value in tuple(sections) for key, _ in node.value):
            yield from _walk(node, whole, whole, line=_line(text, block.start(2)))
    # Without the blocks, whose backticks and names are code of any kind.
    prose = _FENCED.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    for span in _SPAN.finditer(prose):
        for name in dotted.finditer(span[1]):
            if name[1].rpartition(".")[2] not in _FILES:
                yield from _dotted(name[1], name[2], whole, _line(prose, span.start()))
    for option in _SET.finditer(text):
        yield from _dotted(option[1], None, whole, _line(text, option.start()))


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _dotted(name: str, value: str | None, whole: Schema, line: int) -> Iterator[Found]:
    """A key and, where a mapping follows it, the keys in that."""
    parts = name.split(".")
    before, after = "".join(f"{{{part}: " for part in parts), "}" * len(parts)
    node = _composed(f"{before}{(value or '').removeprefix(':')}{after}") or _composed(f"{before}{after}")
    for item in _walk(node, whole, whole):
        yield Found(item.path, item.known, line, item.siblings)


def _composed(text: str) -> yaml.Node | None:
    """None where it is no YAML, but prose with braces."""
    try:
        return yaml.compose(text)
    except yaml.YAMLError:
        return None


def _unknown(name: str, found: Iterable[Found]) -> Iterator[str]:
    for item in found:
        if item.siblings is not None:
            yield f"{name}:{item.line}: {item.unknown}"


def _walk(
    node: Any, at: Schema, whole: Schema, path: tuple[str, ...] = (), known: tuple[str, ...] = (), line: int = 1
) -> Iterator[Found]:
    """All keys of a YAML mapping, each followed by those within it; nothing within an unknown one. A value has none.

    Args:
        node: as `yaml.compose` gives it.
        at: the schema of the mapping.
        whole: the schema, to look up references.
        path, known: of the mapping.
        line: of the file, where the YAML begins.
    """
    if not isinstance(node, yaml.MappingNode):
        return
    if OVERLAYS in at:  # those of another section, which are keys of this config there
        overlaid = _walk(node, whole["properties"][at[OVERLAYS]], whole, path, known, line)
        yield from (item for item in overlaid if item.siblings is not None)
        return
    fields = children(at, whole) or {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        part = ANY if ANY in fields else key.value
        here, there, row = (*path, key.value), (*known, part), line + key.start_mark.line
        if part not in fields:
            yield Found(here, there, row, tuple(fields))
            continue
        yield Found(here, there, row)
        yield from _walk(value, fields[part], whole, here, there, line)

"""What a stage's code is: every module that it imports, and a digest of each that knows what matters.

A module's digest is taken from its syntax tree: comments, docstrings and formatting leave it as it is, and so does the
version of Python (3.11 to 3.14) that reads the file.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osgap.runtime.errors import UserError

_PACKAGE = "osgap"
_ROOT = Path(__file__).parents[1]

# Modules that stages import and that cannot change what a stage computes; an edit there reruns nothing. (Another way of
# taking digests shows in the digests; which device computes is in no provenance.)
_WITHOUT_EFFECT = frozenset(
    f"{_PACKAGE}{name}"
    for name in (
        *("", ".runtime", ".runtime.acceptance", ".runtime.code", ".runtime.errors", ".runtime.progress"),
        *(".runtime.allocation", ".runtime.cards", ".runtime.folder_lock", ".runtime.gpus", ".runtime.upgrades"),
    )
)

_UNSEEN = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
"""Fields that say again what another says (the context of a name), or how it was typed (the `u` of a string)."""


def code_digests(module: str) -> dict[str, str]:
    """Every `osgap` module that `module` imports (transitively, lazily or not), with a digest of its syntax.

    Raises:
        UserError: one of them is not Python; says where.
    """
    return {name: _read(name).digest for name in sorted(_closure(module) - _WITHOUT_EFFECT)}


def code_digest(module: str) -> str:
    """One digest of `code_digests`: the parameter that makes a rule depend on its code."""
    return digest_of(code_digests(module))


def digest_of(digests: Mapping[str, str]) -> str:
    """The one digest that stands for those of modules, such as `code` of a provenance."""
    return hashlib.sha256(json.dumps(dict(digests), sort_keys=True).encode()).hexdigest()[:16]


def syntax_digest(source: bytes | str) -> str:
    """Digest of what a module does: of its syntax tree without comments, docstrings and formatting.

    `ast.dump` differs between versions of Python, and `ast.unparse` between their bugs; see `_canonical`.

    Raises:
        SyntaxError: this is not Python.
    """
    return hashlib.sha256(_canonical(ast.parse(source)).encode()).hexdigest()[:16]


# the syntax tree as text ---------------------------------------------------------------------------------
def _canonical(tree: object) -> str:
    """A node, a list of nodes or a plain value as text; two trees that mean the same give the same text.

    Left out are fields that are empty (newer versions have more of them) and statements that do nothing.
    """
    text: list[str] = []
    _write(tree, text)
    return "".join(text)


def _write(value: object, text: list[str]) -> None:
    # A list is written to, not generators read: every command of every stage waits for a hundred modules' text.
    if isinstance(value, ast.Constant):
        text.append(f"{type(value.value).__name__}:{_plain(value.value)}")
    elif isinstance(value, ast.AST):
        text.append(f"{type(value).__name__}(")
        for name in _said(type(value)._fields):
            field: Any = getattr(value, name, None)
            if name == "values" and type(value).__name__ in ("JoinedStr", "TemplateStr"):
                field = _pieces(field)
            elif name == "format_spec" and isinstance(field, ast.JoinedStr) and not _pieces(field.values):
                continue  # f"{x:}" is f"{x}"
            elif isinstance(field, list):
                field = [element for element in field if not _does_nothing(element)]
            if field is not None and field != []:
                text.append(f"{name}=")
                _write(field, text)
                text.append(",")
        text.append(")")
    elif isinstance(value, list):
        text.append("[")
        for element in value:
            _write(element, text)
            text.append(",")
        text.append("]")
    else:
        text.append(_plain(value))


@functools.cache
def _said(fields: tuple[str, ...]) -> list[str]:
    """Those of a node's fields that say something."""
    return [name for name in sorted(fields) if name not in _UNSEEN]


def _plain(value: object) -> str:
    # What counts as printable differs between versions, and decimal digits are limited to 4300.
    return hex(value) if type(value) is int else ascii(value)


def _does_nothing(node: object) -> bool:
    """`pass`, `...` and strings as statements: bodies of one of these, or of another, are the same."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return isinstance(node.value.value, str) or node.value.value is ...
    return isinstance(node, ast.Pass)


def _pieces(values: Iterable[ast.expr]) -> list[ast.expr]:
    """Parts of an f-string with the text between two fields in one piece: versions cut it differently."""
    pieces: list[ast.expr] = []
    for part in values:
        last = pieces[-1] if pieces else None
        if not isinstance(part, ast.Constant):
            pieces.append(part)
        elif isinstance(last, ast.Constant):
            pieces[-1] = ast.Constant(last.value + part.value)  # type: ignore[operator]
        elif part.value:
            pieces.append(part)
    return pieces


# modules and what they import ----------------------------------------------------------------------------
@dataclass(frozen=True)
class _Module:
    digest: str
    imports: frozenset[str]
    """The `osgap` modules that its source names in import statements, and its parent packages."""


@functools.cache
def _read(module: str) -> _Module:
    """One parse for both; grimp, which finds imports as well, would read every file a second time."""
    path = _source_path(module)
    if path is None:
        raise ModuleNotFoundError(f"{module} is not a module of {_PACKAGE}")
    source = path.read_bytes()
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}; correct it, or install osgap again") from error
    digest = hashlib.sha256(_canonical(tree).encode()).hexdigest()[:16]
    return _Module(digest, frozenset(_imports(module, path, tree)))


@functools.cache
def _closure(module: str) -> frozenset[str]:
    found: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending.extend(_read(name).imports)
    return frozenset(found)


def _imports(module: str, path: Path, tree: ast.Module) -> Iterator[str]:
    yield from _parents(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names: Sequence[str] = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, path, node)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == _PACKAGE and _source_path(name) is not None)


def _absolute(module: str, path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    parts = parts[: len(parts) - (node.level - 1)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _source_path(module: str) -> Path | None:
    relative = Path(*module.split(".")[1:])
    for candidate in ((_ROOT / relative).with_suffix(".py"), _ROOT / relative / "__init__.py"):
        if candidate.is_file() and (module != _PACKAGE or candidate.name == "__init__.py"):
            return candidate
    return None

"""Where an artifact came from: stage, subject, config, inputs, code, versions, seed.

A provenance holds no time and no absolute path, so that the same computation writes the same bytes.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from osgap.runtime.errors import UserError

_PACKAGE = "osgap"
_ROOT = Path(__file__).parents[1]

# Modules that every stage imports and that cannot change what a stage writes; an edit there reruns nothing.
_WITHOUT_EFFECT = frozenset({"osgap", "osgap.runtime", "osgap.runtime.errors", "osgap.runtime.progress"})

_VERSIONED = ("osgap", "torch", "numpy", "numba", "opencv-python-headless", "h5py")


@dataclass(frozen=True)
class Provenance:
    """What an artifact depends on. Two equal provenances promise equal bytes on the same machine."""

    stage: str
    subject: str | None
    seed: int
    config: dict[str, Any]
    inputs: dict[str, str]
    """The last parts of each input's path, as many as tell them apart, and the SHA-256 of its content."""
    code: dict[str, str]
    """Each module that the stage imports, and a digest of its source."""
    versions: dict[str, str]

    @classmethod
    def collect(
        cls,
        stage: str,
        module: str,
        *,
        subject: str | None,
        config: Mapping[str, Any],
        inputs: Iterable[Path],
        seed: int,
    ) -> Provenance:
        """Describe the computation that is about to run.

        Args:
            stage: its name, as on the command line.
            module: dotted name of the module whose `run` does the work; its code and that of all it imports is
            recorded.
            config: the settings that the stage was given, JSON-serialisable.
            inputs: files (or folders: every file below them) that are read; they must exist.
        """
        return cls(
            stage=stage,
            subject=subject,
            seed=seed,
            config=json.loads(json.dumps(config, default=str)),
            inputs={name: file_digest(path) for name, path in _short_names(inputs).items()},
            code=code_digests(module),
            versions=_versions(),
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable, the same for the same computation."""
        return asdict(self)

    @property
    def key(self) -> str:
        """One digest of it all: checkpoints of another key belong to another computation."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()


def _short_names(inputs: Iterable[Path]) -> dict[str, Path]:
    """`folder/name` of each path; more folders where two would be the same. The results folder's place stays out."""
    paths = sorted({Path(path) for path in inputs})
    length = 2
    while len({path.parts[-length:] for path in paths}) < len(paths):
        length += 1
    return {"/".join(path.parts[-length:]): path for path in paths}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, or of the names and contents of all files below a folder.

    Raises:
        UserError: there is no such file.
    """
    if path.is_dir():
        digest = hashlib.sha256()
        for member in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{member.relative_to(path)}\0{file_digest(member)}\0".encode())
        return digest.hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the stage that makes it first, or check the path") from None


def code_digests(module: str) -> dict[str, str]:
    """Every `osgap` module that `module` imports (transitively, lazily or not), with a digest of its source."""
    return {
        name: hashlib.sha256(_source_path(name).read_bytes()).hexdigest()[:16]  # type: ignore[union-attr]
        for name in sorted(_closure(module) - _WITHOUT_EFFECT)
    }


def code_digest(module: str) -> str:
    """One digest of `code_digests`: the parameter that makes a rule depend on its code."""
    text = json.dumps(code_digests(module), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _closure(module: str) -> frozenset[str]:
    found: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending.extend(_imports(name))
    return frozenset(found)


@functools.cache
def _imports(module: str) -> frozenset[str]:
    """The `osgap` modules that one module's source names in import statements, and its parent packages."""
    path = _source_path(module)
    if path is None:
        raise ModuleNotFoundError(f"{module} is not a module of {_PACKAGE}")
    found = set(_parents(module))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names: Sequence[str] = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, path, node)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        found.update(name for name in names if name.split(".")[0] == _PACKAGE and _source_path(name) is not None)
    return frozenset(found)


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

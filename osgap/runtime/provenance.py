"""Where an artifact came from: stage, subject, config, inputs, code, versions, seed.

A provenance holds no time and no absolute path, so that the same computation writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from osgap.runtime.acceptance import accepted_for
from osgap.runtime.code import code_digests, digest_of
from osgap.runtime.errors import UserError
from osgap.runtime.upgrades import current_versions, earlier_versions, upgrades

_WHERE_THERE_ARE = ("accepted", "resumed", "upgraded")


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
    """Each module that the stage imports, and a digest of its syntax."""
    versions: dict[str, str]
    accepted: tuple[str, ...] = ()
    """Digests of earlier code of the stage that were accepted as computing the same (`osgap accept`) when it ran."""
    resumed: tuple[str, ...] = ()
    """Those of them that made a checkpoint which this computation went on from."""
    upgraded: dict[str, list[str]] = field(default_factory=dict)
    """Packages that were others while an earlier part of it was computed, and their versions then."""

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
        code = code_digests(module)
        return cls(
            stage=stage,
            subject=subject,
            seed=seed,
            config=json.loads(json.dumps(config, default=str)),
            inputs={name: file_digest(path) for name, path in _short_names(inputs).items()},
            code=code,
            versions=current_versions(),
            accepted=accepted_for(stage, digest_of(code)),
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable, the same for the same computation. What was not accepted is not mentioned."""
        content = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in content.items() if value or name not in _WHERE_THERE_ARE}

    @property
    def key(self) -> Key:
        """Which checkpoints belong to this computation."""
        return Key(_computation(self.as_dict()), digest_of(self.code), self.accepted, self.versions)

    def resumed_from(self, codes: Iterable[str], versions: Iterable[Mapping[str, str]] = ()) -> Provenance:
        """The provenance of what went on from a checkpoint that code of these digests made, with these versions."""
        return replace(
            self,
            resumed=tuple(sorted(set(codes) - {digest_of(self.code)})),
            upgraded=earlier_versions(versions, self.versions),
        )

    def describes(self, found: object) -> bool:
        """Whether a file that says this of itself is what this computation makes.

        It may be made by accepted code, and by other versions but under `upgrades: rerun`.
        """
        if not isinstance(found, dict) or not {"code", "versions", *_IDENTIFYING} <= found.keys():
            return False
        codes = {digest_of(found["code"]), *found.get("resumed", ())}
        upgraded = found.get("upgraded") or earlier_versions([found["versions"]], self.versions)
        return (
            _computation(found) == self.key.computation
            and codes <= {self.key.code, *self.key.accepted}
            and not (upgraded and upgrades() == "rerun")
        )


@dataclass(frozen=True)
class Key:
    """Which computation a checkpoint belongs to."""

    computation: str
    """Digest of all that it depends on but for its code."""
    code: str = ""
    """Digest of its code."""
    accepted: tuple[str, ...] = ()
    """Digests of earlier code, whose checkpoints it goes on from."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages that compute it; `osgap.runtime.upgrades` says what others mean."""


_IDENTIFYING = ("stage", "subject", "seed", "config", "inputs")


def _computation(provenance: Mapping[str, Any]) -> str:
    """Digest of all that a computation depends on but for code and versions."""
    identity = {name: provenance[name] for name in _IDENTIFYING}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _short_names(inputs: Iterable[Path]) -> dict[str, Path]:
    """`folder/name` of each path; more folders where two would be the same. The results folder's place stays out."""
    paths = sorted({Path(path) for path in inputs})
    length = 2
    while len({path.parts[-length:] for path in paths}) < len(paths):
        length += 1
    return {"/".join(path.parts[-length:]): path for path in paths}


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

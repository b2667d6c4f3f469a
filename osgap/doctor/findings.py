"""What the doctor finds, and how it says so without telling secrets."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from nersemble_data.constants import NERSEMBLE_ACCESS_FORM_URL

Status = Literal["ok", "warning", "missing"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?!…|/…)[^\s'\")]+")  # not the kinds of URL that advice names
_URL_KEY = re.compile(r"""(\burl["']?\s*[:=]\s*)["']?[^\s"',}]+["']?""", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """One thing that was examined."""

    about: Literal["machine", "config"]
    name: str
    """What was examined, the same in every report: scripts may look for it."""
    status: Status
    """`ok`; `warning`: works, but not as well as it could; `missing`: the run cannot end without it."""
    found: str
    """What is there."""
    fix: str = ""
    """One sentence that says what to do; empty where nothing need be done."""


@dataclass(frozen=True)
class Report:
    """All findings, machine first."""

    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "findings", [_discreet(finding) for finding in self.findings])

    @property
    def ready(self) -> bool:
        """Whether nothing is missing."""
        return all(finding.status != "missing" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """`{"ready": bool, "findings": [{"about", "name", "status", "found", "fix"}, …]}`; all values are texts."""
        names = [item.name for item in fields(Finding)]
        return {
            "ready": self.ready,
            "findings": [{name: getattr(finding, name) for name in names} for finding in self.findings],
        }


def gigabytes(size: float) -> str:
    """A number of bytes for people: `1.3 GB`, `40 MB`."""
    if size < 1e9:
        return f"{size / 1e6:.0f} MB"
    return f"{size / 1e9:.1f} GB" if size < 100e9 else f"{size / 1e9:,.0f} GB"


def some(names: list[str], most: int = 5) -> str:
    """The first few of many names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def from_home(path: Path) -> str:
    """A path with the home folder as `~`."""
    home = Path.home()
    return str(Path("~") / path.relative_to(home)) if path.is_relative_to(home) else str(path)


def _discreet(finding: Finding) -> Finding:
    """The finding without URLs: a broken config's error may quote the line with the secret one."""
    return Finding(finding.about, finding.name, finding.status, _redact(finding.found), _redact(finding.fix))


def _redact(text: str) -> str:
    if secret := os.environ.get("NERSEMBLE_DATA_URL", "").strip():
        text = text.replace(secret, "(not shown)")
    text = _URL_KEY.sub(r"\1(not shown)", text)
    return _URL.sub(lambda match: match[0] if match[0] == NERSEMBLE_ACCESS_FORM_URL else "(not shown)", text)

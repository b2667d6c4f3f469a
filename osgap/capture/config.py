"""Settings of the stages `download` and `import`, and what the config may say of a single subject."""

from __future__ import annotations

import difflib
import string
from collections.abc import Sequence
from typing import Any, Literal

from nersemble_data.constants import SEQUENCE_NAMES, SERIALS
from pydantic import Field, field_validator

from osgap.capture.correction_names import check_correction
from osgap.runtime.section import OPERATIONAL, PLACE, Section

URL_VARIABLE = "NERSEMBLE_DATA_URL"
"""Environment variable with NeRSemble's data URL; the name is nersemble-data's own."""


def short_name(sequence: str) -> str:
    """NeRSemble's short name of a sequence, which VHAP uses: `EXP-2-eyes` is `EXP-2`, `SEN-01-cramp_…` `SEN-01`."""
    return "-".join(sequence.split("-")[:2])


VIDEO_SEQUENCES: tuple[str, ...] = tuple(name for name in SEQUENCE_NAMES if name != "BACKGROUND")
"""NeRSemble's sequences with a video per camera (`BACKGROUND` is one picture per camera)."""

_PAPER = {*(f"EMO-{n}" for n in (1, 2, 3, 4)), *(f"EXP-{n}" for n in (2, 3, 4, 5, 8, 9))}
PAPER_SEQUENCES: tuple[str, ...] = tuple(sorted(name for name in VIDEO_SEQUENCES if short_name(name) in _PAPER))
"""The ten sequences of GaussianAvatars and OSGAP: EMO-1..4 and EXP-2, 3, 4, 5, 8, 9."""


class SourceFrame(Section):
    """One photograph of a capture."""

    sequence: str
    """Name of the sequence, in full (`EXP-2-eyes`) or short (`EXP-2`)."""
    timestep: int = Field(ge=0)
    """Timestep of its sequence, from 0 [index]."""
    camera: str
    """Serial of the camera; quoted."""

    @field_validator("camera", mode="before")
    @classmethod
    def _serial(cls, value: Any) -> Any:
        return _as_text(value)


class SubjectEntry(Section):
    """What differs for one subject; every key may be left out."""

    participant: int | None = Field(default=None, ge=0)
    """NeRSemble's number of the person [number]. Default is the subject's own name, read as a number."""
    sequences: list[str] | None = None
    """Sequences of this subject. Default is `capture.sequences`."""
    tracking: str | None = Field(default=None, json_schema_extra=PLACE)
    """Folder of this subject's tracking export; as `capture.tracking`, which is the default."""
    source: SourceFrame | None = None
    """The photograph that a test person's avatar is made from. Default is chosen by `oneshot`."""
    driver: str | None = None
    """The subject whose motion this one is given in cross-reenactment. Default is the next of `subjects.train`."""
    corrections: list[str] | None = None
    """What is corrected in this subject's tracking. Default is `capture.corrections`; an empty list is nothing."""

    @field_validator("sequences")
    @classmethod
    def _known_sequences(cls, value: list[str] | None) -> list[str] | None:
        return value if value is None else _sequences(value)

    @field_validator("corrections")
    @classmethod
    def _known_corrections(cls, value: list[str] | None) -> list[str] | None:
        return value if value is None else _corrections(value)

    @field_validator("tracking")
    @classmethod
    def _template(cls, value: str | None) -> str | None:
        return _tracking_template(value)


class CaptureConfig(Section):
    """Where captures come from."""

    url: str | None = Field(default=None, repr=False, exclude=True)
    """NeRSemble's data URL (`https://…`) from the mail that answers the access form; or the folder of a copy of its
    tree, as a path (a relative one starts at the working directory) or as `file:///folder`. A secret: it is left out
    of dumps, logs, errors and provenance. Default is the environment variable NERSEMBLE_DATA_URL."""
    download: bool = True
    """Whether the raw videos are part of the run. False: the tracking exports are all there is."""
    sequences: list[str] = Field(default=list(PAPER_SEQUENCES))
    """Sequences to download, by NeRSemble's names. Default is the ten of the paper."""
    serials: list[str] = Field(default=list(SERIALS))
    """Serials of the cameras to download; quoted. Default is all 16."""
    connections: int = Field(default=4, ge=1, le=32, json_schema_extra=OPERATIONAL)
    """Videos that one download job fetches and verifies at once [videos]."""
    frames: Literal["export", "videos"] = "export"
    """Where frames come from: the images of the tracking export, or the raw videos, colour-corrected, cut out with the
    export's masks and laid on white (for exports without images). NeRSemble's benchmark always has videos."""
    width: int | None = Field(default=None, ge=16, le=4096)
    """Width of the stored frames [pixels]; height and intrinsics follow. Default is the source's own: the tracking
    export's, or the benchmark videos'."""
    tracking: str | None = Field(default=None, json_schema_extra=PLACE)
    """Folder of a subject's FLAME tracking: an export in VHAP's layout (as GaussianAvatars released them, too), a
    participant's folder of NeRSemble's benchmark, metrical-tracker's output (INSTA, RGBAvatar), or IMavatar's data (see
    `docs/data.md`). `{subject}` and `{participant}` are replaced
    (`{participant:03d}` pads), and `*`, `?` and `[…]` may stand for the rest of the name if exactly one folder fits:
    `data/tracking/UNION10_{subject}_*`."""
    held_out_camera: str = "222200037"
    """Serial of the camera that is kept for validation where the export does not say: NeRSemble's frontal one,
    number 8 of 16 (VHAP, GaussianAvatars)."""
    check: Literal["stop", "warn"] = "stop"
    """What becomes of a capture whose head cannot stand where the images show it: `stop` imports nothing and says why,
    `warn` says so and imports it nevertheless (if the contact sheet shows that the finding is wrong)."""
    corrections: list[str] = []
    """What is corrected in everybody's tracking, in this order: an import that stops names the correction that would
    help, and you agree by setting it. docs/data.md lists all."""
    drop_outliers: bool = False
    """Whether moments with outliers (single frames that do not fit) are left out of the store. False: they are
    named, and stay."""

    @field_validator("corrections")
    @classmethod
    def _known_corrections(cls, value: list[str]) -> list[str]:
        return _corrections(value)

    @field_validator("url", mode="before")
    @classmethod
    def _secret(cls, value: Any) -> Any:
        # Before pydantic's own check, whose message would show the value.
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise ValueError("expected a URL as a text that is not empty (what was found is not shown: it is a secret)")
        return value if value is None else value.strip()

    @field_validator("sequences")
    @classmethod
    def _known_sequences(cls, value: list[str]) -> list[str]:
        return _sequences(value)

    @field_validator("serials", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        return [_as_text(item) for item in value] if isinstance(value, list) else value

    @field_validator("serials")
    @classmethod
    def _known_serials(cls, value: list[str]) -> list[str]:
        return _known(value, SERIALS, "camera serial")

    @field_validator("held_out_camera", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return _as_text(value)

    @field_validator("tracking")
    @classmethod
    def _template(cls, value: str | None) -> str | None:
        return _tracking_template(value)


def _as_text(value: Any) -> Any:
    """YAML reads an unquoted serial as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _sequences(names: list[str]) -> list[str]:
    return _known(names, VIDEO_SEQUENCES, "NeRSemble sequence")


def _corrections(names: list[str]) -> list[str]:
    for name in names:
        check_correction(name)
        if names.count(name) > 1:
            raise ValueError(f"{name!r} stands more than once; list it once")
    return names


def _known(names: list[str], accepted: Sequence[str], kind: str) -> list[str]:
    if not names:
        raise ValueError(f"the list is empty; name at least one {kind}")
    for name in names:
        if name not in accepted:
            short = [full for full in accepted if short_name(full).lower() == name.lower()]
            # Numbers are all alike, so that the closest one would be a guess.
            close = short or ([] if name.isdecimal() else difflib.get_close_matches(name, accepted, n=1))
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(accepted)}"
            raise ValueError(f"{name!r} is no {kind}; {hint}")
        if names.count(name) > 1:
            raise ValueError(f"{name!r} stands more than once; list it once")
    return names


def _tracking_template(value: str | None) -> str | None:
    if value is None:
        return None
    if not value.strip():
        raise ValueError("the path is empty; give the folder of the tracking export, or leave the key out")
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(value) if field is not None]
        value.format(subject="0", participant=0)
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{value!r} cannot be filled in ({type(error).__name__}: {error}); use {{subject}} and {{participant}}"
        ) from None
    unknown = sorted(set(fields) - {"subject", "participant"})
    if unknown:
        raise ValueError(f"{value!r} asks for {{{unknown[0]}}}; only {{subject}} and {{participant}} are known")
    return value

"""Which release a head model's files are of, as far as published checksums, file names and the topology tell."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from osgap.head.config import HeadAssets
from osgap.head.obj import read_template
from osgap.head.teeth import has_flame_topology
from osgap.runtime.errors import UserError

if TYPE_CHECKING:
    from osgap.head.model import HeadModel

_PUBLISHED: dict[str, str] = {
    # generic_model.pkl of FLAME2020.zip, 53,023,716 bytes. SHA-256: pinned with the same value by ten unrelated public
    # repositories that load SMIRK, DECA or MICA; MD5: VamosC/CapHuman, tools/setup.sh.
    "efcd14cc4a69f3a3d9af8ded80146b5b6b50df3bd74cf69108213b144eba725b": "FLAME 2020",
    "cfc3b95159b2a8981ebc347170202ba5": "FLAME 2020",
    # flame2023.pkl (with jaw rotation), 53,023,716 bytes. SHA-256: pinned with the same value by two unrelated public
    # projects, one of them as an asset of LAM.
    "8fb1af0db1abb51053ead8fd1f2624a63d01c9602f4a4fb4ea23bd2c82017fa0": "FLAME 2023",
    # flame2023_Open.pkl of FLAME2023Open.zip. SHA-256: told with the same value by three unrelated public projects.
    "e75a0990728ba038c7da2a420ae4396f7ddd7781366c13026066c5b24f127623": "FLAME 2023 Open",
    # FLAME_masks.pkl of FLAME's vertex masks. SHA-256: pinned with the same value by several public repositories, in
    # one of them beside the file above, as part of SMIRK's assets.
    "ccefbe1ac0774ff78c68caf2c627b4abc067a6555ebeb0be5d5b0812366ab492": "FLAME's vertex masks",
    # head_template.obj of DECA, which GaussianAvatars, VHAP and OSGAP have as head_template_mesh.obj. MD5: of their
    # files, and in VamosC/CapHuman, tools/setup.sh; SHA-256: of yfeng95/DECA at a11554ae, pinned by others.
    "ddc6d31590f871ebe1844b063b2f8042": "FLAME's template",
    "dd5bfbce75adb99b1963f43bca7ec3557bd4a7321f8fc515f4100599e80d99f2": "FLAME's template",
}


_TERMS = "flame.is.tue.mpg.de/modellicense.html"
_ACADEMIC = f"non-commercial research only (FLAME's academic licence, {_TERMS})"
_LICENCES: dict[str, str] = {
    "FLAME 2020": _ACADEMIC,
    "FLAME 2023": _ACADEMIC,
    "FLAME 2023 without jaw rotation": _ACADEMIC,
    "FLAME 2023 Open": f"CC BY 4.0, commercial use included; see the model's terms for what is barred ({_TERMS})",
}
_MODELS = frozenset(_PUBLISHED.values()) & frozenset(_LICENCES)


@dataclass(frozen=True)
class Release:
    """What is known of a head model's files."""

    name: str
    """Such as `FLAME 2020`; a guess where `model_known` is False."""
    is_flame: bool
    """Whether the template has FLAME's topology."""
    model_known: bool
    """Whether the file's checksum is a published one; likewise below."""
    masks_known: bool
    template_known: bool

    @property
    def licence(self) -> str:
        """What the model may be used for, as its makers' page of licences says; as sure as the name is."""
        if not self.is_flame:
            return "its makers' own"
        return _LICENCES.get(self.name, f"not known; FLAME's are at {_TERMS}")

    @property
    def unknown_files(self) -> list[str]:
        """Keys of `flame.assets` whose files have no published checksum."""
        known = {"model": self.model_known, "masks": self.masks_known, "template": self.template_known}
        return [key for key, is_known in known.items() if not is_known]


def identify(assets: HeadAssets, head: HeadModel | None = None) -> Release:
    """Which release the files are of: by the model's checksum, else by its name if the topology is FLAME's.

    An unknown checksum is no error: not all files have a published one.

    Args:
        head: the model, where it is loaded; else the template is read for its topology.

    Raises:
        UserError: when a file cannot be read, or the template is no OBJ.
    """
    if head is None:
        template = read_template(assets.template)
        vertices, triangles = template.vertex_count, len(template.faces)
        is_flame = has_flame_topology(vertices, triangles)
    else:
        vertices, triangles, is_flame = head.vertex_count, len(head.faces), head.is_flame
    by_checksum = _published(_content(assets.model))
    if not is_flame:
        name = f"a head model that is not FLAME's ({vertices} vertices, {triangles} triangles)"
    else:
        name = by_checksum if by_checksum in _MODELS else _by_file_name(assets.model)
    obj = _content(assets.template)
    unix = obj.replace(b"\r\n", b"\n")
    return Release(
        name=name,
        is_flame=is_flame,
        model_known=by_checksum in _MODELS,
        masks_known=_published(_content(assets.masks)) == "FLAME's vertex masks",
        # VHAP has it with other line ends.
        template_known="FLAME's template" in map(_published, (obj, unix, unix.replace(b"\n", b"\r\n"))),
    )


def _by_file_name(path: Path) -> str:
    name = path.name.lower()
    if "no_jaw" in name:
        return "FLAME 2023 without jaw rotation"
    if "2023" in name:
        return "FLAME 2023 Open" if "open" in name else "FLAME 2023"
    return "FLAME 2020" if name == "generic_model.pkl" or "2020" in name else "FLAME of an unknown release"


def _published(content: bytes) -> str | None:
    """What the published checksums say that a file is."""
    by_sha256 = _PUBLISHED.get(hashlib.sha256(content).hexdigest())
    return by_sha256 or _PUBLISHED.get(hashlib.md5(content, usedforsecurity=False).hexdigest())


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None

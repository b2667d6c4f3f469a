"""Where NeRSemble's tree is read from: a server, or a folder of this machine."""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import shutil
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from nersemble_data.constants import NERSEMBLE_ACCESS_FORM_URL

from osgap.capture.config import URL_VARIABLE, CaptureConfig
from osgap.capture.download.network import DATA_URL, UNUSABLE
from osgap.capture.download.partial import Partial, Stamp
from osgap.capture.download.stop import Stop
from osgap.capture.download.transfer import Client, TransferSettings
from osgap.capture.nersemble import CATALOGUE
from osgap.runtime.errors import UserError


class Source(Protocol):
    """Where a NeRSemble tree is read from. All paths are relative to its root."""

    def fetch(self, path: str, target: Path, check: Callable[[Path], Any]) -> tuple[Any, Stamp]:
        """Bring a file to `target`, if `check` finds it good; returns what that returned and the source's state."""

    def is_copy(self, path: str, target: Path, stamp: Stamp) -> bool:
        """Whether `target`, fetched when the source's state was `stamp`, is that file as far as one can know."""

    def probe(self, path: str) -> None:
        """Raise `UserError` if the source does not answer for a file."""


def source_of(config: CaptureConfig, settings: TransferSettings, stop: Stop) -> Source:
    """The source behind the URL of the config or the environment."""
    url = data_url(config) or _stored_url()
    if not url:
        raise UserError(
            f"no NeRSemble data URL is set. Request access with NeRSemble's form ({NERSEMBLE_ACCESS_FORM_URL}), then "
            f"set the environment variable {URL_VARIABLE} (or capture.url) to the URL in the answer; or set "
            f"`capture: {{download: false}}` to work from tracking exports alone."
        )
    folder = local_folder(url)
    if folder is None:
        return _Server(Client(url, settings, stop))
    if not folder.is_dir():
        raise UserError(
            f"{DATA_URL} names a local folder that does not exist (it is not shown: it may be a secret); check it for "
            f"typing errors, and begin a URL with https://"
        )
    if not (folder / CATALOGUE).is_file():
        raise UserError(
            f"{DATA_URL} names a local folder without {CATALOGUE}; it should be the root of NeRSemble's tree"
        )
    return _Folder(folder)


def data_url(config: CaptureConfig) -> str:
    """The data URL of the config or the environment, or nothing."""
    return config.url or os.environ.get(URL_VARIABLE, "").strip()


def local_folder(url: str) -> Path | None:
    """The folder that a data URL names, as a path or as `file://`, absolute; None where it names a server.

    Raises:
        UserError: when it is neither.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise UserError(UNUSABLE) from None
    if not parts.scheme:
        return Path(url).absolute()
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise UserError(f"{DATA_URL} is a file URL without an absolute path; write three slashes: file:///folder")
        return Path(urllib.parse.unquote(parts.path))
    if parts.scheme in ("http", "https") and host:
        return None
    raise UserError(UNUSABLE)


def _stored_url() -> str:
    """The URL that nersemble-data's own command line stored in the user's home, or nothing."""
    file = Path.home() / ".config" / "nersemble_data" / ".env"
    if not file.is_file():
        return ""
    found = re.search(rf'^\s*(?:export\s+)?{URL_VARIABLE}\s*=\s*["\']?([^"\'\n]*)', file.read_text(), re.MULTILINE)
    return found.group(1).strip() if found else ""


class _Folder:
    """A copy of the tree on this machine, from a folder's path or a `file://` URL."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def fetch(self, path: str, target: Path, check: Callable[[Path], Any]) -> tuple[Any, Stamp]:
        partial = Partial(target)
        partial.discard()
        try:
            with _without_folder(path):
                shutil.copyfile(self._root / path, partial.path)
            found = check(partial.path)
        except UserError:
            partial.discard()
            raise
        partial.publish()
        return found, Stamp()

    def is_copy(self, path: str, target: Path, stamp: Stamp) -> bool:
        with _without_folder(path):
            return filecmp.cmp(self._root / path, target, shallow=False)

    def probe(self, path: str) -> None:
        with _without_folder(path), (self._root / path).open("rb") as file:
            file.read(1)


@contextlib.contextmanager
def _without_folder(path: str) -> Iterator[None]:
    """Turn an OSError into a message without the folder's path, which is the secret URL."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            f"the source has no {path}, which its catalogue promises; check that the copy is complete"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be copied ({error.strerror}); check permissions and disk space") from None


class _Server:
    """NeRSemble's server, from an `http(s)://` URL."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def fetch(self, path: str, target: Path, check: Callable[[Path], Any]) -> tuple[Any, Stamp]:
        return self._client.fetch(path, target, check)

    def is_copy(self, path: str, target: Path, stamp: Stamp) -> bool:
        now = self._client.head(path)
        return now.total in (None, target.stat().st_size) and not now.differs(stamp)

    def probe(self, path: str) -> None:
        self._client.probe(path)

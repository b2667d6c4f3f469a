"""What an HTTP answer says: whether it is the file, which bytes of it, its state, when to come back."""

from __future__ import annotations

import http
import re
from dataclasses import dataclass

from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import HTTPError

from osgap.capture.download.network import DATA_URL, TransientError
from osgap.capture.download.partial import Stamp
from osgap.runtime.errors import UserError

_PASSING = frozenset({408, 425, 429})  # of the 4xx; all 5xx pass, too


def expect(name: str, response: BaseHTTPResponse, *expected: int) -> None:
    """Refuse an answer of another status.

    Raises:
        TransientError: one that may pass.
        UserError: one that will not.
    """
    code = response.status
    if code in expected:
        return
    answer = f"{code} {_phrase(code)}".strip()
    if code in _PASSING or code >= 500 or code < 300:
        raise TransientError(f"the server answered {answer}", _retry_after(response))
    if code in (401, 403):
        raise UserError(f"the server refuses {name} ({answer}); check {DATA_URL}, it may have changed")
    raise UserError(f"the server has no {name} ({answer}); check {DATA_URL}, or leave this sequence or camera out")


def refuses_head(response: BaseHTTPResponse) -> bool:
    """Whether the answer to a HEAD says nothing of the file: servers that answer GET may refuse HEAD."""
    return response.status == 501 or (400 <= response.status < 500 and response.status not in _PASSING)


@dataclass(frozen=True)
class Span:
    """The bytes that an answer to `Range` holds (RFC 9110, section 14.4)."""

    start: int
    end: int
    """One past the last byte."""
    total: int | None


def content_range(response: BaseHTTPResponse) -> Span | None:
    """None where the answer says nothing sensible."""
    found = re.fullmatch(
        r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", response.headers.get("Content-Range", "").strip()
    )
    if not found:
        return None
    start, last, total = int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])
    return None if last < start or (total is not None and last >= total) else Span(start, last + 1, total)


def size_beyond(response: BaseHTTPResponse) -> int | None:
    """The size of a file whose end the range lies beyond (status 416), where the answer tells it."""
    found = re.fullmatch(r"bytes \*/(\d{1,18})", response.headers.get("Content-Range", "").strip())
    return int(found[1]) if found else None


def stamp_of(response: BaseHTTPResponse) -> Stamp:
    """The file's state but for its size."""
    return Stamp(etag=response.headers.get("ETag"), modified=response.headers.get("Last-Modified"))


def length_of(response: BaseHTTPResponse) -> int | None:
    """Bytes of the body, as far as the answer says."""
    text = response.headers.get("Content-Length", "").strip()
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _retry_after(response: BaseHTTPResponse) -> float:
    """Seconds that the server asks to wait (RFC 9110, section 10.2.3); 0 where it does not, or unreadably."""
    try:
        return Retry().get_retry_after(response) or 0.0
    except (HTTPError, TypeError, ValueError, OverflowError):
        return 0.0


def _phrase(code: int) -> str:
    try:
        return http.HTTPStatus(code).phrase
    except ValueError:
        return ""

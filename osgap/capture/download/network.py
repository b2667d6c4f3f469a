"""Requests to the server behind the data URL.

urllib3 does the connections (kept for further requests, through the environment's proxies), TLS, redirections and the
framing of bodies. The URL is a secret, which urllib3 shows in its log and in its errors: the log is cut off here, and
the errors are rewritten and never chained.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Self

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPResponse, PoolManager, ProxyManager, Retry, make_headers
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ResponseError,
    SSLError,
)
from urllib3.util import Url, parse_url

from osgap.capture.config import URL_VARIABLE
from osgap.capture.download.stop import Stop
from osgap.runtime.errors import UserError

DATA_URL = f"the data URL (capture.url in the config, or the environment variable {URL_VARIABLE})"
UNUSABLE = f"{DATA_URL} is none that can be used (it is not shown: it is a secret); expected https://… or file:///…"

_KEPT_CONNECTIONS = 16
_UNCONNECTED = (NewConnectionError, ConnectTimeoutError, SSLError, ProxyError)

for _logger in [name for name in logging.root.manager.loggerDict if name.startswith("urllib3")]:
    logging.getLogger(_logger).addFilter(lambda record: False)  # unlike levels, nobody sets these again


class TransientError(Exception):
    """A failure that another attempt may not meet; the message does not show the URL."""

    def __init__(self, reason: str, retry_after_s: float = 0.0, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        """What the server asks to wait."""
        self.hopeless = hopeless
        """Whether new bytes are no reason to hope for more."""


class BogusRangeError(TransientError):
    """The answer holds other bytes than those asked for."""


class _StaleError(ProtocolError):
    """The server has closed a kept connection, perhaps before it saw the request."""


class _Redirections(Retry):
    """Follows redirections, and replaces stale connections at once (RFC 9112, section 9.3.1).

    Failures are not tried again here: they are counted together with those within a body (`transfer.Patience`).
    """

    def increment(self, *args: Any, **kwargs: Any) -> Self:
        return self if isinstance(kwargs.get("error"), _StaleError) else super().increment(*args, **kwargs)


_REDIRECTIONS = _Redirections(total=None, connect=0, read=0, other=0, redirect=10)


class Network:
    """Sends requests to one server; may be used by several threads.

    Args:
        url: `http(s)://`, with or without `user:password@`; names of files are taken below it.
        timeout_s: longest wait for a connection, and for the next byte.

    Raises:
        UserError: when the URL, or the environment's proxy for it, is none.
    """

    def __init__(self, url: str, timeout_s: float, stop: Stop) -> None:
        address = _address(url)
        self._url = address._replace(auth=None).url.rstrip("/")
        self._headers = {"User-Agent": "osgap", "Accept-Encoding": "identity"}
        if address.auth:  # RFC 7617, in UTF-8; urllib3's own helper has Latin-1
            token = base64.b64encode(urllib.parse.unquote(address.auth).encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        self._timeout_s = timeout_s
        self._stop = stop
        self._manager = _manager(address, stop)

    @contextlib.contextmanager
    def request(self, method: str, name: str, headers: Mapping[str, str] | None = None) -> Iterator[BaseHTTPResponse]:
        """Whatever the server answers, with its body not yet read.

        Raises:
            TransientError: no answer comes.
            UserError: redirections lead nowhere.
            StoppedError: the stop is set.
        """
        self._stop.check()
        try:
            response = self._manager.urlopen(
                method,
                f"{self._url}/{urllib.parse.quote(name, safe='/+')}",
                headers={**self._headers, **(headers or {})},
                retries=_REDIRECTIONS,
                timeout=self._timeout_s,
                preload_content=False,
                enforce_content_length=False,
            )
        except HTTPError as error:
            self._stop.check()
            raise _rewritten(error, name) from None
        with contextlib.closing(response):
            if response.length_remaining == 0:
                response.drain_conn()  # keeps the connection, which a body that was not read to its end does not
            yield response


def word_of(error: BaseException) -> str:
    """An error's kind and errno text, of the one that it was raised for: messages may hold the host."""
    while inner := error.__cause__ or next((part for part in error.args if isinstance(part, BaseException)), None):
        error = inner
    number = None if isinstance(error, ssl.SSLError) else getattr(error, "errno", None)  # TLS counts its own way
    return f"{type(error).__name__}: {os.strerror(number)}" if number and number > 0 else type(error).__name__


def _rewritten(error: HTTPError, name: str) -> Exception:
    cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    if isinstance(cause, ResponseError | LocationValueError):  # too many, or to what is no HTTP URL
        return UserError(f"the server redirects {name} in a circle or to nowhere; check {DATA_URL}")
    return TransientError(f"no {'connection' if isinstance(cause, _UNCONNECTED) else 'answer'} ({word_of(cause)})")


def _address(url: str) -> Url:
    try:
        address = parse_url(url)
        if address.scheme not in ("http", "https") or not address.host:
            raise ValueError
        address.host.encode("idna")  # what the look-up of the name does first
    except ValueError:
        raise UserError(UNUSABLE) from None
    return address


def _manager(address: Url, stop: Stop) -> PoolManager:
    """urllib3's, through the environment's proxy for such a URL (redirections too); the stop can end what it does."""
    settings: dict[str, Any] = {"maxsize": _KEPT_CONNECTIONS, "ssl_context": ssl.create_default_context()}
    bypass = urllib.request.proxy_bypass(address.netloc or "")
    proxy = None if bypass else urllib.request.getproxies().get(address.scheme or "")
    try:
        if not proxy:
            manager = PoolManager(**settings)
        else:
            parts = parse_url(proxy if "://" in proxy else f"http://{proxy}")
            headers = make_headers(proxy_basic_auth=urllib.parse.unquote(parts.auth)) if parts.auth else None
            manager = ProxyManager(parts._replace(auth=None).url, proxy_headers=headers, **settings)
    except ValueError:
        raise UserError(
            f"the environment's {address.scheme}_proxy is no proxy that can be used; expected http://host:port"
        ) from None
    pools = manager.pool_classes_by_scheme.items()
    manager.pool_classes_by_scheme = {scheme: _stoppable(pool, stop) for scheme, pool in pools}
    return manager


def _stoppable(pool: type[HTTPConnectionPool], stop: Stop) -> type[HTTPConnectionPool]:
    """A kind of pool whose connections the stop can shut, and tell when they are stale."""

    class Connection(pool.ConnectionCls):  # type: ignore[name-defined]
        _answered = False

        def connect(self) -> None:
            super().connect()
            self._answered = False
            connected: Any = self.sock
            stop.watch(getattr(connected, "socket", connected))  # TLS within TLS, to a proxy, is no socket

        def getresponse(self) -> HTTPResponse:
            try:
                response: HTTPResponse = super().getresponse()
            except ConnectionError:
                if self._answered:
                    raise _StaleError from None
                raise
            self._answered = True
            return response

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

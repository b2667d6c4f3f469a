"""An HTTP server that serves a tree below a secret path, with ranges, and as badly as it is told; it counts bytes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import re
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOKEN = "s3cret-token"


@dataclass
class Fault:
    """What is wrong with one answer."""

    status: int | None = None
    """Answer with this status and no file."""
    headers: dict[str, str] = field(default_factory=dict)
    """Added to the answer's, or in their place."""
    silent: bool = False
    """Close the connection without an answer."""
    cut: int | None = None
    """Send so many bytes of the body, then close the connection."""
    stall: bool = False
    """Do not close after `cut` bytes but say nothing more."""
    longer: int = 0
    """What the stated length is off by."""
    unknown: bool = False
    """State no length."""
    chunked: bool = False
    whole: bool = False
    """Ignore `Range`."""
    any_state: bool = False
    """Ignore `If-Range`."""
    content_range: str | None = None
    """In place of the right one; empty for none."""
    at_most: int | None = None
    """Bytes that one answer to a range holds."""
    change: Callable[[bytes], bytes] | None = None
    """Of the content, before it is served."""
    then: Callable[[], Any] | None = None
    """Called after the answer."""
    drip_s: float = 0.0
    """Wait after each byte."""


@dataclass(frozen=True)
class Served:
    """One request."""

    method: str
    path: str
    start: int
    sent: int
    """Bytes of the body that were to be written."""
    headers: dict[str, str]
    """Of the request, in lower case."""


class Server:
    """Serves `root` at `url`."""

    def __init__(self, root: Path) -> None:
        self.log: list[Served] = []
        self.faults: dict[str, list[Fault]] = {}
        """Faults of the next GET requests of a path below the root, in order."""
        self.always: dict[str, Fault] = {}
        """Of those that follow."""
        self.etags = True
        self.credentials: str | None = None
        """`user:password` that a request must carry."""
        self.keeps = False
        """Whether connections stay open after an answer."""
        self.connections = 0
        self.dropped = 0
        """Requests that are to be dropped unanswered, beside all faults."""
        self.released = threading.Event()
        """Ends all stalls."""
        self._lock = threading.Lock()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def setup(self) -> None:
                super().setup()
                with server._lock:
                    server.connections += 1

            def do_GET(self) -> None:
                self.path = urllib.parse.urlsplit(self.path).path  # a proxy is asked for a whole URL
                name = self.path.removeprefix(f"/{TOKEN}/")
                with server._lock:
                    queue = server.faults.get(name)
                    fault = queue.pop(0) if queue else server.always.get(name, Fault())
                self.answer("GET", name, fault)

            def do_HEAD(self) -> None:
                self.answer("HEAD", self.path.removeprefix(f"/{TOKEN}/"), Fault())

            def answer(self, method: str, name: str, fault: Fault) -> None:
                self.close_connection = not server.keeps or bool(server.dropped)
                if server.dropped:
                    server.dropped -= 1
                    return
                status, headers, start, content = self.plan(name, fault)
                content = b"" if method == "HEAD" or fault.silent else content[: fault.cut]
                sent = {key.lower(): value for key, value in self.headers.items()}
                with server._lock:
                    server.log.append(Served(method, name, start, len(content), sent))
                with contextlib.suppress(ConnectionError):
                    if not fault.silent:
                        self.head(status, headers)
                        self.body(content, fault)
                if fault.then:
                    fault.then()
                if fault.stall:
                    server.released.wait(300)

            def plan(self, name: str, fault: Fault) -> tuple[int, dict[str, str], int, bytes]:
                """Status, headers, where in the file the body begins, and the body."""
                file = root / name
                status = fault.status or (200 if self.path.startswith(f"/{TOKEN}/") and file.is_file() else 404)
                if server.credentials is not None:
                    token = base64.b64encode(server.credentials.encode()).decode()
                    status = status if self.headers.get("Authorization") == f"Basic {token}" else 401
                if status != 200:
                    return status, {"Content-Length": "0", **fault.headers}, 0, b""
                content = file.read_bytes()
                etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
                content = fault.change(content) if fault.change else content
                headers = {"ETag": etag} if server.etags else {}
                asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                start, total = 0, len(content)
                same = fault.any_state or self.headers.get("If-Range", etag) == etag
                if asked and not fault.whole and same:
                    start, status = int(asked[1]), 206
                    if start >= total:
                        return 416, {"Content-Range": f"bytes */{total}", **headers, **fault.headers}, start, b""
                    last = min(int(asked[2] or total), start + (fault.at_most or total), total) - 1
                    content = content[start : last + 1]
                    headers["Content-Range"] = f"bytes {start}-{last}/{total}"
                    if fault.content_range is not None:
                        headers["Content-Range"] = fault.content_range
                if fault.chunked:
                    headers["Transfer-Encoding"] = "chunked"
                elif not fault.unknown:
                    headers["Content-Length"] = str(len(content) + fault.longer)
                return status, {**headers, **fault.headers}, start, content

            def head(self, status: int, headers: dict[str, str]) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    if value:
                        self.send_header(key, value)
                self.end_headers()

            def body(self, content: bytes, fault: Fault) -> None:
                if fault.drip_s:
                    for number in range(len(content)):
                        self.wfile.write(content[number : number + 1])
                        if server.released.wait(fault.drip_s):
                            break
                elif fault.chunked:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
                    self.wfile.write(b"0\r\n\r\n" if fault.cut is None else b"")
                else:
                    self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        Handler.protocol_version = "HTTP/1.1"
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/{TOKEN}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def sent(self, path: str) -> int:
        """Bytes of all bodies of one path."""
        return sum(served.sent for served in self.log if served.path == path)

    def starts(self, path: str) -> list[int]:
        """Where the answers to GET requests of one path began."""
        return [served.start for served in self.log if served.path == path and served.method == "GET"]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

"""One file over HTTP from a server that misbehaves: exact bytes or a clear error, each byte fetched once, no secret."""

from __future__ import annotations

import email.utils
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from capture.server import TOKEN, Fault, Server
from osgap.capture.download.locks import exclusive
from osgap.capture.download.partial import Stamp
from osgap.capture.download.stop import Stop, StoppedError
from osgap.capture.download.transfer import Client, TransferSettings
from osgap.runtime.errors import UserError

NAME = "030/cam.bin"
SIZE = 50_000
# The timeout is what only stalls wait for; a shorter one is taken for a stall where the machine is busy with others.
HURRIED = TransferSettings(
    timeout_s=1.5, attempts=4, wait_s=0.001, longest_wait_s=0.002, longest_retry_after_s=0.05, block=1000
)


@pytest.fixture
def content() -> bytes:
    return np.random.default_rng(0).bytes(SIZE)


@pytest.fixture
def server(tmp_path: Path, content: bytes) -> Iterator[Server]:
    file = tmp_path / "source" / NAME
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    running = Server(tmp_path / "source")
    yield running
    running.close()


@pytest.fixture(autouse=True)
def _no_secret(server: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a test does, neither the log nor the terminal shows the URL."""
    with caplog.at_level(logging.DEBUG):
        yield
    out, err = capfd.readouterr()
    logged = "\n".join(map(logging.Formatter().format, caplog.get_records("call")))  # `text` is of this phase only
    for secret in (TOKEN, "127.0.0.1"):
        assert secret not in logged + out + err


@pytest.fixture
def fetch(server: Server, tmp_path: Path, content: bytes) -> Callable[..., bytes]:
    """Fetch the file, which must be equal to the source's as it is now; returns it."""

    def call(settings: TransferSettings = HURRIED, stop: Stop | None = None, url: str | None = None) -> bytes:
        target = tmp_path / "local" / NAME
        stop = stop or Stop()

        def check(path: Path) -> str:
            if path.read_bytes() != (tmp_path / "source" / NAME).read_bytes():
                raise UserError(f"{NAME}: damaged")
            return "fine"

        try:
            with exclusive(target, stop):
                found, _ = Client(url or server.url, settings, stop).fetch(NAME, target, check)
        except UserError as error:
            shown: BaseException | None = error
            while shown is not None:
                assert TOKEN not in str(shown)
                assert "127.0.0.1" not in str(shown)
                shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
            assert not target.exists()
            raise
        assert found == "fine"
        assert {path.name for path in target.parent.iterdir()} == {target.name, f".{target.name}.lock"}
        return target.read_bytes()

    return call


def partial(tmp_path: Path) -> Path:
    return tmp_path / "local" / "030" / ".cam.bin.part"


SOON = email.utils.formatdate(time.time() + 1000, usegmt=True)


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([], id="none"),
        pytest.param([Fault(silent=True)] * 3, id="no answer"),
        pytest.param([Fault(cut=4000)] * 12, id="drops every 4 kB, more often than there are attempts"),
        pytest.param([Fault(cut=0)] * 3, id="drops before the first byte"),
        pytest.param([Fault(cut=20_000, stall=True)], id="stalls"),
        pytest.param([Fault(cut=0, stall=True)], id="stalls at once"),
        pytest.param([Fault(429), Fault(500), Fault(503)], id="refuses for now"),
        pytest.param([Fault(cut=30_000), Fault(502), Fault(504), Fault(408)], id="refuses for now midway"),
        pytest.param([Fault(429, {"Retry-After": "3600"}), Fault(503, {"Retry-After": SOON})], id="asks to wait long"),
        pytest.param([Fault(503, {"Retry-After": "soon"})], id="asks to wait, unreadably"),
        pytest.param([Fault(longer=500)], id="says too long"),
        pytest.param([Fault(longer=500, stall=True)], id="says too long and waits"),
        pytest.param([Fault(whole=True, longer=500)], id="ignores the range and says too long"),
        pytest.param([Fault(longer=-30_000, cut=20_000)], id="says too short"),
        pytest.param([Fault(longer=n - 49_999, cut=1) for n in range(3)], id="says far too short"),
        pytest.param([Fault(whole=True, longer=-30_000, cut=20_000)], id="ignores the range and says too short"),
        pytest.param([Fault(unknown=True, cut=20_000)], id="drops, without a length"),
        pytest.param([Fault(whole=True, unknown=True, cut=20_000)], id="ignores the range and drops without a length"),
        pytest.param([Fault(whole=True, unknown=True)], id="ignores the range, without a length"),
        pytest.param([Fault(chunked=True)], id="chunks"),
        pytest.param([Fault(whole=True, chunked=True, cut=20_000)], id="drops between chunks"),
        pytest.param([Fault(at_most=9000)] * 6, id="sends less than asked for"),
        pytest.param(
            [Fault(cut=9000, content_range=f"bytes {n}-49999/*") for n in (0, 9000)], id="does not know the size"
        ),
        pytest.param([Fault(cut=0, content_range="")], id="no content range"),
        pytest.param([Fault(cut=10_000), Fault(cut=0, content_range="bytes 0-49999/50000")], id="another range"),
        pytest.param([Fault(cut=10_000), Fault(cut=0, content_range="bytes 10000-9/50000")], id="nonsense range"),
        pytest.param([Fault(302, {"Location": f"/{TOKEN}/{NAME}"})], id="redirects"),
        pytest.param([Fault(204)], id="no content"),
        pytest.param([Fault(cut=0, headers={"Content-Encoding": "gzip"})], id="compresses"),
    ],
)
def test_every_byte_arrives_once(
    fetch: Callable[..., bytes], server: Server, content: bytes, faults: list[Fault], etags: bool
) -> None:
    server.etags = etags
    server.faults[NAME] = list(faults)
    began = time.monotonic()
    assert fetch() == content
    assert server.faults[NAME] == []
    assert server.sent(NAME) == SIZE
    assert time.monotonic() - began < 60  # however long the server asks to wait


def test_ranges_that_are_ignored(fetch: Callable[..., bytes], server: Server, content: bytes) -> None:
    server.always[NAME] = Fault(whole=True)
    server.faults[NAME] = [Fault(whole=True, cut=30_000), Fault(whole=True, cut=20_000)]
    assert fetch() == content
    server.faults[NAME] = []


def test_ranges_that_are_answered_wrongly(fetch: Callable[..., bytes], server: Server, content: bytes) -> None:
    """After two such answers the file is asked for as a whole."""
    server.faults[NAME] = [Fault(cut=30_000)]
    server.always[NAME] = Fault(content_range="bytes 5-49999/50000")
    assert fetch() == content
    assert server.starts(NAME) == [0, 30_000, 30_000, 0]


def test_a_server_that_ignores_ranges_and_always_drops_is_given_up(fetch: Callable[..., bytes], server: Server) -> None:
    server.always[NAME] = Fault(whole=True, cut=30_000)
    with pytest.raises(UserError, match=rf"{NAME} could not be fetched in 4 attempts: 30000 of 50000 bytes arrived"):
        fetch()
    assert len(server.log) == 5


@pytest.mark.parametrize("longer", [0, 1])
@pytest.mark.parametrize("etags", [True, False])
def test_a_file_that_changes_on_the_server(
    fetch: Callable[..., bytes], server: Server, tmp_path: Path, longer: int, etags: bool
) -> None:
    """Noticed by the ETag or the size; else by the content, which is fetched anew."""
    server.etags = etags
    fresh = np.random.default_rng(1).bytes(SIZE + longer)
    server.faults[NAME] = [Fault(cut=30_000, then=lambda: (tmp_path / "source" / NAME).write_bytes(fresh))]
    assert fetch() == fresh
    assert not etags or len(server.log) == 2  # the second answer, by `If-Range`, is the new file


@pytest.mark.parametrize("etags", [True, False])
def test_two_states_are_not_spliced(server: Server, tmp_path: Path, etags: bool) -> None:
    """Where the server would send the rest of another file, and its content does not tell."""
    server.etags = etags
    source, target = tmp_path / "source" / NAME, tmp_path / "local" / NAME
    fresh = np.random.default_rng(1).bytes(SIZE if etags else SIZE + 1)
    server.always[NAME] = Fault(any_state=True)
    server.faults[NAME] = [Fault(cut=30_000, then=lambda: source.write_bytes(fresh))]
    with exclusive(target, Stop()):
        Client(server.url, HURRIED, Stop()).fetch(NAME, target, lambda path: None)
    assert target.read_bytes() == fresh


def test_a_file_that_keeps_changing(fetch: Callable[..., bytes], server: Server, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    server.always[NAME] = Fault(cut=30_000, then=lambda: (tmp_path / "source" / NAME).write_bytes(random.bytes(SIZE)))
    with pytest.raises(UserError, match="changes on the server while it is fetched"):
        fetch()


def corrupted(content: bytes) -> bytes:
    return content[:25_000] + b"!" + content[25_001:]


def test_damaged_content_is_fetched_again(fetch: Callable[..., bytes], server: Server, content: bytes) -> None:
    server.faults[NAME] = [Fault(change=corrupted), Fault(whole=True, change=corrupted)]
    assert fetch() == content


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("size", [SIZE, 40_000])
def test_damaged_content_that_stays_is_refused(
    fetch: Callable[..., bytes], server: Server, tmp_path: Path, whole: bool, size: int
) -> None:
    server.always[NAME] = Fault(change=lambda data: corrupted(data)[:size], whole=whole)
    with pytest.raises(UserError, match=f"^{NAME}: damaged$"):
        fetch()
    assert not partial(tmp_path).exists()
    assert len(server.log) == 1 + HURRIED.restarts


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(silent=True), "no answer"),
        (Fault(500), "500 Internal Server Error"),
        (Fault(cut=0), "30000 of 50000 bytes arrived"),
        (Fault(cut=0, stall=True), "the connection broke after 30000 bytes"),
        (Fault(cut=0, headers={"Content-Encoding": "gzip"}), "compressed"),
    ],
)
def test_what_was_given_up_is_continued(
    fetch: Callable[..., bytes], server: Server, tmp_path: Path, content: bytes, fault: Fault, expected: str
) -> None:
    server.faults[NAME] = [Fault(cut=30_000), *[fault] * 4]
    with pytest.raises(UserError, match=rf"{NAME} could not be fetched in 4 attempts: .*{expected}"):
        fetch()
    assert partial(tmp_path).read_bytes() == content[:30_000]
    assert fetch() == content
    assert server.sent(NAME) == SIZE


def test_a_partial_file_of_another_state(
    fetch: Callable[..., bytes], server: Server, tmp_path: Path, content: bytes
) -> None:
    """One that is longer than the file, and one that nothing is known of."""
    server.faults[NAME] = [Fault(cut=30_000), *[Fault(500)] * 4]
    with pytest.raises(UserError):
        fetch()
    (tmp_path / "source" / NAME).write_bytes(content[:20_000])
    server.always[NAME] = Fault(any_state=True)
    target = tmp_path / "local" / NAME
    with exclusive(target, Stop()):
        Client(server.url, HURRIED, Stop()).fetch(NAME, target, lambda path: None)
    assert target.read_bytes() == content[:20_000]
    target.unlink()
    partial(tmp_path).write_bytes(b"unknown")
    assert fetch() == content[:20_000]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(404), "the server has no"),
        (Fault(410), "the server has no"),
        (Fault(401), "the server refuses"),
        (Fault(403), "the server refuses"),
        (Fault(302, {"Location": f"/{TOKEN}/{NAME}"}), "redirects 030/cam.bin in a circle"),
        (Fault(302, {"Location": f"file:///{TOKEN}"}), "redirects 030/cam.bin in a circle"),
        (Fault(302), "redirects 030/cam.bin in a circle|has no"),
    ],
)
def test_a_refusal_is_final(fetch: Callable[..., bytes], server: Server, fault: Fault, expected: str) -> None:
    server.always[NAME] = fault
    with pytest.raises(UserError, match=expected):
        fetch()
    assert fault.status == 302 or len(server.log) == 1


def test_a_connection_that_drips_is_dropped(fetch: Callable[..., bytes], server: Server, tmp_path: Path) -> None:
    server.always[NAME] = Fault(drip_s=0.01)
    with pytest.raises(UserError, match=r"4 attempts: only \d+ bytes came in"):
        fetch(replace(HURRIED, slow_s=0.1, slow_bytes=1000))
    assert partial(tmp_path).stat().st_size > 4


def test_a_url_with_credentials(fetch: Callable[..., bytes], server: Server, content: bytes) -> None:
    server.credentials = "us er:p@ss"
    url = server.url.replace("://", "://us%20er:p%40ss@")
    assert fetch(url=url) == content


def test_a_url_with_wrong_credentials(fetch: Callable[..., bytes], server: Server) -> None:
    server.credentials = "us er:p@ss"
    with pytest.raises(UserError, match=r"the server refuses .*401"):
        fetch(url=server.url.replace("://", "://us%20er:other@"))


def test_credentials_are_not_redirected_to_another_host(
    fetch: Callable[..., bytes], server: Server, content: bytes, tmp_path: Path
) -> None:
    other = Server(tmp_path / "source")
    try:
        server.always[NAME] = Fault(302, {"Location": f"{other.url}/{NAME}"})
        assert fetch(url=server.url.replace("://", "://user:pass@")) == content
        assert "authorization" in server.log[0].headers
        assert "authorization" not in other.log[0].headers
    finally:
        other.close()


def test_the_proxy_of_the_environment(
    fetch: Callable[..., bytes], server: Server, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.replace("://", "://user:p%40ss@").removesuffix(f"/{TOKEN}"))
    monkeypatch.setenv("no_proxy", "example.org")
    assert fetch(url=f"http://there.invalid/{TOKEN}") == content
    headers = server.log[0].headers
    assert headers["host"] == "there.invalid"
    assert headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"
    monkeypatch.setenv("no_proxy", "there.invalid")
    with pytest.raises(UserError, match="no connection"):
        Client(f"http://there.invalid/{TOKEN}", HURRIED, Stop()).probe(NAME)


def test_a_proxy_that_is_none(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"socks5://{TOKEN}@127.0.0.1")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(UserError, match="the environment's http_proxy is no proxy") as caught:
        Client(server.url, HURRIED, Stop())
    assert TOKEN not in str(caught.value)


def test_connections_are_kept_and_replaced_when_stale(server: Server) -> None:
    """The server drops the fourth request on the kept connection unanswered; that is no failed attempt."""
    server.keeps = True
    client = Client(server.url, replace(HURRIED, attempts=1), Stop())
    for _ in range(3):
        assert client.head(NAME).total == SIZE
    assert server.connections == 1
    server.dropped = 1
    assert client.head(NAME).total == SIZE
    assert server.connections == 2


def test_an_empty_file(fetch: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "source" / NAME).write_bytes(b"")
    assert fetch() == b""


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/s3cret-token", "http://s3cret-token.invalid/x"])
def test_no_server(fetch: Callable[..., bytes], url: str) -> None:
    with pytest.raises(UserError, match="could not be fetched in 4 attempts: no connection"):
        fetch(url=url)


def test_a_stop_ends_a_wait_for_a_byte(
    fetch: Callable[..., bytes], server: Server, tmp_path: Path, content: bytes
) -> None:
    server.faults[NAME] = [Fault(cut=20_000, stall=True)]
    stop, began = Stop(), time.monotonic()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    with pytest.raises(StoppedError):
        fetch(replace(HURRIED, timeout_s=120), stop)
    assert time.monotonic() - began < 60
    assert partial(tmp_path).read_bytes() == content[:20_000]


def test_a_stop_ends_a_wait_for_a_lock(fetch: Callable[..., bytes], server: Server, tmp_path: Path) -> None:
    stop = Stop()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    waiting: list[type] = []

    def other_job() -> None:
        try:
            fetch(stop=stop)
        except StoppedError as error:
            waiting.append(type(error))

    with exclusive(tmp_path / "local" / NAME, Stop()):
        thread = threading.Thread(target=other_job)
        thread.start()
        thread.join()
    assert waiting == [StoppedError]
    assert server.log == []


def test_a_disk_that_refuses(fetch: Callable[..., bytes], tmp_path: Path) -> None:
    folder = tmp_path / "local"
    folder.write_text("not a folder")
    with pytest.raises(UserError, match=r"cam\.bin cannot be written \(.+\); check the disk space"):
        fetch()


def test_the_state_of_a_file(server: Server) -> None:
    stamp = Client(server.url, HURRIED, Stop()).head(NAME)
    assert stamp.total == SIZE
    assert stamp.etag
    assert Client(server.url, HURRIED, Stop()).head("030/other") == Stamp()

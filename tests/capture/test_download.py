"""The stage `download`, from a folder and from a server that misbehaves; and imports that are checked against it."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nersemble_data.constants import ASSETS

from capture.exports import Exporter, Tree, import_export, make_tree, write_video
from capture.server import Fault, Server
from osgap.capture.config import CaptureConfig
from osgap.capture.download.stage import (
    DownloadInputs,
    DownloadOutputs,
    check_reachable,
    check_url,
    run,
)
from osgap.capture.download.transfer import TransferSettings
from osgap.capture.download.verify import inspect_video
from osgap.capture.nersemble import (
    CATALOGUE,
    participant_of,
    read_calibration,
    read_color_calibration,
    sequence_in,
    video_path,
)
from osgap.capture.store import CaptureStore
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError

SEQUENCE, OTHER = "EMO-1-shout+laugh", "EXP-2-eyes"
SECRET = "s3cret"
# The timeout is what only stalls wait for. A shorter one is taken for a stall where the machine is busy with others.
HURRIED = TransferSettings(timeout_s=2, attempts=4, wait_s=0.001, longest_wait_s=0.002)


@pytest.fixture(autouse=True)
def _no_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the environment nor the home of whoever runs the tests names a URL."""
    monkeypatch.delenv("NERSEMBLE_DATA_URL", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return make_tree(tmp_path / f"{SECRET}-source")


@pytest.fixture
def server(tree: Tree) -> Iterator[Server]:
    running = Server(tree.root)
    yield running
    running.close()


@pytest.fixture
def fetch(tree: Tree, tmp_path: Path) -> Callable[..., Path]:
    """Run the stage; returns the manifest."""

    def call(
        url: str | None = None,
        *sequences: str,
        subject: str = "030",
        participant: int = 30,
        transfer: TransferSettings = HURRIED,
        **settings: Any,
    ) -> Path:
        config = CaptureConfig(url=url or tree.url, serials=tree.serials, **settings)
        outputs = DownloadOutputs(tmp_path / "raw", tmp_path / "raw" / "manifests" / f"{subject}.json")
        fixed: dict[str, Any] = {"subject": subject, "seed": 0, "settings": transfer}
        run(config, DownloadInputs(), outputs, sequences=sequences or [SEQUENCE], participant=participant, **fixed)
        return outputs.manifest

    return call


def files_below(folder: Path) -> dict[str, bytes]:
    """All but hidden ones."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def videos_of(tree: Tree, *sequences: str) -> list[str]:
    return [video_path(30, sequence, serial) for sequence in sequences for serial in tree.serials]


def expected_files(tree: Tree, *sequences: str) -> set[str]:
    assets = [ASSETS["per_person"][name].format(p_id=30) for name in ("calibration", "color_calibration")]
    return {*assets, *videos_of(tree, *(sequences or [SEQUENCE]))}


def check_download(manifest: Path, tree: Tree, *sequences: str) -> None:
    """Every file of the sequences is there and the manifest tells the truth of it."""
    content = json.loads(manifest.read_text())
    assert (content["participant"], content["serials"]) == (30, tree.serials)
    assert content["sequences"] == list(sequences or [SEQUENCE])
    assert set(content["files"]) == expected_files(tree, *sequences)
    for relative, entry in content["files"].items():
        data = (manifest.parents[1] / relative).read_bytes()
        assert data == (tree.root / relative).read_bytes()
        assert (entry["size"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        if relative.endswith(".mp4"):
            frames = 7 if SEQUENCE in relative else 4
            assert (entry["frames"], entry["width"], entry["height"]) == (frames, 48, 64)


# what arrives ------------------------------------------------------------------------------------------------


def test_from_a_folder(fetch: Callable[..., Path], tree: Tree, tmp_path: Path) -> None:
    manifest = fetch()
    check_download(manifest, tree)
    assert set(files_below(tmp_path / "raw")) == expected_files(tree) | {"manifests/030.json"}
    before = manifest.read_bytes()
    assert fetch().read_bytes() == before


def test_from_a_server(fetch: Callable[..., Path], tree: Tree, server: Server) -> None:
    check_download(fetch(server.url + "/"), tree)


def test_the_url_may_come_from_the_environment(
    fetch: Callable[..., Path], tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = CaptureConfig(serials=tree.serials)
    with pytest.raises(UserError, match="no NeRSemble data URL is set"):
        check_url(config)
    monkeypatch.setenv("NERSEMBLE_DATA_URL", tree.url)
    check_url(config)
    monkeypatch.delenv("NERSEMBLE_DATA_URL")
    stored = tmp_path / "home" / ".config" / "nersemble_data" / ".env"
    stored.parent.mkdir(parents=True)
    stored.write_text(f'NERSEMBLE_DATA_URL="{tree.url}"\n')  # as nersemble-data's command line writes it
    check_url(config)


def test_complete_files_are_kept(fetch: Callable[..., Path], tree: Tree, server: Server, tmp_path: Path) -> None:
    manifest = fetch(server.url)
    manifest.unlink()
    kept, lost, damaged = (tmp_path / "raw" / video_path(30, SEQUENCE, serial) for serial in tree.serials)
    inode = kept.stat().st_ino
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-50])
    server.log.clear()
    check_download(fetch(server.url), tree)
    assert kept.stat().st_ino == inode
    fetched = {served.path for served in server.log if served.method == "GET"}
    assert fetched == {CATALOGUE, *(video_path(30, SEQUENCE, serial) for serial in tree.serials[1:])}


def test_complete_files_are_not_decoded_again(
    fetch: Callable[..., Path], tree: Tree, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = fetch(server.url)
    manifest.unlink()

    def decoded(*_: Any) -> None:
        raise AssertionError("a verified video was decoded again")

    monkeypatch.setattr("osgap.capture.download.verify.inspect_video", decoded)
    check_download(fetch(server.url), tree)
    (manifest.parents[1] / video_path(30, SEQUENCE, tree.serials[0])).unlink()
    with pytest.raises(AssertionError, match="decoded again"):
        fetch(server.url)


def test_files_from_elsewhere_are_verified_once(
    fetch: Callable[..., Path], tree: Tree, server: Server, tmp_path: Path
) -> None:
    """Copied into the tree by hand: a good one is taken, a damaged one is not."""
    good, bad = (tmp_path / "raw" / video_path(30, SEQUENCE, serial) for serial in tree.serials[:2])
    good.parent.mkdir(parents=True)
    content = tree.video(SEQUENCE, tree.serials[1]).read_bytes()
    good.write_bytes(tree.video(SEQUENCE, tree.serials[0]).read_bytes())
    bad.write_bytes(content[: len(content) // 2] + bytes(200) + content[len(content) // 2 + 200 :])
    check_download(fetch(server.url), tree)
    assert server.sent(video_path(30, SEQUENCE, tree.serials[0])) == 0
    assert server.sent(video_path(30, SEQUENCE, tree.serials[1])) == len(content)


def test_a_file_that_was_replaced_on_the_server(fetch: Callable[..., Path], tree: Tree, server: Server) -> None:
    """With one of the same size, which its ETag tells."""
    fetch(server.url)
    tree.calibration.write_text(tree.calibration.read_text().replace("8189.0", "8190.0"))
    check_download(fetch(server.url), tree)


def test_a_damaged_file_of_the_right_size_is_fetched_again(
    fetch: Callable[..., Path], tree: Tree, server: Server, tmp_path: Path
) -> None:
    fetch(server.url)
    video = tmp_path / "raw" / video_path(30, SEQUENCE, tree.serials[0])
    video.write_bytes(bytes(video.stat().st_size))
    check_download(fetch(server.url), tree)


def test_a_folder_that_changed_is_copied_again(fetch: Callable[..., Path], tree: Tree) -> None:
    fetch()
    size = tree.calibration.stat().st_size
    tree.calibration.write_text(tree.calibration.read_text().replace("8189.0", "8190.0"))
    assert tree.calibration.stat().st_size == size
    write_video(tree.video(SEQUENCE, tree.serials[1]), 7, seed=99)
    check_download(fetch(), tree)


def test_two_jobs_for_one_participant_at_once(fetch: Callable[..., Path], tree: Tree, server: Server) -> None:
    """Under two names, with other sequences: what both need is fetched once."""
    manifests: dict[str, Path] = {}

    def job(sequence: str) -> None:
        manifests[sequence] = fetch(server.url, sequence, subject=f"of {sequence}")

    threads = [threading.Thread(target=job, args=(sequence,)) for sequence in (SEQUENCE, OTHER)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for sequence in (SEQUENCE, OTHER):
        check_download(manifests[sequence], tree, sequence)
    for name in expected_files(tree, SEQUENCE, OTHER):
        assert server.sent(name) == (tree.root / name).stat().st_size


@pytest.mark.parametrize(
    "fault", [Fault(500), Fault(503), Fault(429), Fault(silent=True), Fault(cut=500), Fault(cut=1000, stall=True)]
)
def test_what_passes_is_tried_again(fetch: Callable[..., Path], tree: Tree, server: Server, fault: Fault) -> None:
    names = [CATALOGUE, *(video_path(30, SEQUENCE, serial) for serial in tree.serials)]
    server.faults = {name: [fault] * 2 for name in names}
    check_download(fetch(server.url), tree)
    for name in names:
        assert server.sent(name) == (tree.root / name).stat().st_size


def test_a_video_that_is_damaged_on_the_way(fetch: Callable[..., Path], tree: Tree, server: Server) -> None:
    """Its length is right; it is fetched again."""
    name = video_path(30, SEQUENCE, tree.serials[0])
    middle = (tree.root / name).stat().st_size // 2
    server.faults[name] = [Fault(change=lambda data: data[:middle] + bytes(200) + data[middle + 200 :])]
    check_download(fetch(server.url), tree)
    assert server.starts(name) == [0, 0]


def test_two_jobs_for_the_same_files(fetch: Callable[..., Path], tree: Tree, server: Server) -> None:
    """Each file is fetched by one of them."""
    threads = [threading.Thread(target=fetch, args=(server.url,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_download(fetch(server.url), tree)
    for name in expected_files(tree):
        assert server.sent(name) == (tree.root / name).stat().st_size


def begin(server: Server, tree: Tree, root: Path, *sequences: str, connections: int = 4) -> subprocess.Popen[bytes]:
    """A download in a process of its own, to be killed."""
    script = f"""
from pathlib import Path
from osgap.capture.config import CaptureConfig
from osgap.capture.download.stage import DownloadInputs, DownloadOutputs, run
root = Path({str(root)!r})
config = CaptureConfig(serials={tree.serials!r}, connections={connections})
run(config, DownloadInputs(), DownloadOutputs(root, root / "manifest.json"),
    subject="030", seed=0, sequences={list(sequences)!r}, participant=30)
"""
    return subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "NERSEMBLE_DATA_URL": server.url})


def test_a_killed_download_is_continued(fetch: Callable[..., Path], tree: Tree, server: Server, tmp_path: Path) -> None:
    names = videos_of(tree, SEQUENCE)
    server.faults = {names[0]: [Fault(cut=5000, stall=True)], names[1]: [Fault(cut=3000, stall=True)]}
    victim = begin(server, tree, tmp_path / "raw", SEQUENCE)
    try:
        files = [tmp_path / "raw" / name for name in names]
        partial = [file.with_name(f".{file.name}.part") for file in files[:2]]
        wait_for(lambda: [p.is_file() and p.stat().st_size for p in partial] == [5000, 3000] and files[2].is_file())
    finally:
        victim.kill()
        victim.wait()
    assert not files[0].exists()
    assert not files[1].exists()
    check_download(fetch(server.url), tree)
    assert server.starts(names[0]) == [0, 5000]
    assert server.starts(names[1]) == [0, 3000]
    for name in expected_files(tree):
        assert server.sent(name) == (tree.root / name).stat().st_size


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_videos_are_fetched_at_once(fetch: Callable[..., Path], tree: Tree, server: Server) -> None:
    """All but one connection stall until a request for each video has come."""
    names = [video_path(30, SEQUENCE, serial) for serial in tree.serials]
    begun: set[str] = set()

    def come(name: str) -> Callable[[], None]:
        def wait() -> None:
            begun.add(name)
            wait_for(lambda: len(begun) == 3)

        return wait

    server.faults = {name: [Fault(cut=1000, then=come(name))] for name in names}
    check_download(fetch(server.url, connections=3, transfer=replace(HURRIED, timeout_s=120)), tree)
    assert begun == set(names)


def test_the_first_error_ends_the_job(fetch: Callable[..., Path], tree: Tree, server: Server, tmp_path: Path) -> None:
    first, second, third = (video_path(30, SEQUENCE, serial) for serial in tree.serials)
    partial = (tmp_path / "raw" / first).with_name(f".cam_{tree.serials[0]}.mp4.part")

    def half_there() -> bool:
        return partial.is_file() and partial.stat().st_size == 2000

    server.faults = {
        first: [Fault(cut=2000, stall=True)],
        second: [Fault(cut=0, then=lambda: wait_for(half_there)), Fault(404)],
    }
    began = time.monotonic()
    message = refused(fetch, tmp_path, server.url, connections=2, transfer=replace(HURRIED, timeout_s=120))
    assert message.startswith(f"the server has no {second} (404 Not Found)")
    assert time.monotonic() - began < 60  # without the stop it would be the 120 s of the stalled one
    assert partial.stat().st_size == 2000
    assert third not in {served.path for served in server.log}
    check_download(fetch(server.url), tree)
    assert server.sent(first) == (tree.root / first).stat().st_size


# several sequences -------------------------------------------------------------------------------------------


def test_several_sequences_in_one_job(fetch: Callable[..., Path], tree: Tree, server: Server) -> None:
    check_download(fetch(server.url, SEQUENCE, OTHER), tree, SEQUENCE, OTHER)
    for name in expected_files(tree, SEQUENCE, OTHER):
        assert server.sent(name) == (tree.root / name).stat().st_size


def test_a_video_that_is_missing_costs_no_other(
    fetch: Callable[..., Path], tree: Tree, server: Server, tmp_path: Path
) -> None:
    *others, missing = videos_of(tree, SEQUENCE, OTHER)
    server.always[missing] = Fault(404)
    message = refused(fetch, tmp_path, server.url, SEQUENCE, OTHER, connections=1)
    assert message.startswith(f"the server has no {missing} (404 Not Found)")
    for name in others:
        assert (tmp_path / "raw" / name).read_bytes() == (tree.root / name).read_bytes()
    del server.always[missing]
    check_download(fetch(server.url, SEQUENCE, OTHER), tree, SEQUENCE, OTHER)
    for name in expected_files(tree, SEQUENCE, OTHER):
        assert server.sent(name) == (tree.root / name).stat().st_size


def test_sequences_that_were_never_recorded_are_all_named(
    fetch: Callable[..., Path], tree: Tree, server: Server, tmp_path: Path
) -> None:
    """Before anything is fetched; what is there stays, its manifest too."""
    check_download(fetch(server.url), tree)
    before = files_below(tmp_path / "raw")
    server.log.clear()
    with pytest.raises(UserError, match=r"participant 30 has no sequence EXP-1-head, HAIR; the catalogue lists"):
        fetch(server.url, SEQUENCE, "EXP-1-head", OTHER, "HAIR")
    assert files_below(tmp_path / "raw") == before
    assert {served.path for served in server.log} == {CATALOGUE}


def test_a_download_that_is_killed_between_two_sequences(
    fetch: Callable[..., Path], tree: Tree, server: Server, tmp_path: Path
) -> None:
    first, second = (videos_of(tree, sequence) for sequence in (SEQUENCE, OTHER))
    server.faults = {second[0]: [Fault(cut=2000, stall=True)]}
    victim = begin(server, tree, tmp_path / "raw", SEQUENCE, OTHER, connections=1)
    try:
        half = (tmp_path / "raw" / second[0]).with_name(f".{Path(second[0]).name}.part")
        wait_for(lambda: half.is_file() and half.stat().st_size == 2000)
    finally:
        victim.kill()
        victim.wait()
    assert all((tmp_path / "raw" / name).is_file() for name in first)
    assert not (tmp_path / "raw" / "manifest.json").exists()
    check_download(fetch(server.url, SEQUENCE, OTHER), tree, SEQUENCE, OTHER)
    assert server.starts(second[0]) == [0, 2000]
    for name in expected_files(tree, SEQUENCE, OTHER):
        assert server.sent(name) == (tree.root / name).stat().st_size


def test_of_one_sequence_more_only_that_is_fetched(
    fetch: Callable[..., Path], tree: Tree, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_download(fetch(server.url), tree)
    kept = {name: (tmp_path / "raw" / name).stat().st_ino for name in expected_files(tree)}
    decoded: list[str] = []

    def inspect(path: Path, name: str) -> Any:
        decoded.append(name)
        return inspect_video(path, name)

    monkeypatch.setattr("osgap.capture.download.verify.inspect_video", inspect)
    server.log.clear()
    check_download(fetch(server.url, SEQUENCE, OTHER), tree, SEQUENCE, OTHER)
    assert {served.path for served in server.log if served.method == "GET"} == {CATALOGUE, *videos_of(tree, OTHER)}
    assert sorted(decoded) == sorted(videos_of(tree, OTHER))
    assert {name: (tmp_path / "raw" / name).stat().st_ino for name in kept} == kept
    # Of one less the manifest alone changes.
    server.log.clear()
    check_download(fetch(server.url, OTHER), tree, OTHER)
    assert {served.path for served in server.log if served.method == "GET"} == {CATALOGUE}
    assert all((tmp_path / "raw" / name).is_file() for name in kept)


def test_what_is_already_there_is_verified_all_the_same(fetch: Callable[..., Path], tree: Tree, server: Server) -> None:
    """When a sequence is added, a file of another one that was damaged meanwhile is fetched again."""
    damaged = videos_of(tree, SEQUENCE)[1]
    path = fetch(server.url).parents[1] / damaged
    path.write_bytes(bytes(path.stat().st_size))
    server.log.clear()
    check_download(fetch(server.url, SEQUENCE, OTHER), tree, SEQUENCE, OTHER)
    fetched = {served.path for served in server.log if served.method == "GET"}
    assert fetched == {CATALOGUE, damaged, *videos_of(tree, OTHER)}


# what is refused ---------------------------------------------------------------------------------------------


def refused(fetch: Callable[..., Path], tmp_path: Path, *arguments: Any, **settings: Any) -> str:
    """The message of a download that fails; it holds no secret, and nothing half-made is left."""
    with pytest.raises(UserError) as caught:
        fetch(*arguments, **settings)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        assert "127.0.0.1" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    left = set(files_below(tmp_path / "raw"))
    assert not [name for name in left if ".tmp-" in name or name.startswith("manifests")]
    return str(caught.value)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(500), "500 Internal Server Error"),
        (Fault(silent=True), "no answer"),
        (Fault(cut=0), "0 of [0-9]+ bytes arrived"),
    ],
)
def test_what_stays_wrong_is_given_up(
    fetch: Callable[..., Path], tree: Tree, server: Server, tmp_path: Path, fault: Fault, expected: str
) -> None:
    name = video_path(30, SEQUENCE, tree.serials[1])
    server.always[name] = fault
    message = refused(fetch, tmp_path, server.url, connections=1)
    assert f"{name} could not be fetched in 4 attempts" in message
    assert re.search(expected, message)
    assert not (tmp_path / "raw" / name).exists()
    assert (tmp_path / "raw" / video_path(30, SEQUENCE, tree.serials[0])).is_file()


@pytest.mark.parametrize(("status", "expected"), [(404, "the server has no"), (403, "the server refuses")])
def test_a_refusal_is_not_tried_again(
    fetch: Callable[..., Path], tree: Tree, server: Server, tmp_path: Path, status: int, expected: str
) -> None:
    name = video_path(30, SEQUENCE, tree.serials[0])
    server.faults[name] = [Fault(status)]
    assert f"{expected} {name} ({status}" in refused(fetch, tmp_path, server.url)


def test_a_page_in_place_of_a_file_is_refused(
    fetch: Callable[..., Path], tree: Tree, server: Server, tmp_path: Path
) -> None:
    video = video_path(30, SEQUENCE, tree.serials[0])
    for name, expected in (
        (CATALOGUE, "not NeRSemble's table of sequences"),
        (ASSETS["per_person"]["calibration"].format(p_id=30), "not valid JSON"),
        (video, "not a video that can be decoded"),
    ):
        server.always = {name: Fault(change=lambda _: b"<html>busy</html>")}
        message = refused(fetch, tmp_path, server.url)
        assert message.startswith(name)
        assert expected in message
    assert not (tmp_path / "raw" / video).exists()


@pytest.mark.parametrize(
    "url", [f"http://127.0.0.1:9/{SECRET}", f"http://{SECRET}.invalid/x", f"http://user:{SECRET}@127.0.0.1:9/x"]
)
def test_no_server(fetch: Callable[..., Path], tmp_path: Path, url: str) -> None:
    assert "metadata_sequences.csv could not be fetched" in refused(fetch, tmp_path, url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"ftp://host/{SECRET}", "expected https://… or file:///…"),
        (f"/plain/{SECRET}", "names a local folder that does not exist"),
        (f"relative/{SECRET}", "names a local folder that does not exist"),
        (f"http://[{SECRET}", "expected https://… or file:///…"),
        (f"https:///{SECRET}", "expected https://… or file:///…"),
        (f"file://{SECRET}/x", "write three slashes"),
        (f"file:///nowhere/{SECRET}", "names a local folder that does not exist"),
        ("file:///", "without metadata_sequences.csv"),
    ],
)
def test_urls_that_cannot_be_used(fetch: Callable[..., Path], tmp_path: Path, url: str, expected: str) -> None:
    message = refused(fetch, tmp_path, url)
    assert expected in message
    assert "capture.url" in message


def test_an_unset_url_says_where_to_set_it() -> None:
    with pytest.raises(UserError) as caught:
        check_url(CaptureConfig())
    with pytest.raises(UserError, match="no NeRSemble data URL is set"):
        check_reachable(CaptureConfig())
    for part in ("NERSEMBLE_DATA_URL", "capture.url", "https://docs.google.com/forms/", "download: false"):
        assert part in str(caught.value)
    check_url(CaptureConfig(download=False))
    check_reachable(CaptureConfig(download=False))


def test_whether_the_url_answers(tree: Tree, server: Server) -> None:
    check_reachable(CaptureConfig(url=server.url))
    check_reachable(CaptureConfig(url=tree.url))
    assert server.sent(CATALOGUE) <= 1
    server.always[CATALOGUE] = Fault(stall=True, silent=True)
    for url, expected in (
        (server.url, "does not answer for metadata_sequences.csv: no answer"),
        (f"http://127.0.0.1:9/{SECRET}", "does not answer for metadata_sequences.csv: no connection"),
        (server.url.replace("-token", "-taken"), "the server has no metadata_sequences.csv"),
        (f"file:///nowhere/{SECRET}", "names a local folder that does not exist"),
    ):
        began = time.monotonic()
        with pytest.raises(UserError, match=expected) as caught:
            check_reachable(CaptureConfig(url=url), timeout_s=0.3)
        assert time.monotonic() - began < 60  # nobody waits for the end of the stall, which comes after 300 s
        assert SECRET not in str(caught.value)
        assert "127.0.0.1" not in str(caught.value)


def test_nothing_is_logged_of_the_url(
    fetch: Callable[..., Path], tree: Tree, server: Server, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    server.faults[video_path(30, SEQUENCE, tree.serials[0])] = [Fault(500)]
    with caplog.at_level(logging.DEBUG):
        manifest = fetch(server.url)
    assert "trying again" in caplog.text
    assert SECRET not in caplog.text + manifest.read_text()
    provenance = read_provenance(manifest)
    assert provenance is not None
    assert provenance["config"] == {"participant": 30, "sequences": [SEQUENCE], "serials": tree.serials}


def test_sequences_that_were_not_recorded(fetch: Callable[..., Path], tmp_path: Path) -> None:
    message = refused(fetch, tmp_path, None, "EXP-1-head")
    assert "participant 30 has no sequence EXP-1-head; the catalogue lists EXP-2-eyes, EMO-1-shout+laugh." in message
    assert "lists no participant 31; it has 2, from 17 to 30" in refused(fetch, tmp_path, participant=31)


def test_a_participant_without_sequences(fetch: Callable[..., Path], tree: Tree, tmp_path: Path) -> None:
    table = tree.root / "metadata_sequences.csv"
    rows = list(csv.reader(table.read_text().splitlines()))
    table.write_text("\n".join(",".join(row) for row in [*rows, ["31", *[""] * (len(rows[0]) - 1)]]) + "\n")
    assert "the catalogue lists none" in refused(fetch, tmp_path, participant=31)


def test_a_folder_with_a_missing_video(fetch: Callable[..., Path], tree: Tree, tmp_path: Path) -> None:
    tree.video(SEQUENCE, tree.serials[2]).unlink()
    assert f"the source has no {video_path(30, SEQUENCE, tree.serials[2])}" in refused(fetch, tmp_path)


def test_a_camera_that_is_not_calibrated(fetch: Callable[..., Path], tree: Tree, tmp_path: Path) -> None:
    content = json.loads(tree.calibration.read_text())
    del content["world_2_cam"][tree.serials[1]]
    tree.calibration.write_text(json.dumps(content))
    assert f"lacks camera {tree.serials[1]}" in refused(fetch, tmp_path)


def test_a_truncated_video_is_refused(fetch: Callable[..., Path], tree: Tree, tmp_path: Path) -> None:
    video = tree.video(SEQUENCE, tree.serials[0])
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    name = video_path(30, SEQUENCE, tree.serials[0])
    assert refused(fetch, tmp_path).startswith(f"{name}: not a video that can be decoded")
    assert not (tmp_path / "raw" / name).exists()


def faststart(source: Path, target: Path) -> None:
    """The same video with its index at the start, so that a truncated copy still opens."""
    import av

    with av.open(str(source)) as reader, av.open(str(target), "w", options={"movflags": "faststart"}) as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(reader.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)


@pytest.mark.parametrize("part", [0.4, 0.7, 0.9, 0.99, 0.999])
def test_a_truncated_video_with_its_index_first(tmp_path: Path, part: float) -> None:
    write_video(tmp_path / "plain.mp4", 30)
    faststart(tmp_path / "plain.mp4", tmp_path / "video.mp4")
    assert inspect_video(tmp_path / "video.mp4", "video").frames == 30
    os.truncate(tmp_path / "video.mp4", int((tmp_path / "video.mp4").stat().st_size * part))
    with pytest.raises(UserError, match=r"^the name: .*(truncated|decode)"):
        inspect_video(tmp_path / "video.mp4", "the name")


def test_a_video_that_ends_between_two_frames(tmp_path: Path) -> None:
    import av

    write_video(tmp_path / "plain.mp4", 30)
    faststart(tmp_path / "plain.mp4", tmp_path / "video.mp4")
    with av.open(str(tmp_path / "video.mp4")) as container:
        starts = [packet.pos for packet in container.demux(container.streams.video[0]) if packet.size]
    os.truncate(tmp_path / "video.mp4", starts[29] or 0)
    with pytest.raises(UserError, match="its header promises 30 frames, 29 are there"):
        inspect_video(tmp_path / "video.mp4", "the name")


def write_coded(path: Path, codec: str, frames: int = 24) -> list[tuple[int, int]]:
    """A video of moving noise; returns where the data of each frame begins and how long it is."""
    import av

    random = np.random.default_rng(0)
    big = random.integers(0, 256, (40, 20, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    options = {"g": "12", "x265-params": "log-level=0"} if codec == "libx265" else {"g": "12"}
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 240, "yuv420p"
        for number in range(frames):
            picture = big[number : number + 240] // 2 + random.integers(0, 64, (240, 160, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return [(packet.pos or 0, packet.size) for packet in container.demux(container.streams.video[0]) if packet.size]


def spoil(path: Path, start: int, replacement: bytes) -> None:
    with path.open("rb+") as file:
        file.seek(start)
        file.write(replacement)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("kind", ["hole", "block", "shifted"])
def test_damage_in_the_middle(tmp_path: Path, codec: str, kind: str) -> None:
    """A hole of zeros, a block of other bytes over the border of two frames, and frames that are shifted by a byte."""
    video = tmp_path / "video.mp4"
    packets = write_coded(video, codec)
    assert inspect_video(video, "the name").frames == 24
    size = video.stat().st_size
    (start, length), (after, _) = sorted(packets)[9:11]
    if kind == "hole":
        spoil(video, start + length // 2, bytes(64))
    elif kind == "block":
        spoil(video, after - 100, np.random.default_rng(1).bytes(200))
    else:
        spoil(video, start + 1, video.read_bytes()[start : packets[-1][0]])
    assert video.stat().st_size == size
    with pytest.raises(UserError, match=r"^the name: (damaged|not a video that can be decoded)"):
        inspect_video(video, "the name")


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_bytes_that_changed_within_a_frame(tmp_path: Path, codec: str) -> None:
    """Not every such change can be told from what an encoder might have written; most can."""
    video = tmp_path / "video.mp4"
    packets = write_coded(video, codec)
    content = video.read_bytes()
    found = 0
    for number in range(12):
        start, length = packets[number * 2]
        video.write_bytes(content)
        spoil(video, start + length // 3, np.random.default_rng(number).bytes(16))
        try:
            inspect_video(video, "the name")
        except UserError as error:
            found += str(error).startswith(("the name: damaged", "the name: not a video that can be decoded"))
    assert found >= 9


# the tree ----------------------------------------------------------------------------------------------------


def test_calibrations(tree: Tree) -> None:
    calibration = read_calibration(tree.calibration)
    content = json.loads(tree.calibration.read_text())
    assert calibration.serials == tree.serials
    assert calibration.intrinsics.tolist() == content["intrinsics"]
    assert (calibration.world_to_camera == [content["world_2_cam"][serial] for serial in tree.serials]).all()
    assert set(read_color_calibration(tree.calibration.with_name("color_calibration.json"))) == set(tree.serials)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.pop("intrinsics"), "expected NeRSemble's `world_2_cam`"),
        (lambda c: c.update(world_2_cam={"a": [[1, 2], [3, 4]]}), "has shape (1, 2, 2)"),
        (lambda c: c["world_2_cam"].update(a=(np.eye(4) * 2).tolist()), "pose of camera a has the last row"),
        (lambda c: c["world_2_cam"].update(a=np.diag([1, 1, -1, 1]).tolist()), "pose of camera a mirrors"),
        (lambda c: c.update(intrinsics=np.zeros((3, 3)).tolist()), "no camera matrix"),
    ],
)
def test_calibrations_that_are_none(tree: Tree, change: Callable[[Any], Any], expected: str) -> None:
    content = json.loads(tree.calibration.read_text())
    change(content)
    tree.calibration.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        read_calibration(tree.calibration)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(str(tree.calibration))


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("074_EMO-1_v16_DS4_whiteBg_staticOffset_maskBelowLine", "EMO-1-shout+laugh"),
        ("101_EXP-1-head", "EXP-1-head"),
        ("EXP-2", "EXP-2-eyes"),
        ("030_SEN-10-port_strong_smokey_v16", "SEN-10-port_strong_smokey"),
        ("030_EXP-10", None),
        ("UNION10_074_EMO1234EXP234589_v16", None),
        ("EMO-1_and_EMO-2", None),
        ("subject_000", None),
    ],
)
def test_sequences_in_folder_names(folder: str, expected: str | None) -> None:
    assert sequence_in(folder) == expected


def test_participants() -> None:
    from osgap.capture.config import SubjectEntry

    assert participant_of("017", SubjectEntry()) == 17
    assert participant_of("anna", SubjectEntry(participant=3)) == 3
    with pytest.raises(UserError, match=r"subjects\.entries\.anna\.participant"):
        participant_of("anna", SubjectEntry())


# imports against downloads -----------------------------------------------------------------------------------


def import_with(fetch: Callable[..., Path], tmp_path: Path, tracking: Path, *sequences: str) -> Path:
    manifest = fetch(None, *sequences)
    return import_export(tracking, tmp_path / "out" / "030.h5", raw=tmp_path / "raw", manifest=manifest)


def test_an_import_that_fits_its_videos(fetch: Callable[..., Path], tree: Tree, tmp_path: Path) -> None:
    exporter = Exporter(tmp_path / "tracking", tree.serials)
    union, _ = exporter.union({"EMO-1": 7, "EXP-2": 4}, held_out="EXP-2")
    store = CaptureStore(import_with(fetch, tmp_path, union.folder, SEQUENCE, OTHER))
    assert store.serials == tree.serials
    provenance = read_provenance(store.path)
    assert provenance is not None
    assert "manifests/030.json" in provenance["inputs"]


def test_imports_that_do_not_fit(fetch: Callable[..., Path], tree: Tree, tmp_path: Path) -> None:
    def message(tracking: Path, *sequences: str) -> str:
        with pytest.raises(UserError) as caught:
            import_with(fetch, tmp_path, tracking, *sequences)
        assert not list((tmp_path / "out").glob("**/*"))
        return str(caught.value)

    fewer = Exporter(tmp_path / "fewer", tree.serials[:2]).single()
    text = message(fewer.folder, SEQUENCE)
    assert f"{fewer.folder}/transforms.json has 2 cameras" in text
    assert f"{tmp_path}/raw/030/calibration/camera_params.json has 3; only calibrated: {tree.serials[2]}" in text

    other = Exporter(tmp_path / "other", [*tree.serials[:2], "mh00"]).single()
    assert "only tracked: mh00; only calibrated" in message(other.folder, SEQUENCE)
    assert "export it again with VHAP's vhap/export_as_nerf_dataset.py, with all cameras" in text

    exporter = Exporter(tmp_path / "tracking", tree.serials)
    longer = exporter.single("030_EMO-1_v16", timesteps=8)
    assert "EMO-1-shout+laugh is tracked up to timestep 7, but" in message(longer.folder, SEQUENCE)
    unknown = exporter.single("my take", timesteps=1)
    assert "tracks the sequence my take, but the downloads are of EMO-1-shout+laugh" in message(
        unknown.folder, SEQUENCE
    )
    missing = exporter.single("030_EXP-2_v16", timesteps=1)
    assert "tracks the sequence EXP-2-eyes, but the downloads are of EMO-1-shout+laugh" in message(missing.folder)


def test_a_video_that_was_lost_or_changed(fetch: Callable[..., Path], tree: Tree, tmp_path: Path) -> None:
    export = Exporter(tmp_path / "tracking", tree.serials).single()
    manifest = fetch()
    video = tmp_path / "raw" / video_path(30, SEQUENCE, tree.serials[2])
    video.write_bytes(b"short")
    output = tmp_path / "out" / "030.h5"
    with pytest.raises(UserError, match="missing, or not as") as caught:
        import_export(export.folder, output, raw=tmp_path / "raw", manifest=manifest)
    assert str(video) in str(caught.value)
    assert not output.exists()

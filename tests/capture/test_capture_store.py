"""The capture store as a file: what opening it promises, and what is refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from capture.exports import Exporter, TrackingExport, import_export
from osgap.capture.importing.stage import ImportInputs
from osgap.capture.store import VERSION, CaptureStore
from osgap.capture.store_writing import Capture, write_store
from osgap.capture.tracking import frame_sources as frames
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Provenance


@pytest.fixture
def export(tmp_path: Path) -> TrackingExport:
    return Exporter(tmp_path / "tracking").single()


@pytest.fixture
def path(export: TrackingExport, tmp_path: Path) -> Path:
    return import_export(export.folder, tmp_path / "030.h5")


def test_a_reader_pickles_and_is_shared_by_threads(path: Path, export: TrackingExport) -> None:
    store = CaptureStore(path)
    store.image(0, 0)
    copy = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 300
    frames = [(t, c) for t in range(5) for c in range(3)] * 20
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda frame: copy.image(*frame), frames))
    for (timestep, camera), image in zip(frames, images, strict=True):
        assert (image == export.pixels[f"images/{timestep:05d}_{camera:02d}.png"]).all()


def test_a_forked_process_reads_too(path: Path) -> None:
    store = CaptureStore(path)
    expected = store.image(3, 1).sum()
    child = os.fork()
    if child == 0:
        os._exit(0 if all(store.image(3, 1).sum() == expected for _ in range(50)) else 1)
    for _ in range(50):
        assert store.image(3, 1).sum() == expected
    assert os.waitpid(child, 0)[1] == 0


def test_no_lock_keeps_a_reader_out(path: Path) -> None:
    """On network file systems a lock may stay behind a killed writer, or be refused to everybody."""
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'rb+'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert CaptureStore(path).image(0, 0).any()
        holder.communicate("")


def test_a_reader_does_not_need_torch_for_frames(path: Path) -> None:
    code = (
        "import sys; from osgap.capture.store import CaptureStore; CaptureStore(sys.argv[1]).image(0, 0); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


def test_locate(path: Path) -> None:
    store = CaptureStore(path)
    assert store.locate("EMO-1-shout+laugh", 4, "221501007") == (4, 2)
    assert store.locate("EMO-1", 0, "222200038") == (0, 0)
    for arguments, expected in (
        (("EMO-2", 0, "222200038"), "no sequence EMO-2; it has EMO-1-shout+laugh"),
        (("EMO-1", 5, "222200038"), "no timestep 5; it has 5, from 0 to 4"),
        (("EMO-1", 0, "mh00"), "no camera mh00; it has 222200038, 222200037, 221501007"),
    ):
        with pytest.raises(UserError) as caught:
            store.locate(*arguments)
        assert expected in str(caught.value)


def test_what_is_read_can_be_changed_without_harm(path: Path) -> None:
    store = CaptureStore(path)
    before = store.split("train")
    store.split("train")[:] = 99
    store.serials.clear()
    store.timesteps.clear()
    assert (store.split("train") == before).all()
    assert len(store.serials) == 3
    assert len(store.timesteps) == 5


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def new_version(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = VERSION + 1


def other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def lose_table(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["split/val"]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda path: path.unlink(), "no such capture store"),
        (truncate, "is truncated"),
        (lambda path: os.truncate(path, 0), "not a capture store"),
        (lambda path: path.write_bytes(b"hello"), r"not a capture store \(file signature not found\); check the path"),
        (folder_in_its_place, "is a folder; a capture store"),
        (other_hdf5, "an HDF5 file, but not a capture store"),
        (new_version, f"of version {VERSION + 1}, this osgap reads up to {VERSION}; update osgap"),
        (lose_table, "is incomplete"),
    ],
)
def test_files_that_are_no_store(path: Path, damage: Callable[[Path], None], expected: str) -> None:
    damage(path)
    store = CaptureStore(path)
    with pytest.raises(UserError, match=expected) as caught:
        store.serials  # noqa: B018
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_a_store_that_shrinks_while_it_is_open(path: Path) -> None:
    store = CaptureStore(path)
    assert store.serials
    os.truncate(path, 3000)
    with pytest.raises(UserError, match="truncated"):
        for timestep in range(5):
            store.image(timestep, 0)


@pytest.mark.parametrize("change", [-1, 1])
def test_frames_that_change_during_the_import(
    export: TrackingExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    original = frames._file_size
    monkeypatch.setattr(frames, "_file_size", lambda path: original(path) + change)
    with pytest.raises(UserError, match="changed while they were read"):
        import_export(export.folder, tmp_path / "out" / "030.h5")
    assert not list((tmp_path / "out").iterdir())


def test_inputs_are_plain_values() -> None:
    inputs = ImportInputs(Path("a"))
    assert pickle.loads(pickle.dumps(inputs)) == inputs


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from capture.exports import import_export
from osgap.capture.config import CaptureConfig
from osgap.runtime.errors import UserError
from osgap.runtime.provenance import Provenance
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
try:
    import_export(Path(sys.argv[1]), Path(sys.argv[2]), config=CaptureConfig(width=int(sys.argv[3]) or None))
except UserError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.mark.parametrize("width", [0, 60], ids=["as they are", "of unknown size"])
def test_a_disk_without_room(export: TrackingExport, tmp_path: Path, width: int) -> None:
    output = tmp_path / "out" / "030.h5"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(export.folder), str(output), str(width)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"refused: {output} cannot be written (File too large); make room" in done.stderr
    assert not list(output.parent.iterdir())


def test_frames_in_another_order(tmp_path: Path, path: Path) -> None:
    """Frames of videos come camera by camera, and their size is not known before."""
    source = CaptureStore(path)
    capture = Capture(
        source.subject, source.serials, source.cameras.world_to_camera.numpy(), source.cameras.intrinsics.numpy(),
        source.cameras.width, source.cameras.height, source.timesteps, source.params,
        {name: source.split(name) for name in ("train", "val", "test")},
    )  # fmt: skip
    order = [(t, c) for c in (2, 0, 1) for t in (3, 4, 0, 1, 2)]
    encoded = [(source.encoded_image(*slot), source.encoded_mask(*slot)) for slot in order]
    provenance = Provenance.collect("import", "osgap.runtime.provenance", subject="030", config={}, inputs=[], seed=0)
    copies = [tmp_path / "known.h5", tmp_path / "unknown.h5"]
    for copy, size in zip(copies, (sum(len(i) + len(m) for i, m in encoded), None), strict=True):
        write_store(copy, capture, iter(encoded), size, provenance, order)
        store = CaptureStore(copy)
        for slot in order:
            assert store.encoded_image(*slot) == source.encoded_image(*slot)
            assert store.encoded_mask(*slot) == source.encoded_mask(*slot)
    assert copies[0].read_bytes() == copies[1].read_bytes()
    for wrong in (order[:-1], [*order, (0, 0)]):
        with pytest.raises(UserError, match="is not written"):
            write_store(tmp_path / "wrong.h5", capture, iter(encoded), None, provenance, wrong)

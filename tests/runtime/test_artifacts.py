"""Files are whole or absent, equal content is equal bytes, and provenance survives in every format."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from osgap.rendering.writers import write_video
from osgap.runtime import artifacts
from osgap.runtime.artifacts import (
    atomic_folder,
    atomic_path,
    encode_png,
    obj_comment,
    read_provenance,
    write_json,
    write_npz,
    write_png,
)
from osgap.runtime.errors import UserError

PROVENANCE = {"stage": "fit", "subject": "017", "inputs": {"captures/017.h5": "ab" * 32}, "seed": 3}


def test_failure_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="midway"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("midway")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_kill_leaves_no_output_and_the_next_write_cleans_up(tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    script = f"""
        import os, signal
        from osgap.runtime.artifacts import atomic_path
        with atomic_path({str(target)!r}) as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)])
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(list(tmp_path.iterdir())) == 1, "the killed writer's temporary file"
    write_npz(target, {"a": np.arange(3)})
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]


def test_a_living_writer_keeps_its_temporary(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    with atomic_path(target) as first:
        with atomic_path(target) as second:
            second.write_text("second")
        first.write_text("first")
    assert target.read_text() == "first"


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_npz_bytes_depend_on_content_only(tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {"x": np.linspace(0, 1, 50, dtype=np.float32), "y": np.eye(3)}
    for name in ("a", "b"):
        write_npz(tmp_path / f"{name}.npz", arrays, PROVENANCE)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as loaded:
        assert sorted(loaded.files) == ["x", "y"], "provenance adds no array"
        np.testing.assert_array_equal(loaded["x"], arrays["x"])


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"psnr": float("nan")})
    assert not list(tmp_path.iterdir())


def test_provenance_survives_in_every_format(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", {"x": np.zeros(2)}, PROVENANCE)
    write_json(tmp_path / "a.json", {"x": 1}, PROVENANCE)
    write_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8), PROVENANCE)
    (tmp_path / "a.obj").write_text(f"{obj_comment(PROVENANCE)}\nv 0 0 0\n")
    write_video(tmp_path / "a.mp4", [np.zeros((64, 64, 3), np.uint8)], fps=1, crf=20, provenance=PROVENANCE)
    torch.save({"weights": torch.zeros(2), "provenance": PROVENANCE}, tmp_path / "a.pt")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["provenance"] = '{"stage": "import"}'
    for suffix in ("npz", "json", "png", "obj", "mp4", "pt"):
        assert read_provenance(tmp_path / f"a.{suffix}") == PROVENANCE, suffix
    assert read_provenance(tmp_path / "a.h5") == {"stage": "import"}
    assert read_provenance(tmp_path / "absent.npz") is None


@pytest.mark.parametrize("channels", [(3,), (4,), ()])
def test_a_png_with_provenance_is_the_same_picture(tmp_path: Path, channels: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, *channels), dtype=np.uint8)
    write_png(tmp_path / "a.png", image, PROVENANCE)
    write_png(tmp_path / "b.png", image, PROVENANCE)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as opened:  # Pillow checks the sums of all chunks
        np.testing.assert_array_equal(np.asarray(opened), image)
        assert opened.text == {"provenance": json.dumps(PROVENANCE, sort_keys=True)}  # type: ignore[attr-defined]
    decoded = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    np.testing.assert_array_equal(decoded[..., [2, 1, 0, *range(3, decoded.shape[-1])]] if channels else decoded, image)


def test_the_provenance_of_a_large_png_is_in_its_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = {**PROVENANCE, "inputs": {f"captures/{i}.h5": "ab" * 32 for i in range(20_000)}, "ünï": "日本"}
    data = encode_png(np.zeros((2, 2), np.uint8), large)
    cut = tmp_path / "cut.png"
    cut.write_bytes(data[: data.index(b"IDAT") + 4])  # its picture is missing
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    assert read_provenance(cut) == large
    for damaged in (b"", b"no picture", data[:20], data[:5000], data[:50] + b"?" + data[51:]):
        cut.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cut\.png"):
            read_provenance(cut)


def test_files_of_others_have_no_provenance(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(2))
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 2, 3), np.uint8))
    (tmp_path / "a.obj").write_text("# a template\nv 0 0 0\n")
    for suffix in ("npz", "png", "obj"):
        assert read_provenance(tmp_path / f"a.{suffix}") is None, suffix


# folders -----------------------------------------------------------------------------------------------------


def fill(folder: Path, text: str) -> None:
    with atomic_folder(folder) as temporary:
        (temporary / "file").write_text(text)


def test_folders_that_killed_processes_left_are_removed(tmp_path: Path) -> None:
    left = tmp_path / ".a.tmp-999999999-x"
    left.mkdir()
    (left / "00000.png").write_bytes(b"")
    mine = tmp_path / f".a.tmp-{os.getpid()}-y"
    mine.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (tmp_path / ".a.tmp-999999999-z").symlink_to(outside)
    fill(tmp_path / "a", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [mine.name, "a", "outside"]
    assert (outside / "kept").read_text() == "kept"


def test_names_with_wildcards_remove_only_their_own(tmp_path: Path) -> None:
    (tmp_path / ".ab.tmp-999999999-x").mkdir()
    (tmp_path / ".a[bc].tmp-999999999-x").mkdir()
    fill(tmp_path / "a[bc]", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".ab.tmp-999999999-x", "a[bc]"]


def test_a_kill_within_the_swap_leaves_the_old_folder_to_the_next_write(tmp_path: Path) -> None:
    script = f"""
        import os, signal
        from pathlib import Path
        from osgap.runtime.artifacts import atomic_folder
        rename = Path.rename
        def killed(self, target):
            if str(target) == {str(tmp_path / "a")!r}:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)
        Path.rename = killed
        with atomic_folder({str(tmp_path / "a")!r}) as temporary:
            (temporary / "file").write_text("new")
    """
    fill(tmp_path / "a", "old")
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "a").exists()
    with pytest.raises(RuntimeError, match="midway"), atomic_folder(tmp_path / "a"):
        raise RuntimeError("midway")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "file").read_text() == "old"


def test_an_error_within_the_swap_leaves_one_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "a", "old")
    sync = artifacts._sync_folder

    def interrupted(folder: Path) -> None:
        if folder == tmp_path:  # the new folder has its name, the old one is not removed yet
            raise KeyboardInterrupt
        sync(folder)

    monkeypatch.setattr(artifacts, "_sync_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "file").read_text() == "new"

    rename = Path.rename

    def broken(self: Path, target: Path) -> Path:
        if target == tmp_path / "a" and not self.name.endswith("-replaced"):
            raise OSError(errno.EIO, "Input/output error", str(self), None, str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        fill(tmp_path / "a", "newer")
    assert str(caught.value) == f"[Errno {errno.EIO}] Input/output error: {str(tmp_path / 'a')!r}"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "file").read_text() == "new"

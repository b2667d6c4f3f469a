"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.runtime import gpus, upgrades

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_policies() -> Iterator[None]:
    """What the command line says for the rest of a process holds for the rest of a test."""
    with gpus.using("auto"), upgrades.using("warn"):
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of the reference's own outputs and of people made elsewhere, beside the checkout.

    What is tested with it is tested without it as well, on data that is made here, so that its absence hides nothing.
    """
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: the reference's own outputs are not here (other tests check the same without them)")
    return folder


@pytest.fixture(scope="session")
def flame_sized(tmp_path_factory: pytest.TempPathFactory) -> tuple[FlameSizedHead, HeadAssets]:
    """The content and the files of a head with FLAME's counts and nothing licensed in it."""
    content = FlameSizedHead()
    return content, content.write(tmp_path_factory.mktemp("flame_sized"))


@pytest.fixture(scope="session")
def fake_flame(flame_sized: tuple[FlameSizedHead, HeadAssets], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of these files under FLAME's names: `flame2023.pkl`, `FLAME_masks.pkl`, the OBJ."""
    _, assets = flame_sized
    folder = tmp_path_factory.mktemp("flame")
    for file, name in (
        (assets.model, "flame2023.pkl"),
        (assets.masks, "FLAME_masks.pkl"),
        (assets.template, "head_template_mesh.obj"),
    ):
        (folder / name).symlink_to(file)
    return folder


@pytest.fixture(scope="session")
def interpret() -> Callable[[str], None]:
    """Run a module of tests as a program in Triton's interpreter, which needs no GPU, in a process of its own because
    Triton reads its switch when it is imported."""
    pytest.importorskip("triton")

    def run(module: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", module],
            env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]

    return run


class FakeSlurm:
    """Commands of Slurm's that say what a test wants, on a PATH that has no others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        """A line for each call: the command and its arguments."""

    def answer(self, command: str, text: str, when: str = "", status: int = 0) -> None:
        """Let `command` print `text` and exit with `status`, where `when` (a test of the shell's) holds, if given.

        Answers are tried in the order in which they were given; a call that none fits fails.
        """
        file = self.folder / command
        if not file.exists():
            file.write_text(f'#!/bin/sh\necho "{command} $*" >> {self.calls}\n')
            file.chmod(0o755)
        with file.open("a") as script:
            script.write(
                f"if {when or 'true'}; then\n/bin/cat <<'EOF'\n{text.rstrip(chr(10))}\nEOF\nexit {status}\nfi\n"
            )
            script.write("false\n")

    def silence(self, *commands: str) -> None:
        """Let commands be there, and fail as without a controller."""
        for command in commands:
            self.answer(command, "", status=1)


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """No command of Slurm's is there until the test lets it answer."""
    folder = tmp_path / "slurm-commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), str(Path(sys.executable).parent)]))
    monkeypatch.delenv("SLURM_CONF", raising=False)
    return FakeSlurm(folder)


Process = subprocess.Popen[Any]


@pytest.fixture(scope="session")
def second_process() -> Callable[[Process, Callable[[], Process], bool], str]:
    """Two processes of one job: the first is suspended in the middle of it, and the second waits for it."""

    def run(first: Process, start: Callable[[], Process], killed: bool) -> str:
        """What the second one logs, which `start` starts once the first has suspended itself (SIGSTOP).

        Args:
            start: of a process whose stderr is a pipe, in bytes or text.
            killed: the first is killed while the second waits; else it goes on to its end.
        """
        try:
            _until(lambda: _state(first) == "T")
            second = start()
            try:
                said = _line(second)
                assert "waiting for it to end" in said, said
                assert f"process {first.pid} on" in said
                os.kill(first.pid, signal.SIGKILL if killed else signal.SIGCONT)
                rest = second.communicate(timeout=300)[1]
                assert first.wait(60) == (-signal.SIGKILL if killed else 0)
                assert second.returncode == 0, rest
                return said + (rest.decode() if isinstance(rest, bytes) else rest)
            finally:
                second.kill()
        finally:
            first.kill()

    return run


def _line(process: Process) -> str:
    assert process.stderr is not None
    line = process.stderr.readline()
    return line.decode() if isinstance(line, bytes) else line


def _state(process: Process) -> str:
    assert process.poll() is None, "the first process ended before it was suspended"
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def _until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class HeadFiles:
    """The raw content of a head model's three files: random blend shapes and weights on a mesh that is given.

    Args:
        positions: `[V, 3]` metres.
        faces, uv_faces: `[F, 3]`.
        uvs: `[VT, 2]`.
        seed: of all that is random.
    """

    def __init__(
        self, positions: np.ndarray, faces: np.ndarray, uvs: np.ndarray, uv_faces: np.ndarray, seed: int
    ) -> None:
        random = np.random.default_rng(seed)
        count = len(positions)
        self.uvs = uvs
        self.model: dict[str, Any] = {
            "v_template": positions + random.normal(0, 2e-3, (count, 3)),
            "shapedirs": random.normal(0, 1e-3, (count, 3, 400)),
            "posedirs": random.normal(0, 1e-3, (count, 3, 36)),
            "J_regressor": random.dirichlet(np.ones(count), 5),
            "weights": random.dirichlet(np.full(5, 0.5), count),
            "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
            "f": faces.astype(np.uint32),
        }
        self.masks: dict[str, Any] = {}
        self.obj_vertices = positions
        self.obj_faces = np.stack((faces, uv_faces), axis=-1)

    def write(self, folder: Path) -> HeadAssets:
        """Write the three files and say where they are."""
        assets = HeadAssets(model=folder / "head.pkl", masks=folder / "masks.pkl", template=folder / "head.obj")
        assets.model.write_bytes(pickle.dumps(self.model, protocol=2))
        assets.masks.write_bytes(pickle.dumps(self.masks, protocol=2))
        lines = ["v {:.6f} {:.6f} {:.6f}".format(*position) for position in self.obj_vertices]
        lines += ["vt {:.6f} {:.6f}".format(*uv) for uv in self.uvs]
        lines += ["f " + " ".join(f"{v + 1}/{vt + 1}" for v, vt in face) for face in self.obj_faces]
        assets.template.write_text("\n".join(lines) + "\n")
        return assets


class SmallHead(HeadFiles):
    """A bent sheet of 6 x 8 vertices."""

    ROWS, COLUMNS = 6, 8

    def __init__(self, seed: int = 0) -> None:
        row, column = np.divmod(np.arange(self.ROWS * self.COLUMNS), self.COLUMNS)
        angle = column / self.COLUMNS * 2
        positions = np.stack((0.1 * np.sin(angle), 0.15 - 0.05 * row, 0.1 * np.cos(angle)), axis=-1)
        corner = (np.arange(self.ROWS - 1)[:, None] * self.COLUMNS + np.arange(self.COLUMNS - 1)).reshape(-1, 1)
        lower = np.concatenate((corner, corner + self.COLUMNS, corner + 1), axis=-1)
        upper = np.concatenate((corner + 1, corner + self.COLUMNS, corner + self.COLUMNS + 1), axis=-1)
        faces = np.concatenate((lower, upper))
        uvs = np.stack(((column + 0.3) / self.COLUMNS, 1 - (row + 0.4) / self.ROWS), axis=-1)
        super().__init__(positions, faces, uvs, faces, seed)
        self.masks = {
            "face": np.flatnonzero(row >= 2),
            "scalp": np.flatnonzero(row < 4),
            "nose": np.flatnonzero((row >= 3) & (column >= 2) & (column < 5)),
        }


class FlameSizedHead(HeadFiles):
    """A dome with FLAME's counts: 5023 vertices, 9976 triangles, 5118 UVs.

    A vertex at the top, around it a ring of 58, around that 73 rings of 68. In UV it is a disc; 5 x 19 vertices of it
    have a second UV, with which the triangles between them lie in a corner that the disc leaves free, clockwise. At the
    disc's rim, where the rings are close, each is turned so far that every other triangle is folded over its neighbour.
    """

    RINGS = (1, 58, *[68] * 73)
    ISLAND = (20, 5, 7, 19)  # first ring and rings, first vertex and vertices

    def __init__(self, seed: int = 0) -> None:
        starts = np.cumsum((0, *self.RINGS))
        ring = np.repeat(np.arange(len(self.RINGS)), self.RINGS)
        place = np.arange(starts[-1]) - starts[ring]
        angle = 2 * np.pi * (place / np.array(self.RINGS)[ring] + 0.013 * ring)
        share = ring / (len(self.RINGS) - 1)  # of the way down
        polar = 0.75 * np.pi * share
        axes = (np.sin(polar) * np.sin(angle), np.cos(polar), np.sin(polar) * np.cos(angle))
        positions = np.stack(axes, axis=-1) * (0.09, 0.13, 0.1)
        faces = np.concatenate([_between_rings(starts, ring) for ring in range(len(self.RINGS) - 1)])
        disc = 0.5 + 0.47 * np.sqrt(share)[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=-1)

        first, rings, left, width = self.ISLAND
        doubled = np.flatnonzero((first <= ring) & (ring < first + rings) & (left <= place) & (place < left + width))
        island = np.stack((0.01 + 0.006 * (place - left), 0.01 + 0.011 * (ring - first)), axis=-1)[doubled]
        uv_of = np.arange(len(ring))
        uv_of[doubled] = len(ring) + np.arange(len(doubled))
        on_island = np.isin(faces, doubled).all(axis=-1, keepdims=True)
        uv_faces = np.where(on_island, uv_of[faces], faces)

        super().__init__(positions, faces, np.concatenate((disc, island)), uv_faces, seed)
        self.masks = {"face": np.flatnonzero(ring >= 30), "scalp": np.flatnonzero(ring < 40), "nose": doubled}
        self.masks |= {"left_eyeball": doubled[:30], "right_eyeball": doubled[30:60], "neck": np.flatnonzero(ring > 65)}


def _between_rings(starts: np.ndarray, ring: int) -> np.ndarray:
    """Triangles between a ring and the next one, `[n + m, 3]` (n where the inner ring is one vertex)."""
    inner, outer = starts[ring + 1] - starts[ring], starts[ring + 2] - starts[ring + 1]
    triangles, i, j = [], 0, 0
    while i < (inner if inner > 1 else 0) or j < outer:
        a, b = starts[ring] + i % inner, starts[ring + 1] + j % outer
        if j * inner <= i * outer or inner == 1:
            j += 1
            triangles.append((a, b, starts[ring + 1] + j % outer))
        else:
            i += 1
            triangles.append((a, b, starts[ring] + i % inner))
    return np.array(triangles)


@pytest.fixture
def small_files() -> SmallHead:
    """A head of 48 vertices with nothing licensed in it; change its fields, then `write` it."""
    return SmallHead()


@pytest.fixture(scope="session")
def small_head(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    """That head, loaded."""
    return load_head(SmallHead().write(tmp_path_factory.mktemp("small_head")))

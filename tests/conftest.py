"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference fixtures beside the checkout; tests that need it are skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"reference fixtures are not at {folder}")
    return folder


@pytest.fixture(scope="session")
def fake_flame(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with licence-free assets of FLAME's exact shapes: `flame2023.pkl`, `FLAME_masks.pkl`, the OBJ."""
    folder = tmp_path_factory.mktemp("flame")
    subprocess.run([sys.executable, str(shared / "parity" / "make_fake_flame.py"), str(folder), "0"], check=True)
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


class SmallHead:
    """The raw content of a head model's three files: a bent sheet of 6 x 8 vertices with random blend shapes."""

    ROWS, COLUMNS = 6, 8

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        count = self.ROWS * self.COLUMNS
        row, column = np.divmod(np.arange(count), self.COLUMNS)
        angle = column / self.COLUMNS * 2
        positions = np.stack((0.1 * np.sin(angle), 0.15 - 0.05 * row, 0.1 * np.cos(angle)), axis=-1)
        corner = (np.arange(self.ROWS - 1)[:, None] * self.COLUMNS + np.arange(self.COLUMNS - 1)).reshape(-1, 1)
        lower = np.concatenate((corner, corner + self.COLUMNS, corner + 1), axis=-1)
        upper = np.concatenate((corner + 1, corner + self.COLUMNS, corner + self.COLUMNS + 1), axis=-1)
        faces = np.concatenate((lower, upper))
        self.uvs = np.stack(((column + 0.3) / self.COLUMNS, 1 - (row + 0.4) / self.ROWS), axis=-1)
        self.model: dict[str, Any] = {
            "v_template": positions + random.normal(0, 2e-3, (count, 3)),
            "shapedirs": random.normal(0, 1e-3, (count, 3, 400)),
            "posedirs": random.normal(0, 1e-3, (count, 3, 36)),
            "J_regressor": random.dirichlet(np.ones(count), 5),
            "weights": random.dirichlet(np.full(5, 0.5), count),
            "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
            "f": faces.astype(np.uint32),
        }
        self.masks: dict[str, Any] = {
            "face": np.flatnonzero(row >= 2),
            "scalp": np.flatnonzero(row < 4),
            "nose": np.flatnonzero((row >= 3) & (column >= 2) & (column < 5)),
        }
        self.obj_vertices = positions
        self.obj_faces = np.stack((faces, faces), axis=-1)

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


@pytest.fixture
def small_files() -> SmallHead:
    """A head of 48 vertices with nothing licensed in it; change its fields, then `write` it."""
    return SmallHead()


@pytest.fixture(scope="session")
def small_head(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    """That head, loaded."""
    return load_head(SmallHead().write(tmp_path_factory.mktemp("small_head")))

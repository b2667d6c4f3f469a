"""What closing the last pinholes of avatars does to what shows through them, and to their images.

    python benchmarks/closing.py results/makehuman-cpu/captures/subject_00?.h5 --head PEOPLE/model
      --avatars 'results/makehuman-cpu/avatars/{subject}' 'results/makehuman-cpu/oneshot/{subject}'

Closes avatars that were made without it (or with it, which then changes little) at their own moments: of a fit some of
those of the capture, else that of the photograph. Coverage is measured at the first held-out moment, which neither has
seen (`osgap.splat.coverage.measure.DEFINITION`). Prints a table in Markdown: the least alpha and PSNR (held-out camera
/ held-out moments, dB) before and after, and the seconds that it took.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's osgap, whatever is installed

from benchmarks.tracking import head_assets
from osgap.capture.store import CaptureStore
from osgap.fit.measure import measure
from osgap.head.assets import load_head
from osgap.head.model import HeadModel
from osgap.head.parts import closed_faces
from osgap.splat.avatar import Avatar
from osgap.splat.coverage.closing import closed, spread
from osgap.splat.coverage.measure import avatar_coverage
from osgap.splat.coverage.views import picture_size
from osgap.splat.rig import bind_triangles


def row(path: Path, folder: Path, head: HeadModel) -> tuple[float, ...]:
    """Least alpha, PSNR of both splits, before and after; seconds."""
    store, avatar = CaptureStore(path), Avatar.load(folder).to(head.device)
    cameras, tracked = store.cameras.to(head.device), store.params.to(head.device)
    splits = {name: np.asarray(store.split(name), np.int64).reshape(-1, 2) for name in ("val", "test")}
    moment = tracked.select(int(splits["test"][0, 0]))

    def scores(avatar: Avatar) -> tuple[float, ...]:
        worst = avatar_coverage(avatar, head, moment, cameras)["worst"]
        driven = Avatar(avatar.attributes, avatar.faces, tracked)
        return worst, *(measure(driven, head, store, cameras, splits[name])["psnr"] for name in splits)

    start = time.perf_counter()
    vertices = head.vertices(avatar.params.select(spread(avatar.params.timesteps)))
    attributes = closed(
        avatar.attributes,
        vertices,
        bind_triangles(head.faces, avatar.faces),
        closed_faces(head.faces, head.masks),
        picture_size(vertices[0], cameras),
    )
    seconds = time.perf_counter() - start
    return *scores(avatar), *scores(Avatar(attributes, avatar.faces, avatar.params)), seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", type=Path, nargs="+")
    parser.add_argument("--head", type=Path, required=True, help="folder, as of benchmarks/tracking.py")
    parser.add_argument("--avatars", nargs="+", required=True, metavar="FOLDER", help="{subject} stands for the person")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    head = load_head(head_assets(options.head)).to(torch.device(options.device))
    sys.stdout.write("| avatar | least alpha | after | PSNR | after | seconds |\n| --- |" + " --: |" * 5 + "\n")
    for pattern in options.avatars:
        rows = []
        for path in options.captures:
            folder = Path(pattern.format(subject=path.stem))
            rows.append(row(path, folder, head))
            sys.stderr.write(f"{folder}: {rows[-1]}\n")
        least = np.array(rows)
        mean = least.mean(axis=0)
        sys.stdout.write(
            f"| {pattern} | {least[:, 0].min():.3f} | {least[:, 3].min():.3f} | {mean[1]:.2f} / {mean[2]:.2f} "
            f"| {mean[4]:.2f} / {mean[5]:.2f} | {mean[6]:.1f} |\n"
        )


if __name__ == "__main__":
    main()

"""Pictures of a test person from all around, by every method: front, sides, and the back that nobody photographed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from osgap.evaluation.splits import SELF_REENACTMENT, held_out_camera, held_out_frames, motion
from osgap.head.assets import load_head
from osgap.rendering.camera_paths import middle, orbit
from osgap.report.names import METHOD_NAMES
from osgap.report.person import Person, PersonFiles
from osgap.runtime import image_grid
from osgap.runtime.artifacts import write_png
from osgap.runtime.gpus import lease_gpu
from osgap.runtime.pixels import to_bytes
from osgap.splat.cameras import Cameras
from osgap.splat.sequence import render_frames
from osgap.workflow.pipeline import Pipeline

ROWS = ("front", "from the left", "from the right", "from behind")
_LEFT_OUT = "mean_avatar"
_MARGIN = 12  # px


def draw(pipeline: Pipeline, subject: str, output: Path) -> None:
    """Write the sheet of one test person of an experiment.

    Rows are `ROWS`, all at moments that were held out: the held-out camera, the outermost cameras to either side, and
    the held-out camera once it has gone half around the head. Columns are the camera images and the methods.
    """
    files = PersonFiles(
        subject=subject,
        capture=pipeline.layout.capture(subject),
        avatars={method: pipeline.avatar(method, subject) for method in pipeline.methods if method != _LEFT_OUT},
        source=pipeline.entry(subject).source,
    )
    person = Person.open(files, load_head(pipeline.head))
    with lease_gpu() as device:
        avatars = {method: avatar.to(device) for method, avatar in person.avatars.items()}
        columns = pictures(replace(person, avatars=avatars, head=person.head.to(device)))
    scale = pipeline.config.report.figure_scale
    tiles = {name: [image_grid.enlarge(picture, scale) for picture in column] for name, column in columns.items()}
    font = max(11, tiles["Camera images"][0].shape[1] // 12)
    rows = [(name, [column[index] for column in tiles.values()]) for index, name in enumerate(ROWS)]
    grid = image_grid.grid(rows, list(tiles), label_width=5 * font, font=font)
    write_png(output, image_grid.margin(grid, _MARGIN))


def pictures(person: Person) -> dict[str, list[np.ndarray]]:
    """Column -> a picture `[H, W, 3]` uint8 for each of `ROWS`; of the back there is no camera image, but white."""
    front = held_out_frames(person.store)
    frames = np.concatenate([front[[len(front) // 2]], person.sides()])
    truth = list(person.store.images(frames))
    columns = {"Camera images": [*truth, np.full_like(truth[0], image_grid.BACKGROUND)]}
    behind = _behind(person, int(frames[0, 0]))
    for method, avatar in person.avatars.items():
        params = motion(avatar, person.store, frames[:1, 0], SELF_REENACTMENT, method)
        back = render_frames(avatar, person.head, params, torch.tensor([0]), behind)
        seen = person.render(method, frames, SELF_REENACTMENT)
        columns[METHOD_NAMES[method]] = [*seen, to_bytes(back)[0].cpu().numpy()]
    return columns


def _behind(person: Person, timestep: int) -> Cameras:
    """The held-out camera half around the tracked head."""
    params = person.store.params.select(np.array([timestep])).to(person.head.device)
    pivot = middle(person.head.vertices(params, [0])[0]).cpu()
    return orbit(person.store.cameras[held_out_camera(person.store)], pivot, torch.tensor([math.pi]))

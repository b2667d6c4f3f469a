"""The stage `figure`: pictures that show what the tables cannot.

Kinds:

`person`
    One test person: what the cameras saw, and below it every avatar in the same frames.
`cross`
    One test person's avatars with somebody else's motion.
`overview`
    Test people: the photograph, and the avatar made from it beside frames that it never saw.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from osgap.capture.choice import evenly_spaced
from osgap.capture.store import CaptureStore
from osgap.evaluation.splits import (
    NOVEL_VIEW,
    SELF_REENACTMENT,
    cross_motion,
    held_out_camera,
    held_out_frames,
)
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.report.config import ReportConfig
from osgap.report.names import METHOD_NAMES
from osgap.report.person import Person, PersonFiles
from osgap.runtime import image_grid
from osgap.runtime.artifacts import write_png
from osgap.runtime.errors import UserError
from osgap.runtime.pixels import to_bytes
from osgap.runtime.provenance import Provenance
from osgap.splat.sequence import render_frames

Kind = Literal["person", "cross", "overview"]

_MARGIN = 12  # px


@dataclass(frozen=True)
class FigureInputs:
    """What a figure shows."""

    head: HeadAssets
    people: tuple[PersonFiles, ...]
    """One person; any number for `overview`."""
    driver: Path | None = None
    """For `cross`: the capture store of the person whose motion is shown."""


@dataclass(frozen=True)
class FigureOutputs:
    """What the stage writes."""

    figure: Path
    """PNG."""


def run(
    config: ReportConfig, inputs: FigureInputs, outputs: FigureOutputs, *, kind: Kind, seed: int, cross_frames: int = 8
) -> None:
    """Draw one figure.

    Args:
        cross_frames: how many frames of the driver a figure of kind `cross` shows.

    Raises:
        UserError: when a figure would have no frame, or its files do not belong together.
    """
    head = load_head(inputs.head)
    shown = [person.only(person.shown) if kind == "overview" else person for person in inputs.people]
    people = [Person.open(files, head) for files in shown]
    if kind == "overview":
        picture = overview(config, people)
    elif kind == "person":
        picture = person_figure(config, people[0])
    else:
        if inputs.driver is None:
            raise ValueError("a figure of kind 'cross' needs the driver's capture")
        picture = cross_figure(config, people[0], CaptureStore(inputs.driver), cross_frames)
    files = inputs.head.files
    files += [path for person in shown for path in person.paths]
    files += [] if inputs.driver is None else [inputs.driver]
    # The mean avatar is everybody's: the same file may stand there several times.
    settings = {
        "kind": kind,
        "figure_scale": config.figure_scale,
        **({"cross_frames": cross_frames} if kind == "cross" else {"expressions": config.expressions}),
        "sources": {person.subject: person.source and person.source.model_dump() for person in inputs.people},
    }
    subject = None if kind == "overview" else inputs.people[0].subject
    provenance = Provenance.collect(
        "figure", __name__, subject=subject, config=settings, inputs=sorted(set(files)), seed=seed
    ).as_dict()
    write_png(outputs.figure, picture, provenance)
    logging.getLogger(__name__).info("%s: %d x %d", outputs.figure, picture.shape[1], picture.shape[0])


def person_figure(config: ReportConfig, person: Person) -> np.ndarray:
    """Ground truth and every avatar, frame by frame: photograph, held-out camera, both sides, expressions."""
    known = np.concatenate([person.photo_frame(), person.novel_view()])
    unseen = np.concatenate([person.sides(), person.expressions(config.expressions)])
    frames = np.concatenate([known, unseen])
    rows = [("Camera images", _enlarged(person.store.images(frames), config.figure_scale))]
    for method in person.avatars:
        pictures = person.render(method, known, NOVEL_VIEW) + person.render(method, unseen, SELF_REENACTMENT)
        rows.append((METHOD_NAMES[method], _enlarged(pictures, config.figure_scale)))
    columns = ["source photograph", *["held-out camera"] * (len(known) - 1)]
    columns += ["held-out sequence, left", "held-out sequence, right"]
    columns += ["held-out sequence"] * (len(frames) - len(columns))
    return _labelled_grid(rows, columns)


def cross_figure(config: ReportConfig, person: Person, driver: CaptureStore, count: int) -> np.ndarray:
    """`count` frames of the driver, and below them every avatar of the person with that motion.

    Raises:
        UserError: when the driver is the person, or has no held-out frames.
    """
    frames = held_out_frames(driver)
    frames = frames[evenly_spaced(len(frames), count)]
    own = person.photo_frame()
    camera = person.store.cameras[torch.full((len(frames),), held_out_camera(person.store))]
    truth = [image_grid.letterbox(image, camera.width, camera.height) for image in driver.images(frames)]
    rows = [("Camera images", _enlarged([person.photo(), *truth], config.figure_scale))]
    for method, avatar in person.avatars.items():
        params = cross_motion(avatar, person.store, driver, frames[:, 0])
        driven = render_frames(avatar, person.head, params, torch.arange(len(frames)), camera)
        pictures = [*person.render(method, own, NOVEL_VIEW), *to_bytes(driven).cpu().numpy()]
        rows.append((METHOD_NAMES[method], _enlarged(pictures, config.figure_scale)))
    columns = [f"{person.store.subject}: source photograph"]
    return _labelled_grid(rows, columns + [f"motion of {driver.subject}"] * len(frames))


def overview(config: ReportConfig, people: Sequence[Person]) -> np.ndarray:
    """For each person one large photograph, and a personalised avatar below frames that it never saw."""
    if not people:
        raise UserError("overview: there is no test person to show; list one in subjects.test")
    scale = config.figure_scale
    blocks = []
    for person in people:
        left, right = person.sides()
        frames = np.concatenate([left[None], person.expressions(config.expressions), right[None]])
        truth = image_grid.hstack(_enlarged(person.store.images(frames), scale))
        (method,) = person.avatars
        drawn = image_grid.hstack(_enlarged(person.render(method, frames, SELF_REENACTMENT), scale))
        pair = image_grid.vstack([truth, drawn])
        photo = image_grid.to_height(person.photo(), pair.shape[0])
        blocks.append((photo, pair))
    height, width = truth.shape[0], truth.shape[1] // len(frames)
    font = _font_size(width)
    avatar = "avatar of all frames" if method == "all_frames" else f"{METHOD_NAMES[method].lower()} avatar"
    sign = image_grid.vstack([image_grid.sideways(text, height, font) for text in ("camera images", avatar)])
    titles = [
        image_grid.label("one photograph" if method == "one_shot" else "a photograph", blocks[0][0].shape[1], font),
        image_grid.blank(1, sign.shape[1]),
        image_grid.label("views and expressions that the avatar never saw", blocks[0][1].shape[1], font),
    ]
    head = image_grid.hstack(titles, gap=2 * image_grid.GAP)
    body = [image_grid.hstack([photo, sign, pair], gap=2 * image_grid.GAP) for photo, pair in blocks]
    return image_grid.margin(image_grid.vstack([head, image_grid.vstack(body, gap=3 * image_grid.GAP)]), _MARGIN)


def _enlarged(images: Sequence[np.ndarray] | np.ndarray, scale: int) -> list[np.ndarray]:
    return [image_grid.enlarge(image, scale) for image in images]


def _labelled_grid(rows: Sequence[tuple[str, Sequence[np.ndarray]]], columns: Sequence[str]) -> np.ndarray:
    font = _font_size(rows[0][1][0].shape[1])
    return image_grid.margin(image_grid.grid(rows, columns, label_width=7 * font, font=font), _MARGIN)


def _font_size(tile_width: int) -> int:
    return max(11, tile_width // 12)

"""The people of a training: their captures and maps, and what is made of them on the device that trains."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from osgap.capture.store import CaptureStore
from osgap.head.editions import check_head
from osgap.head.model import HeadModel
from osgap.head.texels import TexelBinding
from osgap.prior.config import PriorConfig
from osgap.prior.mean import load_maps
from osgap.prior.network.model import Predictor
from osgap.prior.posing import Rig
from osgap.prior.training.data import Assembly, TrainingSamples
from osgap.prior.training.preview import training_preview
from osgap.prior.training.validation import Validation
from osgap.runtime.artifacts import read_provenance
from osgap.runtime.errors import UserError
from osgap.runtime.seeds import derive_seed
from osgap.splat.coverage.views import picture_size


@dataclass(frozen=True)
class People:
    """Some people, in one order."""

    subjects: list[str]
    captures: list[Path]
    """Their capture stores."""
    maps: Tensor
    """Their fitted maps, `[P, U, U, 14]`."""

    @classmethod
    def load(cls, captures: Sequence[Path], fitted: Sequence[Path]) -> People:
        """Those of captures, and of the files of their maps.

        Raises:
            UserError: a map of somebody else than the capture beside it, or see `load_maps`.
        """
        maps = load_maps(fitted)
        return cls([_subject(*person) for person in zip(captures, fitted, strict=True)], list(captures), maps)

    def divided(self, kept_out: Collection[str]) -> tuple[People, People]:
        """Those to learn from, and those who are kept out of training."""
        rows = range(len(self.subjects))
        kept = [row for row in rows if self.subjects[row] in kept_out]
        return self._of([row for row in rows if row not in kept]), self._of(kept)

    def _of(self, rows: list[int]) -> People:
        return People([self.subjects[row] for row in rows], [self.captures[row] for row in rows], self.maps[rows])


def _subject(capture: Path, fitted: Path) -> str:
    """Whom a capture shows; the map beside it must be of the same person."""
    subject = CaptureStore(capture).subject
    source = read_provenance(fitted)
    if source is not None and source["subject"] not in (None, subject):
        raise UserError(
            f"{fitted}: is the map of {source['subject']}, but stands beside the capture of {subject}; list captures "
            f"and maps in one order"
        )
    return subject


def check_coverage(paths: Sequence[Path], maps: Tensor, mask: Tensor) -> None:
    """Refuse maps of another head than the one that covers the texels of `mask`.

    Args:
        paths: of the maps.
        maps: `[P, U, U, 14]`.
        mask: bool `[U, U]`.

    Raises:
        UserError: one fills other texels as well.
    """
    for path, fitted in zip(paths, maps, strict=True):
        outside = int((fitted != 0).any(dim=-1)[~mask].sum())
        if outside:
            raise UserError(
                f"{path}: {outside} texels are filled that the head's UV layout does not cover; it was fitted on "
                f"another head model: fit and bake it again with this one"
            )


def size_of_pictures(samples: TrainingSamples, rig: Rig) -> int:
    """See `osgap.splat.coverage.views.picture_size`; that of the first person is everybody's.

    Args:
        rig: of the people of the samples.
    """
    device, first = rig.binding.mask.device, samples.stores[0]
    return picture_size(rig.vertices([0], [first.params.first().to(device)])[0], first.cameras.to(device))


@dataclass(frozen=True)
class TrainingSet:
    """People to learn from, and those who are kept out, on the device that trains."""

    samples: TrainingSamples
    assembly: Assembly
    rig: Rig
    validation: Validation | None
    """Those who are kept out of training."""
    picture_size: int
    """Of pictures of a head at the scale of the photographs [pixels]."""

    @classmethod
    def build(
        cls,
        learned_from: People,
        kept_out: People,
        head: HeadModel,
        binding: TexelBinding,
        config: PriorConfig,
        fabric: Any,
        seed: int,
    ) -> TrainingSet:
        """For one of the processes that train, each of which sees samples of its own.

        Args:
            head: on the device that trains.
            binding: of the maps' texels.
            fabric: a launched `lightning_fabric.Fabric`.
            seed: of the run.

        Raises:
            UserError: somebody was tracked with another edition of the head model; see `TrainingSamples`.
        """
        samples = TrainingSamples(
            learned_from.captures, config, derive_seed(seed, "train"), fabric.global_rank, fabric.world_size
        )
        for store in (*samples.stores, *map(CaptureStore, kept_out.captures)):
            check_head(head, store.edition, store.path)
        rig = Rig.build(head, binding, samples.params)
        return cls(
            samples,
            Assembly(samples, learned_from.maps, rig),
            rig,
            Validation(kept_out.captures, kept_out.maps, head, binding, config) if kept_out.subjects else None,
            size_of_pictures(samples, rig),
        )

    def preview(self, predictor: Predictor) -> np.ndarray:
        """See `training_preview`; of people who are kept out where there are some."""
        shown = self.validation or self
        return training_preview(predictor, shown.assembly, shown.rig)

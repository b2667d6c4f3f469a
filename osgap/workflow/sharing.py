"""Which experiment has what for itself, and which of them share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from osgap.evaluation.methods import METHODS
from osgap.prior.config import SUPERVISIONS
from osgap.workflow.config import Config
from osgap.workflow.layout import Layout
from osgap.workflow.settings import settings
from osgap.workflow.stages import STAGES

Keys = Mapping[str, object]
"""Part of an experiment -> what it depends on; equal keys promise equal outputs."""


def keys_of(config: Config) -> Keys:
    """Of the parts of an experiment. Captures and fits are everybody's."""
    computation = config.computation(exclude_defaults=True)
    prior = settings(config, computation, STAGES["train"])
    made: dict[str, object] = {
        name: (prior, settings(config, computation, STAGES["oneshot"], supervision=name)) for name in SUPERVISIONS
    }
    avatars = {**made, "mean_avatar": prior, "prior": made["one_shot"], "fit": None}
    evaluate = config.evaluation.lpips.computation()  # no number depends on the seed
    measured = {f"metrics/{name}": (avatars[name], evaluate) for name in METHODS}
    tables = settings(config, computation, STAGES["tables"])
    compared = [key for name, key in measured.items() if name.partition("/")[2] in methods_of(config)]
    return {"prior": prior, **made, **measured, "report": [*compared, tables, config.evaluation.cross_frames]}


def methods_of(config: Config) -> list[str]:
    """What is compared, in the order of the tables: all but the supervision that is not asked for."""
    others = set(SUPERVISIONS) - set(config.oneshot.supervision)
    return [method for method in METHODS if method not in others]


def places_of(name: str, own: Keys, others: Sequence[tuple[Keys, Layout]]) -> dict[str, str]:
    """Part of an experiment -> where it lies, for `osgap.workflow.layout.Layout`.

    That is where the first of the others has it that makes the same, or else a folder of its own.

    Args:
        name: of the experiment.
        others: the config as it stands, and the experiments that are listed before this one.
    """
    found: dict[str, str] = {}
    for part, key in own.items():
        layout = next((layout for keys, layout in others if keys.get(part) == key), None)
        place = f"experiments/{name}/" if layout is None else layout.places.get(part, "")
        found |= {part: place} if place else {}
    return found

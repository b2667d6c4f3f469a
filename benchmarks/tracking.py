"""What an error of the tracking costs an avatar of one photograph, and what refining the motion gets back.

    python benchmarks/tracking.py results/study/captures/20?.h5 --prior results/study/prior/model.pt
      --head results/study/synthetic/head --calibration results/study/oneshot/calibration.json

Personalises each person from one photograph whose motion is as it was tracked, and from the same photograph with errors
added to it, `--noise` times the standard deviations of `oneshot.tracking`: once held to what was tracked
(`motion_rate: 0`), once refined. All are measured with the motion as it was tracked, in the frames that stage
`calibrate` measures on. Prints a table in Markdown, PSNR in dB: in front / in all views.

`--head` is a folder with a head model, its masks and its template: FLAME's names, or head_model.pkl and so on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout's osgap, whatever is installed

from osgap.capture.store import CaptureStore
from osgap.head.assets import load_head
from osgap.head.config import HeadAssets
from osgap.head.model import HeadModel
from osgap.head.params import FlameParams
from osgap.head.texels import TexelBinding, bind_texels
from osgap.prior.calibration.stage import targets
from osgap.prior.config import OneShotConfig, TrackingError
from osgap.prior.network.model import GaussianPrior, load_prior
from osgap.prior.personalisation.answer import answering
from osgap.prior.personalisation.closing import closing
from osgap.prior.personalisation.strength import Strength, load_strength
from osgap.prior.personalisation.trials import helpful_steps, personalised
from osgap.prior.personalisation.views import FewPhotos
from osgap.prior.photo import SourcePhoto, show
from osgap.prior.posing import Rig
from osgap.runtime.seeds import derive_seed

_NAMES = (
    ("flame2023.pkl", "FLAME_masks.pkl", "head_template_mesh.obj"),
    ("head_model.pkl", "head_masks.pkl", "head_template.obj"),
)


def head_assets(folder: Path) -> HeadAssets:
    """The three files of a folder."""
    for names in _NAMES:
        model, masks, template = (folder / name for name in names)
        if model.is_file():
            return HeadAssets(model=model, masks=masks, template=template)
    sys.exit(f"{folder}: no head model; expected {' or '.join(names[0] for names in _NAMES)}")


def disturbed(params: FlameParams, tracking: TrackingError, noise: float, seed: int) -> FlameParams:
    """The motion with an error."""
    random = np.random.default_rng(seed)
    motion = {}
    for name, value in params.motion.items():
        error = torch.from_numpy(random.normal(size=tuple(value.shape))).float()
        motion[name] = value + noise * getattr(tracking, name) * error
    return params.replace(**motion)


def measured(
    path: Path,
    model: GaussianPrior,
    head: HeadModel,
    binding: TexelBinding,
    config: OneShotConfig,
    strength: Strength,
    noise: float,
    seed: int,
) -> dict[str, tuple[float, ...]]:
    """PSNR of one person's avatars, by how they were made."""
    device = model.decoder.mean.device
    store = CaptureStore(path)
    shown = show(store, "one_shot", None, config.few_shot_photos)
    photo = shown.photo(shown.frames[0])
    rig = Rig.build(head, binding, [photo.params])
    parts = targets(store, shown.frames, device)
    wrong = dataclasses.replace(photo, params=disturbed(photo.params, config.tracking, noise, seed))
    held = config.model_copy(update={"motion_rate": 0.0})
    close, found = closing(config, rig, [photo]), {}

    def answer(shot: SourcePhoto) -> torch.Tensor:
        return close(answering(model, rig)([shot]), shot.params.to(device))

    def score(maps: torch.Tensor) -> tuple[float, ...]:
        return tuple(part.psnr(maps, rig) for part in parts)

    def avatar(shot: SourcePhoto, settings: OneShotConfig) -> torch.Tensor:
        scale = model.decoder.residual_scale
        predicted = answer(shot)
        personal = personalised(predicted, scale, [shot], rig, settings, strength)
        steps = helpful_steps(predicted, scale, [shot], rig, settings, strength.steps, seed)
        for views in FewPhotos([shot], device).views(range(steps)):
            personal.advance(views)
        return close(personal.maps(), personal.params())

    found["prior, exact"], found["prior, with error"] = score(answer(photo)), score(answer(wrong))
    found["`one_shot`, exact"] = score(avatar(photo, config))
    found["`one_shot`, with error"] = score(avatar(wrong, config))
    found["`one_shot`, with error, not refined"] = score(avatar(wrong, held))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", type=Path, nargs="+")
    parser.add_argument("--prior", type=Path, required=True, help="model.pt")
    parser.add_argument("--head", type=Path, required=True, help="folder")
    parser.add_argument("--calibration", type=Path, help="calibration.json; default is all steps")
    parser.add_argument("--oneshot", type=json.loads, default={}, metavar="JSON", help="settings of personalisation")
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    config = OneShotConfig.model_validate(options.oneshot).concerning("one_shot")
    model = load_prior(options.prior).to(options.device)
    head = load_head(head_assets(options.head)).to(options.device)
    binding = bind_texels(head.uvs, head.uv_faces, model.uv_size)
    strength = Strength(config.steps)
    if options.calibration is not None:
        strength = load_strength(options.calibration, config.steps)
    rows = {}
    for path in options.captures:
        seed = derive_seed(options.seed, "tracking", path.stem)
        rows[path.stem] = measured(path, model, head, binding, config, strength, options.noise, seed)
        sys.stderr.write(f"{path.stem}: {rows[path.stem]}\n")
    columns = list(next(iter(rows.values())))
    rows["mean"] = {name: tuple(np.mean([row[name] for row in rows.values()], axis=0)) for name in columns}
    sys.stdout.write(f"| person | {' | '.join(columns)} |\n| --- |{' --: |' * len(columns)}\n")
    for name, row in rows.items():
        cells = (" / ".join(f"{value:.2f}" for value in row[column]) for column in columns)
        sys.stdout.write(f"| {name} | {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()

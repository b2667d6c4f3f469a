"""A process that fits the synthetic person and dies.

    python -m fit.victim WORLD OUTPUT SIGNAL STEP|OUTPUT_FILE

It prints the steps that it did, one per line. The signal comes before that step is done or that file is written.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fit.people import SUBJECT, config
from osgap.capture.batches import Batch
from osgap.fit import optimise, stage
from osgap.head.config import HeadAssets


def main(world: str, output: str, name: str, moment: str) -> None:
    torch.set_num_threads(1)
    head, folder = Path(world) / "head", Path(output)
    inputs = stage.FitInputs(
        Path(world) / "captures" / f"{SUBJECT}.h5",
        HeadAssets(model=head / "head.pkl", masks=head / "masks.pkl", template=head / "head.obj"),
    )
    avatar = folder / "avatar"
    outputs = stage.FitOutputs(avatar, avatar / "fit.json", avatar / "preview.png", folder / "checkpoints")

    do_step, write_summary = optimise.Fit.step, stage.write_summary

    def step(self: optimise.Fit, batch: Batch) -> torch.Tensor:
        if moment == str(batch.step):
            os.kill(os.getpid(), getattr(signal, name))
        print(batch.step, flush=True)
        return do_step(self, batch)

    def write(path: Path, provenance: Mapping[str, Any], **content: Any) -> None:
        if path.name == moment:
            os.kill(os.getpid(), getattr(signal, name))
        write_summary(path, provenance, **content)

    optimise.Fit.step = step  # type: ignore[method-assign]
    stage.write_summary = write
    stage.run(config(), inputs, outputs, subject=SUBJECT, seed=7)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    main(*sys.argv[1:])

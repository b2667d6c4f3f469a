"""Make `encoder_layout.txt` and `encoder_io.npz`, which tests/prior/network/test_published.py reads.

    python tests/parity/make_encoder.py

Both come from the published encoder as that test builds it of segmentation-models-pytorch's parts, at full width: the
names and shapes of its tensors as checkpoints have them, and some channels of its outputs with weights that depend on
these names alone. They are stored because they are to stay what they were when the library changes; a change of this
package is no reason to make them again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prior.network.test_published import CASES, FULL, Reference, newer, picture, shapes_of, weights_of

HERE = Path(__file__).parent


@torch.no_grad()
def main() -> None:
    module = Reference(*FULL).eval()
    shapes = shapes_of(module)
    lines = [" ".join((name, *map(str, shape))) for name, shape in shapes.items()]
    (HERE / "encoder_layout.txt").write_text("\n".join(lines) + "\n")
    module.load_state_dict(newer(weights_of(shapes)))
    outputs = {key: module(picture(*size))[0, ::every].numpy() for key, (size, every) in CASES.items()}
    np.savez_compressed(HERE / "encoder_io.npz", allow_pickle=False, **outputs)


if __name__ == "__main__":
    main()

"""How the optimiser is set: its learning rate at every step, and which weights decay."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from osgap.prior.config import PriorConfig

_FINAL_RATE = 0.01  # of the peak learning rate


def learning_rate(config: PriorConfig, step: int) -> float:
    """Linear warm-up, then half a cosine (Loshchilov and Hutter 2017, eq. 5, without restarts), or no change."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * (_FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; biases and normalisations do not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]

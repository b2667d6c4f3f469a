"""Which texels the prior shows to be alike, and what the ones that are seen tell about the others.

A photograph tells of what it does not show: the light, the camera's white balance, the tone of skin and of hair. That
holds among texels that are alike and nowhere else, or the face's correction would run into the hair behind it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ANCHORS = 96  # colours that stand for all: fewer blur skin into hair, more cost time


class Alike:
    """Kernel regression over the colours that the prior shows (Nadaraya 1964, Watson 1964), through a few anchors.

    Texel j follows `sum_i k(i, j) v_i x_i / (sum_i k(i, j) v_i + n)`, where x are changes, v tells how well texels are
    seen, `k(i, j) = exp(-|c_i - c_j|^2 / 2 h^2)` how alike they are, c are colours and h the bandwidth. The sum below
    counts alike texels: where hardly any are seen, there is nothing to follow. Texels are first shared out among
    anchors near them, and k is taken between anchors.

    Args:
        colors: `[N, 3]` RGB in 0..1 of every texel as the prior shows it.
        bandwidth: h, in the same units.
        enough: n, how many seen texels it takes until a change is followed half.
    """

    def __init__(self, colors: Tensor, bandwidth: float, enough: float) -> None:
        colors = colors.clamp(0, 1)
        anchors = colors[_spread_out(colors, min(_ANCHORS, len(colors)))]
        near = bandwidth / 2  # what sharing out adds to the bandwidth
        self._shares = torch.softmax(-_squared_distances(colors, anchors) / (2 * near**2), dim=1)
        self._alike = torch.exp(-_squared_distances(anchors, anchors) / (2 * bandwidth**2))
        self._enough = enough

    def carried(self, change: Tensor, seen: Tensor) -> Tensor:
        """What each texel may follow of the change of those that are seen, `[N, C]`; differentiable in the change.

        Args:
            change: `[N, C]`.
            seen: `[N]` in 0..1.
        """
        weights = self._shares * seen[:, None]
        total = self._alike @ weights.sum(dim=0)[:, None]
        return self._shares @ (self._alike @ (weights.T @ change) / (total + self._enough))


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b).square().sum(dim=-1)


def _spread_out(points: Tensor, count: int) -> Tensor:
    """Indices of points far from each other (Gonzalez 1985), starting next to the mean; nothing is random."""
    chosen = [(points - points.mean(dim=0)).square().sum(dim=1).argmin()]
    distance = torch.full((len(points),), torch.inf, device=points.device)
    for _ in range(count - 1):
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(dim=1))
        chosen.append(distance.argmax())
    return torch.stack(chosen)

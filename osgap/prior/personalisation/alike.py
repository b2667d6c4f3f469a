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

    Texel i belongs to anchor m by `a[i, m] ~ exp(-|c_i - c_m|^2 / 2 h^2)`, a sum of 1 over the anchors, where c are
    colours and h the bandwidth. An anchor's change is the mean of its texels', weighted by how well they are seen, and
    goes to zero where hardly any are: `sum_i a v x / (sum_i a v + n)`.

    Args:
        colors: `[N, 3]` RGB in 0..1 of every texel as the prior shows it.
        bandwidth: h, in the same units.
        enough: n, how many seen texels it takes until a change is carried half.
    """

    def __init__(self, colors: Tensor, bandwidth: float, enough: float) -> None:
        colors = colors.clamp(0, 1)
        anchors = colors[_spread_out(colors, min(_ANCHORS, len(colors)))]
        distance = torch.cdist(colors, anchors, compute_mode="donot_use_mm_for_euclid_dist")
        self._belongs = torch.softmax(-distance.square() / (2 * bandwidth**2), dim=1)
        self._enough = enough

    def carried(self, change: Tensor, seen: Tensor) -> Tensor:
        """What each texel may follow of the change of those that are seen, `[N, C]`; differentiable in the change.

        Args:
            change: `[N, C]`.
            seen: `[N]` in 0..1.
        """
        weights = self._belongs * seen[:, None]
        total = weights.sum(dim=0)[:, None]
        return self._belongs @ (weights.T @ change / (total + self._enough))


def _spread_out(points: Tensor, count: int) -> Tensor:
    """Indices of points far from each other (Gonzalez 1985), starting next to the mean; nothing is random."""
    chosen = [(points - points.mean(dim=0)).square().sum(dim=1).argmin()]
    distance = torch.full((len(points),), torch.inf, device=points.device)
    for _ in range(count - 1):
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(dim=1))
        chosen.append(distance.argmax())
    return torch.stack(chosen)

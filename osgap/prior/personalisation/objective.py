"""How an avatar is compared with photographs."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from osgap.head.texels import TexelBinding
from osgap.prior.config import RenderLosses
from osgap.prior.losses import image_terms, map_terms
from osgap.prior.personalisation.views import Views
from osgap.splat.render import Rendered


def compared(
    maps: Tensor, rendered: Rendered, views: Views, binding: TexelBinding, losses: RenderLosses, used: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of all terms, and the terms (a value for each photograph, or a mean).

    Args:
        maps: `[U, U, 14]`.
        rendered: the maps in the views.
        used: `[P, H, W]` in 0..1, the parts of the photographs that may be looked at; what is left is only measured
            (the term `held_out`, a mean absolute difference). None: all.
    """
    # Where the person is not, only alpha may complain: colours must not turn white to hide what sticks out.
    inside = views.masks[..., None]
    shown, alpha = inside * rendered.rgb + (1 - inside) * views.images, rendered.alpha
    held_out = maps.new_zeros(())
    if used is not None:
        hidden = (1 - used)[..., None]
        held_out = ((shown - views.images).abs().mean(dim=-1, keepdim=True) * hidden).sum() / hidden.sum()
        shown = used[..., None] * shown + hidden * views.images
        alpha = used * alpha + hidden[..., 0] * views.masks
    terms = image_terms(dataclasses.replace(rendered, rgb=shown, alpha=alpha), views.images, views.masks)
    terms |= map_terms(maps[None], binding, losses)
    total = torch.stack([getattr(losses, name) * value.mean() for name, value in terms.items()]).sum()
    return total, {**terms, "held_out": held_out}

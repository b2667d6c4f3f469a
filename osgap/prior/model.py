"""The prior as one module, and its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osgap.artifacts import atomic_path
from osgap.errors import UserError
from osgap.prior.config import EncoderConfig
from osgap.prior.decoder import UVDecoder
from osgap.prior.encoder import ImageEncoder

_FORMAT = "osgap-prior-1"
_SHOWN = 200  # characters of another library's message


class GaussianPrior(nn.Module):
    """A photograph of a head to the map of its Gaussian attributes."""

    def __init__(self, config: EncoderConfig, mean: Tensor, residual_scale: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.config = config
        self.people: tuple[str, ...] = ()
        """Whom it was trained on, where it comes from a file."""
        self.encoder = ImageEncoder(config)
        self.decoder = UVDecoder(self.encoder.out_channels, mean, residual_scale, mask)

    @property
    def uv_size(self) -> int:
        """Height and width of the maps, in texels."""
        return self.decoder.mean.shape[0]

    def forward(self, sources: Tensor) -> Tensor:
        """Maps `[B, S, S, 14]` before activation, of sources `[B, 3, I, I]` as `osgap.prior.source` prepares them."""
        return self.decoder(self.encoder(sources))


def save_prior(path: Path, model: GaussianPrior, people: Sequence[str], provenance: Mapping[str, Any]) -> None:
    """Write weights, encoder config and provenance as one `.pt` that loads with `weights_only=True`.

    Args:
        people: whom it was trained on.
    """
    content = {
        "people": list(people),
        "format": _FORMAT,
        "encoder": model.config.model_dump(),
        "state": {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()},
        "provenance": dict(provenance),
    }
    # A file object, not a path: torch puts the path's name inside the archive, and the temporary name is random.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_prior(path: Path, uv_size: int | None = None) -> GaussianPrior:
    """The prior of a file that `save_prior` wrote, on the CPU, in evaluation mode.

    Args:
        uv_size: the map size that the caller's texels have; None accepts any.

    Raises:
        UserError: a file that is missing or something else, or maps of another size.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such prior; train one first (`osgap train`)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions.") from None
    except Exception as error:  # torch raises half a dozen types on a file that is not its own
        raise UserError(f"{path}: not a prior that this program wrote ({_shortly(error)}); train it again") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise UserError(f"{path}: not a prior in the format {_FORMAT}; train it again with this version")
    try:
        state = content["state"]
        mean = state["decoder.mean"]
        if uv_size is not None and mean.shape[0] != uv_size:
            raise UserError(
                f"{path}: its maps have {mean.shape[0]} x {mean.shape[0]} texels and the head's have "
                f"{uv_size} x {uv_size}; use one uv_size for fitting, training and personalising"
            )
        config = EncoderConfig.model_validate(content["encoder"])
        model = GaussianPrior(config, mean, state["decoder.residual_scale"], state["decoder.mask"])
        model.load_state_dict(state)
        model.people = tuple(content["people"])
    except (KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: the prior is damaged ({_shortly(error)}); train it again") from error
    broken = next((name for name, value in state.items() if not value.isfinite().all()), None)
    if broken is not None:
        raise UserError(f"{path}: the prior is damaged ({broken} is not finite); train it again")
    return model.eval()


def _shortly(error: Exception) -> str:
    """The first lines: torch lists every tensor that does not fit, and explains what a pickle is."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_SHOWN]}"

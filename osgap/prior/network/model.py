"""The prior as one module, and its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from osgap.prior.config import EncoderConfig, RefinerConfig
from osgap.prior.network.decoder import UVDecoder
from osgap.prior.network.encoder import ImageEncoder
from osgap.prior.network.refiner import Refiner
from osgap.prior.posing import white
from osgap.runtime.artifacts import atomic_path
from osgap.runtime.errors import UserError
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import Rendered, render

_FORMAT = "osgap-prior-1"
_SHOWN = 200  # characters of another library's message


class GaussianPrior(nn.Module):
    """A photograph of a head to the map of its Gaussian attributes.

    Args:
        config: of the encoder.
        mean: see `UVDecoder`, as for `residual_scale` and `mask`.
        refiner: of the network that corrects renderings. None: there is none, and no feature channels.
    """

    def __init__(
        self,
        config: EncoderConfig,
        mean: Tensor,
        residual_scale: Tensor,
        mask: Tensor,
        refiner: RefinerConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.people: tuple[str, ...] = ()
        """Whom it was trained on, where it comes from a file."""
        self.encoder = ImageEncoder(config)
        features = 0 if refiner is None else refiner.features
        self.decoder = UVDecoder(self.encoder.out_channels, mean, residual_scale, mask, features)
        self.refiner = None if refiner is None else Refiner(refiner)

    @property
    def uv_size(self) -> int:
        """Height and width of the maps, in texels."""
        return self.decoder.mean.shape[0]

    def forward(self, sources: Tensor, with_features: bool = False) -> Tensor:
        """Maps `[B, S, S, 14]` before activation, of sources `[B, 3, I, I]` as `osgap.prior.source` prepares them.

        `with_features` appends the channels that the refiner reads, if there is one: `[B, S, S, 14 + K]`.
        """
        return self.decoder(self.encoder(sources), with_features)


@dataclass(frozen=True)
class Predictor:
    """A prior with one set of weights: those of a file, those that are training, or their average."""

    predict: Callable[[Tensor], Tensor]
    """Maps `[S, U, U, 14]` of sources `[S, 3, I, I]`; with a refiner `[S, U, U, 14 + K]`."""
    refine: Callable[[Rendered], Tensor] | None
    """A rendering with features to the corrected image `[B, H, W, 3]`; None without a refiner."""

    @classmethod
    def of(cls, model: GaussianPrior) -> Predictor:
        """With the weights that the model has."""
        return cls(lambda sources: model(sources, with_features=True), model.refiner)

    def render(self, gaussians: Gaussians, cameras: Cameras) -> Rendered:
        """Images of posed maps on white, corrected where there is a refiner."""
        rendered = render(gaussians, cameras, white(gaussians.means), features=self.refine is not None)
        return rendered if self.refine is None else replace(rendered, rgb=self.refine(rendered))


def save_prior(path: Path, model: GaussianPrior, people: Sequence[str], provenance: Mapping[str, Any]) -> None:
    """Write weights, configs of the networks and provenance as one `.pt` that loads with `weights_only=True`.

    Args:
        people: whom it was trained on.
    """
    content = {
        "people": list(people),
        "format": _FORMAT,
        "encoder": model.config.model_dump(),
        "refiner": None if model.refiner is None else model.refiner.config.model_dump(),
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
        refiner = content.get("refiner")  # files of before there was one lack it
        with torch.device("meta"):  # random weights would take longer to draw than these to read
            model = GaussianPrior(
                config,
                mean,
                state["decoder.residual_scale"],
                state["decoder.mask"],
                None if refiner is None else RefinerConfig.model_validate(refiner),
            )
        model.load_state_dict(state, assign=True)
        if any(value.dtype != torch.float32 for value in model.parameters()):
            raise ValueError("its weights are not float32")
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

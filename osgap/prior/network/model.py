"""The prior as one module, and its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from osgap.prior.network.decoder import UVDecoder
from osgap.prior.network.encoder import ImageEncoder
from osgap.prior.network.refiner import Refiner
from osgap.prior.network.surface import SurfaceEncoder, on_texels
from osgap.prior.network_config import (
    BackboneConfig,
    EncoderConfig,
    NetworkConfig,
    RefinerConfig,
    SurfaceConfig,
    SurfaceNetwork,
)
from osgap.prior.photographs import Photographs
from osgap.prior.posing import white
from osgap.prior.surface import SurfaceViews
from osgap.runtime.artifacts import atomic_path
from osgap.runtime.errors import UserError
from osgap.splat.cameras import Cameras
from osgap.splat.gaussians import Gaussians
from osgap.splat.render import Rendered, render

_FORMAT = "osgap-prior-1"
_UNSEEN = 1e-3  # of a weight in a fusion, of a photograph that does not show a texel
_SHOWN = 200  # characters of another library's message


class GaussianPrior(nn.Module):
    """Photographs of a head to the map of its Gaussian attributes.

    Args:
        config: of the published encoder, or of `surface`.
        mean: see `UVDecoder`, as for `residual_scale` and `mask`.
        refiner: of the network that corrects renderings. None: there is none, and no feature channels.
        rest: `[6, U, U]`, see `osgap.prior.network.surface.rest_on_texels`; for `surface`.

    Raises:
        ValueError: when `surface` has no `rest`.
    """

    def __init__(
        self,
        config: NetworkConfig,
        mean: Tensor,
        residual_scale: Tensor,
        mask: Tensor,
        refiner: RefinerConfig | None = None,
        rest: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.people: tuple[str, ...] = ()
        """Whom it was trained on, where it comes from a file."""
        if isinstance(config, EncoderConfig):
            self.encoder: ImageEncoder | SurfaceEncoder = ImageEncoder(config)
        elif rest is None:
            raise ValueError("the surface network needs the head at rest")
        else:
            self.encoder = SurfaceEncoder(config, rest)
        features = 0 if refiner is None else refiner.features
        self.decoder = UVDecoder(self.encoder.out_channels, mean, residual_scale, mask, features)
        if isinstance(self.encoder, SurfaceEncoder):
            self.encoder.copy_seen_colors(self.decoder)
        self.refiner = None if refiner is None else Refiner(refiner)

    @property
    def reads_together(self) -> bool:
        """Whether it has learned from several photographs of a person at once."""
        return not isinstance(self.config, EncoderConfig)

    @property
    def uv_size(self) -> int:
        """Height and width of the maps, in texels."""
        return self.decoder.mean.shape[0]

    def forward(self, photographs: Photographs, with_features: bool = False) -> Tensor:
        """Maps `[B, U, U, 14]` before activation, of K photographs of each of B people.

        `with_features` appends the channels that the refiner reads, if there is one: `[B, U, U, 14 + K]`.

        Raises:
            ValueError: see `encode`.
        """
        return self.decoder(self.encode(photographs), with_features)

    def encode(self, photographs: Photographs) -> Tensor:
        """Features of people `[B, C, h, w]`, which the decoder makes maps of.

        The published encoder reads each photograph by itself. What it says of a texel is fused by how well each shows
        it: as decoding is linear, that is the mean of as many maps.

        Raises:
            ValueError: photographs without views, where these are needed.
        """
        decoder = self.decoder
        if isinstance(self.encoder, SurfaceEncoder):
            return self.encoder(photographs, decoder.mean, decoder.residual_scale, decoder.mask)
        features = self.encoder(photographs.images.flatten(0, 1))
        people, count = photographs.images.shape[:2]
        if count == 1:
            return features
        if photographs.views is None:
            raise ValueError(f"{count} photographs are fused by what each shows, but these have no views")
        weights = fusion_weights(photographs.views, decoder.mask).flatten(0, 1)[:, None]
        if weights.shape[2:] != features.shape[2:]:
            weights = F.interpolate(weights, size=features.shape[2:], mode="area")
        return (features * weights.to(features.dtype)).unflatten(0, (people, count)).sum(dim=1)


def fusion_weights(views: SurfaceViews, mask: Tensor) -> Tensor:
    """How much each of K photographs has to say about each texel, `[B, K, U, U]`; sums to 1 over photographs.

    In proportion to visibility times the cosine to the ray; texels that none shows are means over all.

    Args:
        mask: covered texels, bool `[U, U]`.
    """
    shown = views.visible * views.facing.clamp_min(0) + _UNSEEN
    weights = on_texels((shown / shown.sum(dim=1, keepdim=True))[..., None], mask)[..., 0]
    return weights + ~mask / weights.shape[1]


@dataclass(frozen=True)
class Predictor:
    """A prior with one set of weights: those of a file, those that are training, or their average."""

    predict: Callable[[Photographs], Tensor]
    """Maps `[S, U, U, 14]` of photographs of S people; with a refiner `[S, U, U, 14 + K]`."""
    refine: Callable[[Rendered], Tensor] | None
    """A rendering with features to the corrected image `[B, H, W, 3]`; None without a refiner."""

    @classmethod
    def of(cls, model: GaussianPrior) -> Predictor:
        """With the weights that the model has."""
        return cls(lambda photographs: model(photographs, with_features=True), model.refiner)

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
        **_described(model.config),
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
        config = _network(content)
        refiner = content.get("refiner")  # files of before there was one lack it
        with torch.device("meta"):  # random weights would take longer to draw than these to read
            model = GaussianPrior(
                config,
                mean,
                state["decoder.residual_scale"],
                state["decoder.mask"],
                None if refiner is None else RefinerConfig.model_validate(refiner),
                state.get("encoder.rest"),
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


def _described(config: NetworkConfig) -> dict[str, Any]:
    """A network's settings, as its file has them; the backbone's weights are in it too, wherever they came from."""
    if isinstance(config, EncoderConfig):
        return {"architecture": "published", "encoder": config.model_dump()}
    return {
        "architecture": "surface",
        "surface": config.surface.model_dump(),
        "backbone": config.backbone.model_dump(exclude={"path"}),
    }


def _network(content: Mapping[str, Any]) -> NetworkConfig:
    """The settings that `_described` made; files of before there was a choice lack the architecture."""
    if content.get("architecture", "published") == "published":
        return EncoderConfig.model_validate(content["encoder"])
    return SurfaceNetwork(
        SurfaceConfig.model_validate(content["surface"]), BackboneConfig.model_validate(content["backbone"])
    )


def _shortly(error: Exception) -> str:
    """The first lines: torch lists every tensor that does not fit, and explains what a pickle is."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_SHOWN]}"

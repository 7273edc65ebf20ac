"""Training steps of both stages built from presets, to count without a GPU (`memory`) or time on one (`gpu`)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from autoencoder import AutoencoderVidTwin
from autoencoder.common.config import OptimizerConfig
from autoencoder.metrics.lpips import Lpips
from autoencoder.training import config as stage_one
from autoencoder.training.discriminator import PatchDiscriminator
from autoencoder.training.losses import VidTwinLoss, generator_hinge
from generator import VidTwinDiT
from generator import config as stage_two
from pipelines.stages import read_presets

NUM_CLASSES = 101
AUTOENCODERS = {"shapes": "tiny", "sprites": "sprites"}  # presets that those of stage two are meant for, by data set


class AutoencoderStep:
    """Stage one: L1 and the KL divergence, LPIPS (with random weights) and the GAN where the config has them.

    Everything is created on the default device.

    Attributes:
        model: the autoencoder.
        trained: the model and the discriminator, each with the config of its optimiser.
        frozen: networks of the loss that do not train.
        num_averages: moving averages of the weights.
    """

    def __init__(self, config: stage_one.TrainConfig, settings: dict[str, Any]):
        self.config, self.model = config, AutoencoderVidTwin(**settings)
        self.lpips = _lpips() if config.lpips_weight else None
        self.loss = VidTwinLoss(config.kl_weight, config.lpips_weight, self.lpips)
        self.discriminator = PatchDiscriminator() if config.gan else None
        self.trained: list[tuple[nn.Module, OptimizerConfig]] = [(self.model, config.optimizer)]
        if self.discriminator:
            self.trained.append((self.discriminator, config.discriminator_optimizer))
        self.frozen = [self.lpips] if self.lpips else []
        self.num_averages = int(config.ema_decay > 0)

    def losses(self, batch_size: int) -> list[torch.Tensor]:
        """Losses of the autoencoder, () each, with noise as clips."""
        video = torch.rand(batch_size, *self.model.video_shape) * 2 - 1
        exchanges = self.config.exchange.is_on  # then each latent is read from a clip of its own
        posterior = self.model.encode(torch.cat([video, video]) if exchanges else video).latent_dist
        if exchanges:
            posterior = posterior[:batch_size].exchanged(posterior[batch_size:])
        reconstruction = self.model.decode(posterior.sample()).sample
        losses = [self.loss(reconstruction, video, posterior)[0]]
        if self.discriminator:
            self.discriminator.requires_grad_(False)  # its own step is another one
            losses.append(generator_hinge(self.discriminator(reconstruction).float()))
        return losses

    @property
    def modules(self) -> Sequence[nn.Module]:
        """All modules but the model."""
        return [module for module in (self.loss, self.lpips, self.discriminator) if module]


class DenoiserStep:
    """Stage two: the squared error on latents in the shape of the autoencoder that the presets are meant for."""

    def __init__(self, config: stage_two.TrainConfig, settings: dict[str, Any]):
        self.config = config
        _, of_autoencoder = read_presets("autoencoder", AUTOENCODERS.get(config.dataset, "base"))
        with torch.device("meta"):
            vae = AutoencoderVidTwin(**of_autoencoder)
        self.model = VidTwinDiT(
            structure_shape=vae.structure_shape,
            dynamics_shape=vae.dynamics_shape,
            dynamics_axes=vae.dynamics_axes,
            num_classes=NUM_CLASSES,
            prediction_type=config.objective.kind,
            independent_times=config.objective.independent_times,
            **settings,
        )
        self.trained: list[tuple[nn.Module, OptimizerConfig]] = [(self.model, config.optimizer)]
        self.frozen: list[nn.Module] = []
        self.modules: Sequence[nn.Module] = []
        self.num_averages = sum(decay is not None for decay in (config.ema_decay, config.second_ema_decay))

    def losses(self, batch_size: int) -> list[torch.Tensor]:
        """The loss, (), with noise as latents, in a list."""
        tokens = torch.randn(batch_size, self.model.layout.num_tokens, self.model.layout.token_dim)
        shape = (batch_size, 2) if self.config.objective.independent_times else (batch_size,)
        labels = torch.zeros(batch_size, dtype=torch.long)
        predicted = self.model(tokens, 1000 * torch.rand(shape), labels).sample
        return [(predicted - tokens).square().float().mean()]


Step = AutoencoderStep | DenoiserStep


def make_step(stage: str, config: Any, settings: dict[str, Any]) -> Step:
    """The training step of a stage."""
    return (AutoencoderStep if stage == "autoencoder" else DenoiserStep)(config, settings)


def _lpips() -> Lpips:
    network = Lpips().requires_grad_(False).eval()
    for part in network.modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(torch.get_default_device()))  # made by torch.Tensor([...]), on the CPU
    return network

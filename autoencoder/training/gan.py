"""The adversarial terms of a stage-one step (arXiv 2412.17726)."""

import torch

from autoencoder.common.errors import UserError
from autoencoder.common.processes import mean_over_processes
from autoencoder.common.seeding import derive_seed
from autoencoder.training.config import TrainConfig
from autoencoder.training.discriminator import PatchDiscriminator
from autoencoder.training.losses import adaptive_weight, discriminator_hinge, generator_hinge
from autoencoder.training.schedules import risen


def build_discriminator(seed: int, sample_size: int) -> PatchDiscriminator:
    """A new discriminator, whose weights are a function of the run's seed.

    Raises:
        UserError: if clips of this height and width are too small for it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "discriminator"))
        discriminator = PatchDiscriminator()
    if sample_size < discriminator.min_size:
        raise UserError(
            f"gan=True needs clips of at least {discriminator.min_size} pixels, sample_size is {sample_size}"
        )
    return discriminator


def gan_share(config: TrainConfig, step: int) -> float:
    """Factor of the GAN's weight at a step, numbered from 1: 0 before its start, 1 after its warm-up."""
    return risen(step, config.gan_start, config.gan_warmup_steps) if config.gan else 0.0


def generator_term(
    discriminator: PatchDiscriminator, reconstruction: torch.Tensor, loss: torch.Tensor, last_layer: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The autoencoder's adversarial loss and its adaptive weight, both ().

    Args:
        discriminator: its weights get no gradient.
        reconstruction: (B, 3, F, H, W).
        loss: the rest of the loss, ().
        last_layer: the decoder's last weight, at which the gradients of both losses, averaged over all processes, are
            compared.
    """
    discriminator.requires_grad_(False)
    gan = generator_hinge(discriminator(reconstruction).float())
    discriminator.requires_grad_(True)
    return gan, adaptive_weight(loss, gan, last_layer, mean_over_processes)


def discriminator_term(
    discriminator: PatchDiscriminator, video: torch.Tensor, reconstruction: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of the discriminator on real and reconstructed clips (B, 3, F, H, W), and its terms by name."""
    real, fake = (discriminator(clips).float() for clips in (video, reconstruction))
    loss = discriminator_hinge(real, fake)
    logits = {"logits_real": real.detach().mean(), "logits_fake": fake.detach().mean()}
    return loss, {"discriminator_loss": loss.detach()} | logits

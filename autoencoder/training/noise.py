"""The noise of a training batch, drawn on the CPU before the step, so that no device waits for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from diffusers.utils.torch_utils import randn_tensor

from autoencoder.common.seeding import generators
from autoencoder.latents import VidTwinLatents
from autoencoder.training.config import InterpolatingNoiseConfig
from autoencoder.training.schedules import risen

Pair = tuple[torch.Tensor, torch.Tensor]  # of the structure and of the dynamics latent
Noise = dict[str, tuple[torch.Tensor, ...]]  # tensors with a row for every clip, by purpose


@dataclass(frozen=True)
class LatentNoise:
    """Draws the noise of clips by the seed and by their positions in the run.

    Args:
        seed: the run's seed.
        structure_shape, dynamics_shape: shapes of a clip's latents.
        max_level: highest standard deviation of the noise that is added to the latents; 0 adds none.
        interpolating: the noise that the latents are interpolated with.
        batch_size: over all processes; it tells the step of a position.
    """

    seed: int
    structure_shape: tuple[int, ...]
    dynamics_shape: tuple[int, ...]
    max_level: float = 0.0
    interpolating: InterpolatingNoiseConfig = field(default_factory=InterpolatingNoiseConfig)
    batch_size: int = 1

    def __call__(self, positions: Sequence[int]) -> Noise:
        """The noise of a batch of clips at these positions, which belong to one step.

        Returns:
            By name, float32 (B, ...) for both latents. "posterior": standard normal, to sample the posterior with.
            "latents", if `max_level` is not 0: s * eps, with one s per clip, uniform from 0 to `max_level`.
            "interpolation", once its level is not 0: the share of noise (B,) of each clip, before the noise of both.
        """
        noise = {"posterior": self._normal(generators(self.seed, "posterior", positions))}
        if self.max_level:
            drawn_from = generators(self.seed, "latent noise", positions)
            levels = self.max_level * torch.stack([torch.rand((), generator=generator) for generator in drawn_from])
            structure, dynamics = (levels.view(-1, *[1] * (eps.ndim - 1)) * eps for eps in self._normal(drawn_from))
            noise["latents"] = structure, dynamics
        step = positions[0] // self.batch_size + 1
        interpolating = self.interpolating
        if level := interpolating.level * risen(step, interpolating.start, interpolating.warmup_steps):
            drawn_from = generators(self.seed, "interpolating noise", positions)
            shares = level * torch.cat([torch.rand(1, generator=generator) for generator in drawn_from])  # (B,)
            noise["interpolation"] = shares, *(interpolating.strength * eps for eps in self._normal(drawn_from))
        return noise

    def _normal(self, drawn_from: list[torch.Generator]) -> Pair:
        shapes = self.structure_shape, self.dynamics_shape
        structure, dynamics = (randn_tensor((len(drawn_from), *shape), generator=drawn_from) for shape in shapes)
        return structure, dynamics


def disturbed(latents: VidTwinLatents, noise: Noise) -> VidTwinLatents:
    """Latents as they are decoded in training: with the noise of `LatentNoise` but for that of the posterior."""
    if "latents" in noise:
        latents = add_noise(latents, noise["latents"])
    if "interpolation" in noise:
        latents = interpolate(latents, *noise["interpolation"])
    return latents


def add_noise(latents: VidTwinLatents, noise: Pair) -> VidTwinLatents:
    """The latents with the noise "latents" of `LatentNoise` added."""
    structure, dynamics = (part.to(latents.structure.dtype) for part in noise)
    return VidTwinLatents(latents.structure + structure, latents.dynamics + dynamics)


def interpolate(
    latents: VidTwinLatents, shares: torch.Tensor, structure: torch.Tensor, dynamics: torch.Tensor
) -> VidTwinLatents:
    """The latents with the noise "interpolation" of `LatentNoise` in the place of a share of each clip's.

    Args:
        latents: of B clips.
        shares: (B,), in [0, 1].
        structure, dynamics: the noise, over the root mean square of the clip's latent.
    """
    return VidTwinLatents(
        _interpolate(latents.structure, structure, shares), _interpolate(latents.dynamics, dynamics, shares)
    )


def _interpolate(latent: torch.Tensor, noise: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Of one latent (B, ...). The scale has a gradient, too, so that growing gains a latent nothing."""
    each = -1, *[1] * (latent.ndim - 1)
    scale = latent.flatten(1).square().mean(dim=1).clamp(min=1e-12).sqrt()  # (B,)
    return torch.lerp(latent, scale.view(each) * noise.to(latent.dtype), shares.to(latent.dtype).view(each))

"""The noise of a training batch, drawn on the CPU before the step, so that no device waits for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.utils.torch_utils import randn_tensor

from autoencoder.common.seeding import generators
from autoencoder.latents import VidTwinLatents

Pair = tuple[torch.Tensor, torch.Tensor]  # of the structure and of the dynamics latent


@dataclass(frozen=True)
class LatentNoise:
    """Draws the noise of clips by the seed and by their positions in the run.

    Args:
        seed: the run's seed.
        structure_shape, dynamics_shape: shapes of a clip's latents.
        max_level: highest standard deviation of the noise that is added to the latents; 0 adds none.
    """

    seed: int
    structure_shape: tuple[int, ...]
    dynamics_shape: tuple[int, ...]
    max_level: float = 0.0

    def __call__(self, positions: Sequence[int]) -> dict[str, Pair]:
        """The noise of a batch of clips at these positions.

        Returns:
            By name, float32 (B, ...) for both latents. "posterior": standard normal, to sample the posterior with.
            "latents", if `max_level` is not 0: s * eps, with one s per clip, uniform from 0 to `max_level`.
        """
        noise = {"posterior": self._normal(generators(self.seed, "posterior", positions))}
        if self.max_level:
            drawn_from = generators(self.seed, "latent noise", positions)
            levels = self.max_level * torch.stack([torch.rand((), generator=generator) for generator in drawn_from])
            structure, dynamics = (levels.view(-1, *[1] * (eps.ndim - 1)) * eps for eps in self._normal(drawn_from))
            noise["latents"] = structure, dynamics
        return noise

    def _normal(self, drawn_from: list[torch.Generator]) -> Pair:
        shapes = self.structure_shape, self.dynamics_shape
        structure, dynamics = (randn_tensor((len(drawn_from), *shape), generator=drawn_from) for shape in shapes)
        return structure, dynamics


def add_noise(latents: VidTwinLatents, noise: Pair) -> VidTwinLatents:
    """The latents with the noise "latents" of `LatentNoise` added."""
    structure, dynamics = (part.to(latents.structure.dtype) for part in noise)
    return VidTwinLatents(latents.structure + structure, latents.dynamics + dynamics)

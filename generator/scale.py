"""The scale of the latents that the model works in: mean 0 and standard deviation 1 in every channel."""

import math
from collections.abc import Callable, Sequence

import torch

from autoencoder.common.errors import UserError
from autoencoder.latents import VidTwinLatents


class LatentScale:
    """Normalises latents by their statistics per channel, and back.

    The statistics are lists of numbers rather than buffers of a model, which `model.to(dtype)` would round.

    Args:
        channels: d_S and d_D, the channels of the structure and of the dynamics latents.
        structure_mean, structure_std, dynamics_mean, dynamics_std: one number per channel; None stands for 0 and 1.

    Raises:
        ValueError: if there is not one number per channel.
        UserError: if a mean is not finite, or a standard deviation not finite and positive.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        structure_mean: Sequence[float] | None = None,
        structure_std: Sequence[float] | None = None,
        dynamics_mean: Sequence[float] | None = None,
        dynamics_std: Sequence[float] | None = None,
    ):
        self._statistics = {
            "structure": _checked_statistics("structure", structure_mean, structure_std, channels[0]),
            "dynamics": _checked_statistics("dynamics", dynamics_mean, dynamics_std, channels[1]),
        }

    def normalize(self, latents: VidTwinLatents) -> VidTwinLatents:
        """Latents of the autoencoder to the scale the model works in: (z - mean) / std per channel; shapes are kept."""
        return self._rescale(latents, lambda values, mean, std: (values - mean) / std)

    def denormalize(self, latents: VidTwinLatents) -> VidTwinLatents:
        """The inverse of `normalize`: the model's scale to the autoencoder's; shapes are kept."""
        return self._rescale(latents, lambda values, mean, std: values * std + mean)

    def _rescale(self, latents: VidTwinLatents, function: Callable[..., torch.Tensor]) -> VidTwinLatents:
        def apply(values: torch.Tensor, name: str) -> torch.Tensor:
            shape = (-1, *(1,) * (values.ndim - 2))
            mean, std = (torch.tensor(x, device=values.device).view(shape) for x in self._statistics[name])
            return function(values.float(), mean, std).to(values.dtype)

        return VidTwinLatents(apply(latents.structure, "structure"), apply(latents.dynamics, "dynamics"))


def _checked_statistics(
    name: str, mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[list[float], list[float]]:
    mean = [0.0] * channels if mean is None else [float(value) for value in mean]
    std = [1.0] * channels if std is None else [float(value) for value in std]
    for kind, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise ValueError(f"{name}_{kind} must hold {channels} numbers, one per channel, got {len(values)}")
    for channel, (centre, spread) in enumerate(zip(mean, std, strict=True)):
        if not (math.isfinite(centre) and math.isfinite(spread) and spread > 0):
            raise UserError(
                f"channel {channel} of the {name} latent has mean {centre} and std {spread}: "
                "the mean must be finite and the std finite and positive"
            )
    return mean, std

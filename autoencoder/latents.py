"""The pair of latents, which passes between the stages, and the distribution over it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.utils.torch_utils import randn_tensor
from einops import reduce
from safetensors.torch import load_file

from autoencoder.common.errors import UserError
from autoencoder.common.files import save_safetensors

Generators = torch.Generator | list[torch.Generator] | None


@dataclass(frozen=True)
class VidTwinLatents:
    """Structure and dynamics latents of a batch of clips.

    Attributes:
        structure: float (B, d_S, n_q, h_S, w_S), content and slow motion.
        dynamics: float (B, d_D, F, w_D + h_D), detail and fast motion; the positions along x (width) come first.

    Raises:
        UserError: if the ranks or the batch sizes do not fit.
    """

    structure: torch.Tensor
    dynamics: torch.Tensor

    def __post_init__(self):
        if self.structure.ndim != 5 or self.dynamics.ndim != 4 or len(self.structure) != len(self.dynamics):
            raise UserError(
                "latents need a structure of shape (B, d_S, n_q, h_S, w_S) and a dynamics of shape "
                f"(B, d_D, F, w_D + h_D) with one B, got {tuple(self.structure.shape)} and {tuple(self.dynamics.shape)}"
            )

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "VidTwinLatents":
        """Apply a function to both tensors."""
        return VidTwinLatents(function(self.structure), function(self.dynamics))

    def to(self, *args, **kwargs) -> "VidTwinLatents":
        """As `torch.Tensor.to`, for both tensors."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def __len__(self) -> int:
        return len(self.structure)

    def __getitem__(self, index) -> "VidTwinLatents":
        """Select clips of the batch; an integer keeps a batch of one."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"clip {index} of a batch of {len(self)}")
            index = slice(index, index + 1 or None)
        return self.map(lambda tensor: tensor[index])

    @staticmethod
    def cat(parts: "list[VidTwinLatents]") -> "VidTwinLatents":
        """Join batches."""
        return VidTwinLatents(torch.cat([p.structure for p in parts]), torch.cat([p.dynamics for p in parts]))

    def save(self, path: str | Path) -> None:
        """Write both tensors to a safetensors file, atomically."""
        save_safetensors({"structure": self.structure, "dynamics": self.dynamics}, path)

    @classmethod
    def load(cls, path: str | Path) -> "VidTwinLatents":
        """Read what `save` wrote.

        Raises:
            UserError: if the file does not hold exactly the two latents.
        """
        tensors = load_file(path)
        if tensors.keys() != {"structure", "dynamics"}:
            raise UserError(f"{path} holds {sorted(tensors)}, not the tensors 'dynamics' and 'structure'")
        return cls(**tensors)


class VidTwinPosterior:
    """Diagonal Gaussian over the latents (arXiv 2412.17726).

    Args:
        structure_moments: (B, 2 d_S, n_q, h_S, w_S), means then log variances.
        dynamics_moments: (B, 2 d_D, F, w_D + h_D), likewise.
    """

    def __init__(self, structure_moments: torch.Tensor, dynamics_moments: torch.Tensor):
        structure, structure_logvar = structure_moments.chunk(2, dim=1)
        dynamics, dynamics_logvar = dynamics_moments.chunk(2, dim=1)
        self.mean = VidTwinLatents(structure, dynamics)
        self.logvar = VidTwinLatents(structure_logvar, dynamics_logvar).map(lambda tensor: tensor.clamp(-30.0, 20.0))

    def mode(self) -> VidTwinLatents:
        """The means, used at inference."""
        return self.mean

    def sample(self, generator: Generators = None, noise: VidTwinLatents | None = None) -> VidTwinLatents:
        """mean + std * noise, used in training.

        Args:
            generator: one generator, or a list with one per clip so that a clip's noise does not depend on its batch.
            noise: standard normal noise drawn beforehand, on the device of the posterior; `generator` is not used then.
        """

        def draw(mean: torch.Tensor, logvar: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
            if noise is None:
                noise = randn_tensor(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
            return mean + torch.exp(0.5 * logvar) * noise.to(mean.dtype)

        structure, dynamics = (None, None) if noise is None else (noise.structure, noise.dynamics)
        return VidTwinLatents(
            draw(self.mean.structure, self.logvar.structure, structure),
            draw(self.mean.dynamics, self.logvar.dynamics, dynamics),
        )

    def __getitem__(self, index: slice) -> "VidTwinPosterior":
        """Select clips of the batch."""
        return self._of(self.mean[index], self.logvar[index])

    def exchanged(self, other: "VidTwinPosterior") -> "VidTwinPosterior":
        """The structure of this posterior with the dynamics of another one."""
        pairs = (self.mean, other.mean), (self.logvar, other.logvar)
        return self._of(*(VidTwinLatents(own.structure, theirs.dynamics) for own, theirs in pairs))

    @classmethod
    def _of(cls, mean: VidTwinLatents, logvar: VidTwinLatents) -> "VidTwinPosterior":
        pairs = (mean.structure, logvar.structure), (mean.dynamics, logvar.dynamics)
        return cls(*(torch.cat(pair, dim=1) for pair in pairs))

    def kl(self) -> torch.Tensor:
        """KL divergence to N(0, 1), in nats, summed over all dimensions of both latents.

        Returns:
            (B,). The paper's term is its mean over the batch.
        """
        structure, dynamics = self.kl_of_latents()
        return structure + dynamics

    def kl_of_latents(self) -> tuple[torch.Tensor, torch.Tensor]:
        """KL divergence to N(0, 1) of the structure and of the dynamics latent, in nats, (B,) each."""

        def divergence(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
            return 0.5 * reduce(mean.square() + logvar.exp() - 1.0 - logvar, "b ... -> b", "sum")

        return (
            divergence(self.mean.structure.float(), self.logvar.structure.float()),
            divergence(self.mean.dynamics.float(), self.logvar.dynamics.float()),
        )

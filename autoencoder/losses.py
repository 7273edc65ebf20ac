"""The training loss of the autoencoder (PAPER.md, Autoencoder 6)."""

import torch
from torch import nn

from autoencoder.latents import VidTwinPosterior


class VidTwinLoss(nn.Module):
    """L1 under a learned scale, and the KL divergence of the latents.

    Args:
        kl_weight: weight of the KL divergence.
    """

    def __init__(self, kl_weight: float = 1e-3):
        super().__init__()
        self.kl_weight = kl_weight
        self.logvar = nn.Parameter(torch.zeros(()))

    def forward(
        self, reconstruction: torch.Tensor, video: torch.Tensor, posterior: VidTwinPosterior
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch.

        Args:
            reconstruction, video: (B, 3, F, H, W).
            posterior: of the batch.

        Returns:
            The loss: |x - x_hat| / exp(logvar) + logvar summed over all elements, per frame, plus the weighted KL
            divergence per clip; and its terms, detached, by name: `l1` is the mean over elements, `nll` the first part
            of the loss, `kl` unweighted.
        """
        error = (reconstruction.float() - video.float()).abs()
        num_frames = error.shape[0] * error.shape[2]
        nll = (error / self.logvar.exp() + self.logvar).sum() / num_frames
        kl = posterior.kl().mean()
        loss = nll + self.kl_weight * kl
        terms = {"loss": loss, "l1": error.mean(), "nll": nll, "kl": kl, "logvar": self.logvar}
        return loss, {name: term.detach().clone() for name, term in terms.items()}

"""The training loss of the autoencoder (arXiv 2412.17726)."""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from autoencoder.common.errors import UserError
from autoencoder.latents import VidTwinPosterior

MAX_GRADIENT_RATIO = 1e4


class VidTwinLoss(nn.Module):
    """L1 and LPIPS under a learned scale, and the KL divergence of the latents.

    Args:
        kl_weight: weight of the KL divergence.
        lpips_weight: weight of LPIPS beside L1.
        lpips: frozen network from two batches of images (N, 3, H, W) in [-1, 1] to (N,). It moves with this module but
            is not registered in it: no checkpoint, optimiser or DDP sees its weights.
        lpips_share: share of the frames of every clip, at least one, that LPIPS is measured on, drawn by torch's
            default generator of the device.

    Raises:
        UserError: if there is a weight but no network.
        ValueError: if the network is not frozen.
    """

    def __init__(
        self,
        kl_weight: float = 1e-3,
        lpips_weight: float = 0.0,
        lpips: nn.Module | None = None,
        lpips_share: float = 1.0,
    ):
        super().__init__()
        if lpips_weight and lpips is None:
            raise UserError(f"lpips_weight={lpips_weight} needs an LPIPS network, got lpips=None")
        if lpips is not None and (lpips.training or any(weight.requires_grad for weight in lpips.parameters())):
            raise ValueError("the LPIPS network must be frozen and in eval mode")
        self.kl_weight, self.lpips_weight, self.lpips_share = kl_weight, lpips_weight, lpips_share
        self.logvar = nn.Parameter(torch.zeros(()))
        self._lpips = (lpips,)  # nn.Module registers no module that is inside a tuple

    def _apply(self, function, recurse=True):
        """Move the LPIPS network along with the module."""
        if self._lpips[0] is not None:
            self._lpips[0]._apply(function, recurse)
        return super()._apply(function, recurse)

    def forward(
        self,
        reconstruction: torch.Tensor,
        video: torch.Tensor,
        posterior: VidTwinPosterior,
        kl_weights: tuple[float, float] | None = None,
        squared: bool = False,
        settle: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch, without the GAN.

        Args:
            reconstruction, video: (B, 3, F, H, W).
            posterior: the batch's posterior.
            kl_weights: of the structure and of the dynamics latent, in the place of `kl_weight` for both.
            squared: take (x - x_hat)^2 in the place of |x - x_hat|.
            settle: first set logvar to the logarithm of the mean error, where it is best for this batch; the function
                averages a scalar over the processes.

        Returns:
            The loss: (|x - x_hat| + w LPIPS) / exp(logvar) + logvar summed over all elements, per frame, where the one
            LPIPS of a frame counts for each of its elements, plus the weighted KL divergence per clip; and its terms,
            detached, by name: `l1` is the mean over elements, `lpips` (if it has a weight) that over frames, `nll` the
            first part of the loss, `kl` unweighted, and with `kl_weights` also the parts of both latents.
        """
        precise = torch.promote_types(reconstruction.dtype, torch.float32)  # bf16 cannot hold such sums
        difference = (reconstruction.to(precise) - video.to(precise)).abs()
        terms = {"l1": difference.mean()}
        error = difference.square() if squared else difference
        if self.lpips_weight:
            lpips = self._frame_lpips(reconstruction, video).to(precise)
            terms["lpips"] = lpips.mean()
            error = error + self.lpips_weight * lpips
        if settle is not None:
            with torch.no_grad():
                self.logvar.copy_(settle(error.mean()).log())
        num_frames = error.shape[0] * error.shape[2]
        nll = (error / self.logvar.exp() + self.logvar).sum() / num_frames
        kl = posterior.kl().mean()
        weighted = self.kl_weight * kl
        if kl_weights is not None:
            structure, dynamics = (part.mean() for part in posterior.kl_of_latents())
            weighted = kl_weights[0] * structure + kl_weights[1] * dynamics
            terms |= {"kl_structure": structure, "kl_dynamics": dynamics}
        loss = nll + weighted
        terms |= {"loss": loss, "nll": nll, "kl": kl, "logvar": self.logvar}
        return loss, {name: term.detach().clone() for name, term in terms.items()}

    def _frame_lpips(self, reconstruction: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        """(B, 3, F, H, W) twice -> (B, 1, F', 1, 1), where F' is F or, of a share of the frames, 1: their mean."""
        images = [rearrange(clips, "b c f h w -> b f c h w") for clips in (reconstruction, video)]
        batch_size, num_frames = video.shape[0], video.shape[2]
        if self.lpips_share < 1:
            count = max(1, round(self.lpips_share * num_frames))
            chosen = torch.rand(batch_size, num_frames, device=video.device).argsort(1)[:, :count]  # (B, F')
            clip = torch.arange(batch_size, device=video.device)[:, None]
            images = [frames[clip, chosen] for frames in images]  # (B, F', C, H, W)
        distances = self._lpips[0](*(frames.flatten(0, 1) for frames in images))  # (B F')
        distances = rearrange(distances, "(b f) -> b 1 f 1 1", b=batch_size)
        return distances if self.lpips_share == 1 else distances.mean(2, keepdim=True)


def generator_hinge(logits_fake: torch.Tensor) -> torch.Tensor:
    """The autoencoder's adversarial loss: -mean D(x_hat)."""
    return -logits_fake.mean()


def discriminator_hinge(logits_real: torch.Tensor, logits_fake: torch.Tensor) -> torch.Tensor:
    """The discriminator's loss: (mean relu(1 - D(x)) + mean relu(1 + D(x_hat))) / 2."""
    return 0.5 * (F.relu(1 - logits_real).mean() + F.relu(1 + logits_fake).mean())


def adaptive_weight(
    loss: torch.Tensor,
    gan_loss: torch.Tensor,
    last_layer: torch.Tensor,
    average: Callable[[torch.Tensor], torch.Tensor] = lambda gradient: gradient,
) -> torch.Tensor:
    """The factor that scales the GAN's gradient at the decoder's last layer to that of the rest of the loss.

    Args:
        loss: the reconstruction loss, () (the KL divergence may be in it: it does not depend on the last layer).
        gan_loss: `generator_hinge`, ().
        last_layer: weight of the last layer; both losses must depend on it.
        average: averages a gradient over the processes of a run, so that all of them get the same factor.

    Returns:
        clamp(|grad loss| / (|grad gan_loss| + 1e-4), 0, 1e4), detached, ().
    """
    norms = [average(torch.autograd.grad(value, last_layer, retain_graph=True)[0]).norm() for value in (loss, gan_loss)]
    return (norms[0] / (norms[1] + 1e-4)).clamp(max=MAX_GRADIENT_RATIO).detach()

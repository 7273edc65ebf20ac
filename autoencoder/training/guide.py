"""A guide for the dynamics latent: where a clip's object is in every frame, told along its two axes.

With changed views from the first step, no latent has the place of what moves at first, and for as long as the decoder
cannot use one, none learns it. The guide gives the dynamics latent that place, in the layout it has anyhow, and can be
decoded in its stead, as a teacher forces the inputs of a sequence model: then the structure latent takes up what is at
that place, and nothing else has it once the dynamics latent is read.
"""

import torch
from torch.nn import functional as F

from autoencoder.latents import VidTwinLatents

WIDTH = 1.5  # standard deviation of the bump, in stripes: two of them tell the place between them
GUIDE_CHANNELS = 2  # the bump, and how far it is
HEIGHT, MEAN = 4.0, 1.4  # of the bump: far above the noise of a prior of 1, and about as often above 0 as below


def centre_of_motion(video: torch.Tensor, background: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The centre of mass of what differs from the background, in every frame.

    Args:
        video: (B, 3, F, H, W).
        background: "still" takes the median over time of every pixel, "plain" that of the whole clip, one colour.

    Returns:
        (B, F, 2), x and y as shares of the frame from 0 to 1, and bool (B, F, 1), whether anything differs at all.
    """
    over = video if background == "still" else video.flatten(2, 4)
    rest = over.sort(dim=2).values[:, :, (over.shape[2] - 1) // 2]
    rest = rest.unsqueeze(2) if background == "still" else rest.view(*rest.shape, 1, 1, 1)
    mass = (video - rest).square().mean(dim=1)  # (B, F, H, W)
    total = mass.sum(dim=(2, 3)).unsqueeze(-1)  # (B, F, 1)
    is_there = total > 1e-4
    along_axes = mass.sum(dim=2), mass.sum(dim=3)  # (B, F, W), (B, F, H)
    moments = torch.stack([(along * _middles(along)).mean(dim=-1) for along in along_axes], dim=-1)
    return moments / total.clamp(min=1e-4), is_there


def _middles(along: torch.Tensor) -> torch.Tensor:
    """Where the (..., N) stripes along an axis lie, from 0 to N: (N,)."""
    return torch.arange(along.shape[-1], device=along.device, dtype=along.dtype) + 0.5


def place_guide(video: torch.Tensor, positions: int, channels: int, background: str) -> torch.Tensor:
    """The place of what moves as a dynamics latent: a bump along either axis, then how far it is from every stripe.

    Args:
        video: (B, 3, F, H, W).
        positions: stripes along x, and as many along y.
        channels: of the latent; the guide has the first `GUIDE_CHANNELS` of them at most.
        background: as for `centre_of_motion`.

    Returns:
        (B, min(2, channels), F, 2 positions), along x first; 0 in frames in which nothing moves. Nothing but the centre
        counts: neither contrast, nor size, nor outline.
    """
    centre, is_there = centre_of_motion(video, background)
    place = positions * centre.unsqueeze(-1)  # (B, F, 2, 1)
    distance = (place - _middles(place.expand(-1, -1, -1, positions))) / WIDTH  # (B, F, 2, positions)
    bump = torch.exp(-0.5 * distance.square())
    guide = torch.stack([HEIGHT * bump - MEAN, HEIGHT * distance * bump][:channels], dim=1)
    return (guide * is_there[:, None, ..., None]).flatten(3)


def guide_error(dynamics: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of the first channels of dynamics from the guide, over the guide's variance: ().

    Args:
        dynamics: mean of the posterior, (B, d_D, F, w_D + h_D).
        guide: as `place_guide` returns it.
    """
    return F.mse_loss(dynamics[:, : guide.shape[1]].to(guide), guide) / guide.var(correction=0).clamp(min=1e-4)


def teach(latents: VidTwinLatents, guide: torch.Tensor, share: float) -> VidTwinLatents:
    """Latents whose dynamics are by this share, 0 to 1, the guide in its channels, and by the rest their own."""
    channels = guide.shape[1]
    taught = torch.lerp(latents.dynamics[:, :channels], guide.to(latents.dynamics), share)
    return VidTwinLatents(latents.structure, torch.cat([taught, latents.dynamics[:, channels:]], dim=1))

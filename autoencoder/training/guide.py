"""A guide for the dynamics latent: where and when a clip moves, seen from its two axes.

With changed views from the first step, no latent has the place of what moves at first, and for as long as the decoder
cannot use one, none learns it. The guide gives the dynamics latent that place, in the layout it has anyhow.
"""

import torch
from torch.nn import functional as F


def motion_profile(video: torch.Tensor, positions: int) -> torch.Tensor:
    """How much every stripe of every frame differs from the clip at rest, its median over time.

    Args:
        video: (B, 3, F, H, W).
        positions: stripes along x, and as many along y.

    Returns:
        (B, F, 2 positions), along x first as in the dynamics latent; over a clip of mean 0 and standard deviation 1,
        so that contrast does not count, or 0 where nothing moves.
    """
    at_rest = video.sort(dim=2).values[:, :, (video.shape[2] - 1) // 2].unsqueeze(2)
    energy = (video - at_rest).abs().mean(dim=1)  # (B, F, H, W)
    along_x, along_y = (F.adaptive_avg_pool1d(energy.mean(dim=across), positions) for across in (2, 3))
    profile = torch.cat([along_x, along_y], dim=-1)
    deviation, mean = torch.std_mean(profile, dim=(1, 2), correction=0, keepdim=True)
    return (profile - mean) / deviation.clamp(min=1e-4)


def guide_error(dynamics: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of the first channel of dynamics from the motion profile: ().

    Args:
        dynamics: mean of the posterior, (B, d_D, F, w_D + h_D).
        video: the clips, (B, 3, F, H, W).
    """
    precise = torch.promote_types(dynamics.dtype, torch.float32)
    profile = motion_profile(video.to(precise), dynamics.shape[-1] // 2)
    return F.mse_loss(dynamics[:, 0].to(precise), profile)

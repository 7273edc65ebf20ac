"""Latents between those of two clips, whose videos tell what a latent is worth to a generator.

A generator's latents lie between those it has learnt from. So the Frechet distance of videos decoded from interpolated
latents says more of samples than that of reconstructions does (arXiv 2608.13556, and arXiv 2603.05630 for pictures).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from autoencoder.latents import VidTwinLatents

LATENTS_OF_PART = {"both": ("structure", "dynamics"), "structure": ("structure",), "dynamics": ("dynamics",)}


def pairs_of_moments(videos: Sequence[int]) -> torch.Tensor:
    """Two moments of one video: each of its clips and the next one.

    Args:
        videos: of every clip the number of its video; clips of one video follow each other.

    Returns:
        int64 (P, 2), places of clips.
    """
    places = [(place, place + 1) for place in range(len(videos) - 1) if videos[place] == videos[place + 1]]
    return torch.tensor(places, dtype=torch.long).view(-1, 2)


def pairs_of_clips(latents: VidTwinLatents, videos: Sequence[int], part: str = "both") -> torch.Tensor:
    """Clips of two videos: each clip and the one of another video whose latents are nearest.

    Distances are Euclidean, over each latent's standard deviation and the root of its size, so that both count alike.

    Args:
        latents: of N clips.
        videos: of every clip the number of its video.
        part: "both", or the latent that alone counts.

    Returns:
        int64 (N, 2), places of clips; (0, 2) where all are of one video.
    """
    if len(set(videos)) < 2:
        return torch.empty(0, 2, dtype=torch.long)
    flat = [getattr(latents, name).flatten(1).double() for name in LATENTS_OF_PART[part]]
    scaled = [rows / (rows.std().clamp(min=1e-12) * rows.shape[1] ** 0.5) for rows in flat]
    distances = torch.cdist(*2 * [torch.cat(scaled, dim=1)])  # (N, N)
    numbers = torch.tensor(videos)
    distances[numbers[:, None] == numbers] = torch.inf
    return torch.stack([torch.arange(len(videos)), distances.argmin(dim=1)], dim=1)


def halfway(latents: VidTwinLatents, pairs: torch.Tensor) -> VidTwinLatents:
    """The mean of the latents of each pair, given as places (P, 2)."""
    return latents.map(lambda tensor: tensor[pairs].mean(dim=1))


def between(first: VidTwinLatents, second: VidTwinLatents, share: float, part: str = "both") -> VidTwinLatents:
    """Latents on the straight way from those of some clips to those of others, in one latent or both.

    Args:
        first, second: latents of B clips each.
        share: of the way, 0 at the first and 1 at the second.
        part: "both", or the latent that goes along; the other one stays that of the first.
    """
    ends = {name: (getattr(first, name), getattr(second, name)) for name in LATENTS_OF_PART[part]}
    return replace(first, **{name: torch.lerp(*pair, share) for name, pair in ends.items()})

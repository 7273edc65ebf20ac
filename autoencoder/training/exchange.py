"""Exchange training: each latent is read from another clip than the target, which shares with it what it should hold.

The structure latent is read from a companion, a clip of the same content, the dynamics latent from a changed view of
the target, which has its motion (cross reconstruction as in arXiv 1711.02245, changed views as in arXiv 2004.12000).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autoencoder.common.seeding import derive_seed
from autoencoder.data.clips import ClipDataset, readable_companion
from autoencoder.data.registration import aligned
from autoencoder.data.stream import Alteration, TrainingClips
from autoencoder.data.views import ViewChange
from autoencoder.training.config import ExchangeConfig
from autoencoder.training.schedules import remaining, risen

SOURCES = ("structure_source", "dynamics_source")  # in a sample, beside "video"
KEPT = "dynamics_kept"


@dataclass(frozen=True)
class Exchange:
    """Chooses what the latents of a sample are read from, by the seed and by its position in the run.

    Args:
        config: shares, schedules and changes.
        seed: the run's seed.
        batch_size: over all processes; it tells the step of a position.
    """

    config: ExchangeConfig
    seed: int
    batch_size: int

    def sources(
        self, clips: ClipDataset, index: int, video: torch.Tensor, position: int, alter: Alteration
    ) -> dict[str, torch.Tensor]:
        """The clips that the latents of a sample are read from, by the names in `SOURCES`, and `KEPT`.

        Args:
            clips: the data set.
            index: which of its videos the sample is of.
            video: the target, uint8 (T, H, W, 3).
            position: of the sample in the run.
            alter: mirrors and changes the companion as the target was.

        Returns:
            uint8 (T, H, W, 3) each, the target itself where nothing is exchanged, and float32 (), 0 where the sample is
            to be decoded without its dynamics and else 1; nothing at all in steps in which the config does neither.

        Raises:
            UnreadableVideo: if not even another moment of the sample's own video can be read.
        """
        config, step = self.config, position // self.batch_size + 1
        share = config.share * risen(step, config.start, config.warmup_steps)
        strength = risen(step, config.view_start, config.view_warmup_steps) if config.view_share else 0.0
        left_out = config.structure_only * remaining(step, config.structure_only_steps, config.structure_only_decay)
        if not share and not config.moment_share and not strength and not left_out:
            return {}
        rng = np.random.default_rng(derive_seed(self.seed, "exchange", position))
        takes_companion, changes_view, leaves_out = rng.uniform(size=3) < (share, config.view_share, left_out)
        structure, dynamics = video, video
        if takes_companion:
            structure = alter(readable_companion(clips, index, rng, same_clip=config.companion == "clip"))
            structure = aligned(structure, video, config.align) if config.align else structure
        elif config.moment_share and rng.uniform() < config.moment_share:
            structure = alter(clips.companion(index, rng, same_clip=True))
        if changes_view and strength:
            dynamics = ViewChange(config.colour, config.blur, config.scale, config.shift)(video, rng, strength)
        return dict(zip(SOURCES, (structure, dynamics), strict=True)) | {KEPT: torch.tensor(float(not leaves_out))}


class ExchangedClips(TrainingClips):
    """`TrainingClips` whose samples also hold what `Exchange.sources` returns.

    Args:
        clips, seed, flip, augmentation: as for `TrainingClips`.
        exchange: chooses the sources.
    """

    def __init__(
        self, clips: ClipDataset, seed: int, flip: bool, exchange: Exchange, augmentation: ViewChange | None = None
    ):
        super().__init__(clips, seed, flip, augmentation)
        self.exchange = exchange

    def further(self, index: int, video: torch.Tensor, position: int, alter: Alteration) -> dict[str, Any]:
        """The sources of a sample."""
        return self.exchange.sources(self.clips, index, video, position, alter)

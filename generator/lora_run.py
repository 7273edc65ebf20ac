"""What a training of LoRA has beside other trainings: its base, samples of that, and the weights that it leaves."""

from collections.abc import Callable, Sequence
from functools import cache as once
from pathlib import Path

import torch

from autoencoder.common.run import RunFolder
from autoencoder.latents import VidTwinLatents
from generator.config import TrainConfig
from generator.dit import VidTwinDiT
from generator.latent_cache import LatentCache
from generator.lora_weights import LoraWeights, base_identity
from generator.replay import JoinedCaches, replay_cache
from generator.start import known_classes
from pipelines import VidTwinDiffusionPipeline
from pipelines.folders import model_folder

REPLAY = "replay"  # folder of the samples in that of the run


class LoraRun:
    """The part of a run that is LoRA's own.

    Args:
        config: the run's config.
        folder: the run's folder.
        make_pipeline: builds the pipeline of a transformer.
        device: of the run.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        make_pipeline: Callable[[VidTwinDiT], VidTwinDiffusionPipeline],
        device: torch.device,
    ):
        self.config, self.folder, self.make_pipeline, self.device = config, folder, make_pipeline, device
        self.place = model_folder(config.init_from, "transformer")
        self.identity = base_identity(self._base())

    def with_replay(self, cache: LatentCache) -> LatentCache | JoinedCaches:
        """The training set, with samples that the base makes of its own classes if the config asks for them.

        They are made with the settings of previews; those that are in the folder already are taken.
        """
        config = self.config
        if not config.lora_replay:
            return cache

        @once
        def base() -> VidTwinDiffusionPipeline:  # not read where all samples are in the folder
            pipeline = self.make_pipeline(self._base())
            pipeline.set_progress_bar_config(disable=True)
            return pipeline

        def sample(labels: Sequence[int], seeds: Sequence[int]) -> VidTwinLatents:
            out = base()(
                labels,
                config.sample_steps,
                config.sample_guidance,
                generator=list(seeds),
                guidance_interval=config.sample_guidance_interval,
                output_type="latent",
            )
            return out.frames

        names, known = known_classes(self.place), {"base": self.identity}
        place = self.folder.path / REPLAY
        return JoinedCaches(cache, replay_cache(place, sample, names, config.lora_replay, config.seed, known))

    def fused(self, transformer: VidTwinDiT, folder: Path) -> VidTwinDiT:
        """Save what was trained, and return the base fused with what was saved: a transformer as any other.

        Args:
            transformer: with the adapters and rows.
            folder: for the file.

        Raises:
            UserError: if the base is not the one any more that the run started from.
        """
        LoraWeights.trained(transformer, self.identity).save(folder)
        pipeline = self.make_pipeline(self._base())
        pipeline.load_lora_weights(folder)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
        return pipeline.transformer

    def _base(self) -> VidTwinDiT:
        return VidTwinDiT.from_pretrained(self.place).to(self.device)

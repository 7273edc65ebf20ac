"""What a training of LoRA has beside other trainings: its base, samples of that, and the weights that it leaves."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from autoencoder.common.run import RunFolder
from autoencoder.latents import VidTwinLatents
from generator.config import TrainConfig
from generator.dit import VidTwinDiT
from generator.latent_cache import LatentCache
from generator.lora_weights import LoraWeights, base_identity
from generator.replay import JoinedCaches, replay_cache
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
        base: the transformer that is adapted, before it is.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        make_pipeline: Callable[[VidTwinDiT], VidTwinDiffusionPipeline],
        device: torch.device,
        base: VidTwinDiT,
    ):
        self.config, self.folder, self.make_pipeline, self.device = config, folder, make_pipeline, device
        self.identity = base_identity(base)

    def with_replay(self, cache: LatentCache, base: VidTwinDiT) -> LatentCache | JoinedCaches:
        """The training set, with samples that the base makes of its own classes if the config asks for them.

        They are made with the settings of previews; those that are in the folder already are taken.

        Args:
            cache: the training set.
            base: as in `__init__`; it is moved to the run's device.
        """
        config = self.config
        if not config.lora_replay:
            return cache

        pipeline = self.make_pipeline(base.to(self.device))
        pipeline.set_progress_bar_config(disable=True)

        def sample(labels: Sequence[int], seeds: Sequence[int]) -> VidTwinLatents:
            out = pipeline(
                labels,
                config.sample_steps,
                config.sample_guidance,
                generator=list(seeds),
                guidance_interval=config.sample_guidance_interval,
                output_type="latent",
            )
            return out.frames

        place, known = self.folder.path / REPLAY, {"base": self.identity}
        samples = replay_cache(place, sample, base.class_names, config.lora_replay, config.seed, known)
        return JoinedCaches(cache, samples)

    def fused(self, transformer: VidTwinDiT, folder: Path) -> VidTwinDiT:
        """Save what was trained, and return the base fused with what was saved: a transformer as any other.

        Args:
            transformer: with the adapters and rows.
            folder: for the file.

        Raises:
            UserError: if the base is not the one any more that the run started from.
        """
        LoraWeights.trained(transformer, self.identity).save(folder)
        base = VidTwinDiT.from_pretrained(model_folder(self.config.init_from, "transformer"))
        pipeline = self.make_pipeline(base.to(self.device))
        pipeline.load_lora_weights(folder)
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
        return pipeline.transformer

"""One step of a stage-two run that writes nothing, for `python -m generator.train --dry-run`."""

from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

from accelerate import Accelerator

from autoencoder.common.run import RunFolder
from autoencoder.common.summary import step_memory, summary
from generator.config import TrainConfig
from generator.fit import build_transformer, find_start, open_autoencoder
from generator.latent_cache import build_cache
from generator.report import describe_run
from generator.trainer import GeneratorTrainer


def dry_run(config: TrainConfig, model_settings: dict[str, Any], folder: RunFolder, accelerator: Accelerator) -> None:
    """Take one step, and print the settings, the losses and the memory of a run.

    The latents of one micro-batch are encoded into a temporary folder; the run's own cache is neither read nor made.

    Args:
        config: the run's config.
        model_settings: the fields of `TransformerSettings`, by name.
        folder: the run's folder; it is not created. If it holds a run, the step is that after its newest checkpoint.
        accelerator: the run's accelerator.
    """
    vae, autoencoder_hash = open_autoencoder(config, folder, accelerator.device)
    start = find_start(config, folder, autoencoder_hash)
    size = config.micro_batches(accelerator.num_processes)[0]
    few = replace(config, max_videos=min(size, config.max_videos or size), clips_per_video=1, validate_every=None)
    with TemporaryDirectory(prefix="vidtwin-dry-run-") as temporary:
        cache = build_cache(vae, few, temporary, progress=False)
        model = build_transformer(config, model_settings, vae, cache, start)
        trainer = GeneratorTrainer(model, cache, few, folder, accelerator)
        place = config.latent_cache or config.cache_folder(autoencoder_hash)
        entries = describe_run(trainer, vae, autoencoder_hash)
        entries["data"] = f"{config.dataset}, {len(cache.class_names)} classes; the latents would lie in {place}"
        terms = trainer.try_step()
    if accelerator.is_main_process:
        memory = step_memory([trainer.model], [trainer.optimizer.optimizer], len(trainer.averages))
        losses = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        print(summary(entries | {"one step": losses, "memory": memory}))
        print("dry run: nothing was written")

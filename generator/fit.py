"""Training the transformer by a config, for `python -m generator.train`."""

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch.distributed.fsdp import MixedPrecisionPolicy

from autoencoder.checkpoint import fingerprint
from autoencoder.common.checkpoints import newest_whole_checkpoint
from autoencoder.common.device import resolve_device
from autoencoder.common.errors import UserError, first_few
from autoencoder.common.files import atomic_folder
from autoencoder.common.pictures import Previews, unit_to_uint8
from autoencoder.common.precision import resolve_precision
from autoencoder.common.run import RunFolder, ending_in_order
from autoencoder.common.summary import log_run, summary
from autoencoder.vidtwin import AutoencoderVidTwin
from generator.cache_changes import build_clips
from generator.checkpoint import check_autoencoder
from generator.config import TrainConfig
from generator.dit import VidTwinDiT
from generator.latent_cache import UNLABELLED, LatentCache, autoencoder_folder, build_cache
from generator.lora import add_lora, target_modules
from generator.lora_run import LoraRun
from generator.objective import make_scheduler
from generator.report import describe_run
from generator.start import Start
from generator.trainer import GeneratorTrainer
from pipelines import VidTwinDiffusionPipeline
from pipelines.conditioning import Guidance
from pipelines.folders import model_folder
from pipelines.schedulers import Solver

ENDINGS = ("", "-ema2")  # of the names of what the two moving averages leave
PRECISIONS = {"fp32": "no", "bf16": "bf16"}


class VideoSampler:
    """Records videos sampled with the moving average of the weights, always of the same classes and seeds.

    Args:
        make_pipeline: builds the pipeline of a transformer.
        config: the run's config.
    """

    def __init__(self, make_pipeline: Callable[[VidTwinDiT], VidTwinDiffusionPipeline], config: TrainConfig):
        self.make_pipeline, self.config, self.previews = make_pipeline, config, Previews()

    def __call__(self, trainer: GeneratorTrainer) -> None:
        """Sample every `sample_every` steps and at the last one, if any logger takes videos.

        The other processes wait in the next step.
        """
        if not trainer.is_due(self.config.sample_every) or set(self.config.logger) == {"csv"}:
            return
        with trainer.peak_memory.apart():
            model = trainer.averaged_model(trainer.averages[0])
            if model is not None:
                with self.previews.attempted("sampled videos", trainer.step):
                    self._show(model, trainer)

    def _show(self, model: VidTwinDiT, trainer: GeneratorTrainer) -> None:
        config, names = self.config, model.config.id2label
        count = min(config.sample_classes, len(names))
        classes = [place * len(names) // count for place in range(count)]
        pipeline = self.make_pipeline(model)
        pipeline.set_progress_bar_config(disable=True)
        videos = pipeline(
            classes,
            config.sample_steps,
            config.sample_guidance,
            guidance_interval=config.sample_guidance_interval,
            generator=config.seed,
        ).frames
        for label, video in zip(classes, videos, strict=True):
            frames = unit_to_uint8(video)
            tag = f"sample: {names[str(label)]}"
            trainer.records.moving_picture(tag, frames, trainer.step, config.sample_fps or 25.0)


def check_previews(config: TrainConfig) -> None:
    """Check the config's settings of previews before the run starts.

    Raises:
        UserError: if the pipeline cannot sample with them; the message names the setting.
    """
    scheduler = make_scheduler(config.objective.kind)
    attempts = {
        f"sample_steps={config.sample_steps}": lambda: Solver(scheduler, config.sample_steps, config.objective.kind),
        f"sample_guidance={config.sample_guidance}": lambda: Guidance(config.sample_guidance),
        f"sample_guidance_interval={list(config.sample_guidance_interval)}": lambda: Guidance(
            interval=config.sample_guidance_interval
        ),
    }
    for setting, attempt in attempts.items():
        try:
            attempt()
        except UserError as error:
            raise UserError(f"{setting} gives no previews: {error}") from error


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The accelerator of a run; with several processes, all must call it, and they wait for each other."""
    # Processes wait for the slowest one at every shard of the cache; that may take longer than the usual 10 minutes.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=2))
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else every process of torchrun on CPUs would train by itself
        mixed_precision=PRECISIONS[resolve_precision(config.precision, resolve_device("auto"))],
        kwargs_handlers=[patience],
    )
    if accelerator.is_fsdp2:
        accelerator.state.fsdp_plugin.mixed_precision_policy = sharding_policy(accelerator.mixed_precision)
    return accelerator


def sharding_policy(mixed_precision: str) -> MixedPrecisionPolicy:
    """The dtypes in which FSDP2 gathers weights and reduces gradients.

    With bf16 autocast the weights are gathered in bf16, in which they are multiplied anyway. Inputs are not cast; by
    accelerate's default policy they would be, which rounds the residual stream and the timestep, which goes up to 1000.

    Args:
        mixed_precision: accelerate's name of the precision, "no" or "bf16".
    """
    if mixed_precision == "no":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)


def find_start(config: TrainConfig, folder: RunFolder, autoencoder_hash: str) -> Start | None:
    """The trained transformer that a run starts from, read, and such that LoRA can adapt it; None if there is none.

    Args:
        config: the run's config.
        folder: the run's folder; if it holds a checkpoint, which has all weights, those of `init_from` are not read,
            unless it is the base that LoRA adapts.
        autoencoder_hash: fingerprint of the run's autoencoder.

    Raises:
        MissingFileError: if `init_from` names no transformer.
        DamagedModelError: if the one there is not whole.
        UserError: if LoRA cannot adapt it as the config asks.
    """
    if config.init_from is None or (not config.lora_rank and newest_whole_checkpoint(folder.checkpoints)[0]):
        return None
    place = model_folder(config.init_from, "transformer")
    start = Start(place, autoencoder_hash, config.init_missing, as_it_is=config.lora_rank > 0)
    if config.lora_rank:
        start.check_names()
        target_modules(start.model, config.lora_targets, config.lora_rank)
    return start


def build_transformer(
    config: TrainConfig, settings: dict[str, Any], vae: AutoencoderVidTwin, cache: LatentCache, start: Start | None
) -> VidTwinDiT:
    """The transformer for the latents of `vae` in `cache`, with the weights that the run starts from.

    Args:
        config: the run's config.
        settings: the fields of `TransformerSettings`, by name.
        vae: the autoencoder.
        cache: the training set.
        start: as `find_start` returns it.

    Raises:
        UserError: if the transformer to start from does not fit.
    """
    names = start.model.class_names if config.lora_rank else cache.class_names
    torch.manual_seed(config.seed)
    model = VidTwinDiT(
        **settings,
        structure_shape=vae.structure_shape,
        dynamics_shape=vae.dynamics_shape,
        dynamics_axes=vae.dynamics_axes,
        num_classes=len(names),
        prediction_type=config.objective.kind,
        independent_times=config.objective.independent_times,
        frame_times=config.objective.frame_times,
        id2label={str(label): name for label, name in enumerate(names)},
        **cache.statistics,
    )
    if start:
        start.give_to(model)
    if config.lora_rank:
        new_classes = [name for name in cache.class_names if name not in names]
        add_lora(model, config.lora_rank, config.lora_alpha, config.lora_targets, new_classes)
    return model


def open_autoencoder(config: TrainConfig, folder: RunFolder, device: torch.device) -> tuple[AutoencoderVidTwin, str]:
    """The autoencoder of a run, on a device, and its fingerprint.

    Raises:
        MissingFileError: if there is none.
        UserError: if the run's checkpoints are of the latents of another one.
    """
    vae = AutoencoderVidTwin.from_pretrained(autoencoder_folder(config.autoencoder)).to(device)
    autoencoder_hash = fingerprint(vae)
    check_autoencoder(folder, autoencoder_hash)
    return vae, autoencoder_hash


def _build_caches(
    config: TrainConfig, vae: AutoencoderVidTwin, autoencoder_hash: str, show: bool
) -> tuple[LatentCache, LatentCache | None]:
    """The training set, and the clips to validate on, if there are any."""
    place = config.latent_cache or config.cache_folder(autoencoder_hash)
    cache = build_cache(vae, config, place, show, config.rebuild_cache)
    if not config.validate_every:
        return cache, None
    place = f"{config.latent_cache}-val" if config.latent_cache else config.held_out.cache_folder(autoencoder_hash)
    held_out = build_cache(vae, config.held_out, place, show, config.rebuild_cache)
    _check_classes(cache, held_out)
    return cache, held_out


def _class_names(config: TrainConfig, vae: AutoencoderVidTwin) -> Sequence[str] | None:
    """The classes of the training set before it is encoded; None where it is gone, or LoRA takes whatever they are."""
    if config.lora_rank or (config.dataset != "shapes" and not config.root.exists()):
        return None
    return build_clips(config, vae).class_names or UNLABELLED


def _check_classes(cache: LatentCache, held_out: LatentCache) -> None:
    """Refuse caches in which a label means different classes."""
    if held_out.class_names != cache.class_names:
        there, here = (first_few(map(repr, names), 10) for names in (held_out.class_names, cache.class_names))
        raise UserError(
            f"the held-out latents in {held_out.folder} are of the classes {there}, those in {cache.folder} of {here}: "
            "remove the older of the two, or have both encoded anew by --rebuild-cache"
        )


def train(
    config: TrainConfig,
    model_settings: dict[str, Any],
    folder: RunFolder,
    callbacks: Sequence[Callable[[GeneratorTrainer], None]] = (),
    accelerator: Accelerator | None = None,
    progress: bool = True,
) -> GeneratorTrainer:
    """Cache the latents if need be, train to `config.max_steps` and leave the pipeline in `folder.pipeline`.

    If there is a second moving average, its pipeline is saved beside that. LoRA is saved, too, in lora/, and the
    pipeline is the base fused with it.

    Args:
        config: the run's config.
        model_settings: the fields of `TransformerSettings`, by name.
        folder: the run's folder, which goes on from its newest checkpoint.
        callbacks: called with the trainer after every step.
        accelerator: made by `make_accelerator`, which is called if none is given.
        progress: whether to show progress bars, and to print and record what is trained and where.

    Returns:
        The trainer, whose `scalars` hold the last record.

    Raises:
        Stopped: if a signal asks to end; the last whole step and the shards of the cache are saved.
    """
    with ending_in_order(folder, "generator.train"):
        return _train(config, model_settings, folder, callbacks, accelerator or make_accelerator(config), progress)


def _train(
    config: TrainConfig,
    model_settings: dict[str, Any],
    folder: RunFolder,
    callbacks: Sequence[Callable[[GeneratorTrainer], None]],
    accelerator: Accelerator,
    progress: bool,
) -> GeneratorTrainer:
    vae, autoencoder_hash = open_autoencoder(config, folder, accelerator.device)
    show = progress and accelerator.is_main_process
    start = find_start(config, folder, autoencoder_hash)
    if start:
        start.check(model_settings, _class_names(config, vae))
    cache, held_out = _build_caches(config, vae, autoencoder_hash, show)

    def make_pipeline(transformer: VidTwinDiT) -> VidTwinDiffusionPipeline:
        return VidTwinDiffusionPipeline(vae, transformer, make_scheduler(config.objective.kind))

    model, clips, lora = build_transformer(config, model_settings, vae, cache, start), cache, None
    if config.lora_rank:
        lora = LoraRun(config, folder, make_pipeline, accelerator.device, start.model)
        clips = lora.with_replay(cache, start.model)
    del start  # the memory of its weights
    trainer = GeneratorTrainer(model, clips, config, folder, accelerator, held_out)

    if show:
        print(summary(describe_run(trainer, vae, autoencoder_hash)), flush=True)
        log_run(trainer.records, folder, accelerator.device, trainer.step)

    trainer.run([VideoSampler(make_pipeline, config), *callbacks], progress)
    _save_pipelines(trainer, make_pipeline, lora, facts_of_training(config, trainer, cache, autoencoder_hash))
    return trainer


def _save_pipelines(
    trainer: GeneratorTrainer,
    make_pipeline: Callable[[VidTwinDiT], VidTwinDiffusionPipeline],
    lora: LoraRun | None,
    facts: dict[str, Any],
) -> None:
    """Leave a pipeline of every moving average, and LoRA's weights; all processes must call it."""
    folder = trainer.folder
    for number, (average, end) in enumerate(zip(trainer.averages, ENDINGS, strict=False)):
        transformer = trainer.averaged_model(average)
        if transformer is not None:
            if lora is not None:
                transformer = lora.fused(transformer, folder.path / f"lora{end}")
            pipeline = make_pipeline(transformer)
            loss = trainer.scalars.get("val/loss") if number == 0 else None  # measured of the first average alone
            metrics = {} if loss is None else {"held-out loss": loss}
            pipeline.register_to_config(training=facts | {"metrics": metrics})
            with atomic_folder(folder.path / f"{folder.pipeline.name}{end}") as temporary:
                pipeline.save_pretrained(temporary)


def facts_of_training(
    config: TrainConfig, trainer: GeneratorTrainer, cache: LatentCache, autoencoder_hash: str
) -> dict[str, Any]:
    """Facts about the training for the model card of the pipeline (`pipelines.model_card.TRAINING`)."""
    root = "" if config.dataset == "shapes" else f" {config.root.name}"
    lora = f", by LoRA of rank {config.lora_rank} on {Path(config.init_from).name}" if config.lora_rank else ""
    return {
        "data": f"{config.dataset}{root}{lora}",
        "videos": len(cache),
        "fps": config.sample_fps,
        "steps": trainer.step,
        "batch_size": config.batch_size,
        "date": date.today().isoformat(),
        "autoencoder_sha256": autoencoder_hash,
    }

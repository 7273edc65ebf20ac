"""Training the autoencoder by a config, for `python -m autoencoder.train`."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment
from torch import nn

from autoencoder.common.checkpoints import newest_whole_checkpoint
from autoencoder.common.compiling import set_up_model
from autoencoder.common.errors import UserError
from autoencoder.common.files import atomic_folder
from autoencoder.common.launchers import is_first_process
from autoencoder.common.precision import resolve_precision
from autoencoder.common.records import Records, open_loggers
from autoencoder.common.run import RunFolder, ending_in_order
from autoencoder.common.signals import StopSignals
from autoencoder.common.summary import log_run, step_memory, summary
from autoencoder.data.views import ViewChange
from autoencoder.metrics.installed_weights import INSTALL
from autoencoder.metrics.lpips import INSTALLED, installed_vgg16, load_vgg16, lpips_network
from autoencoder.training.checkpointing import AtomicCheckpointIO, OrderlyStop, StepCheckpoint
from autoencoder.training.config import TrainConfig
from autoencoder.training.datamodule import ClipDataModule
from autoencoder.training.exchange import Exchange
from autoencoder.training.module import VidTwinModule
from autoencoder.training.noise import LatentNoise
from autoencoder.training.report import StepProgress, describe_run
from autoencoder.training.sides import SidesStrategy
from autoencoder.vidtwin import AutoencoderVidTwin

DOWNLOAD = "download"
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def check_inputs(config: TrainConfig, num_frames: int, size: int) -> None:
    """Refuse, before a model is built, what is not there at all.

    Args:
        config: of the run.
        num_frames, size: of a clip.

    Raises:
        UserError: if the data set is not there, or LPIPS is asked for without its weights.
    """
    if config.dataset != "shapes" and not config.root.exists():
        config.build("train", num_frames, size)  # its error says what is to be put where
    _require_lpips_weights(config)


def load_lpips(config: TrainConfig) -> nn.Module | None:
    """The LPIPS network that the config asks for, or None.

    Raises:
        UserError: if its weights are not installed and the config does not say where they are; or as `lpips_network`.
    """
    _require_lpips_weights(config)
    if not config.lpips_weight:
        return None
    if config.lpips_weights is None:
        return lpips_network(installed_vgg16())
    return lpips_network(load_vgg16() if config.lpips_weights == DOWNLOAD else config.lpips_weights)


def _require_lpips_weights(config: TrainConfig) -> None:
    if config.lpips_weight and config.lpips_weights is None and not INSTALLED.is_installed:
        raise UserError(
            f"lpips_weight={config.lpips_weight} needs the weights of VGG-16: {INSTALL}, give the path of "
            "torchvision's vgg16-397923af.pth as --lpips-weights, let torchvision get it by --lpips-weights "
            f"{DOWNLOAD}, or train without LPIPS by --lpips-weight 0"
        )


def make_environment() -> ClusterEnvironment:
    """Lightning's cluster environment: torchrun's variables, which `join_launched` sets for other launchers, or none.

    Lightning's own SLURM environment is not used: it takes a single process of an allocation for one of many, and
    requeues jobs by itself.
    """
    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment()


def train(
    config: TrainConfig,
    model: AutoencoderVidTwin,
    folder: RunFolder,
    callbacks: Sequence[Callback] = (),
    lpips: nn.Module | None = None,
) -> Trainer:
    """Train to `config.max_steps` and leave the model in `folder.model`.

    Args:
        config: the run's config.
        model: the autoencoder; its weights are those that the run starts from.
        folder: the run's folder; the newest checkpoint in it is loaded.
        callbacks: further callbacks of the trainer.
        lpips: what `load_lpips` returns.

    Returns:
        The trainer, whose `callback_metrics` hold the last validation.

    Raises:
        Stopped: if a signal asks to end; the last whole step is saved.
    """
    with ending_in_order(folder, "autoencoder.train") as signals:
        return _train(config, model, folder, callbacks, lpips, signals)


def _train(
    config: TrainConfig,
    model: AutoencoderVidTwin,
    folder: RunFolder,
    callbacks: Sequence[Callback],
    lpips: nn.Module | None,
    signals: StopSignals,
) -> Trainer:
    checkpoint, step = newest_whole_checkpoint(folder.checkpoints)
    data, module = _prepare(config, model, lpips)
    checkpoints = StepCheckpoint(folder, config)
    trainer = _make_trainer(
        config,
        folder,
        max_steps=config.max_steps,
        logger=open_loggers(config.logger, folder, step),
        callbacks=[checkpoints, StepProgress(config.max_steps), *callbacks, OrderlyStop(checkpoints, signals)],
    )
    if is_first_process():
        print(summary(describe_run(config, module, data, folder, step)), flush=True)
        log_run(Records(trainer.loggers), folder, config.device, step)
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    finally:
        if is_first_process():
            Records(trainer.loggers).close()
    if trainer.is_global_zero:
        with atomic_folder(folder.model) as temporary, module.ema_weights():
            model.save_pretrained(temporary)
    return trainer


def dry_run(config: TrainConfig, model: AutoencoderVidTwin, folder: RunFolder, lpips: nn.Module | None = None) -> None:
    """Take one step on one batch, and print the settings, the loss and the memory of a run; nothing is written.

    Args:
        config: the run's config.
        model: the autoencoder.
        folder: the run's folder; it is not created. If it holds a run, the step is that after its newest checkpoint.
        lpips: what `load_lpips` returns.
    """
    checkpoint, step = newest_whole_checkpoint(folder.checkpoints)
    data, module = _prepare(replace(config, log_every=1), model, lpips)
    trainer = _make_trainer(config, folder, max_steps=step + 1, logger=False, callbacks=[], limit_val_batches=0)
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    if trainer.is_global_zero:
        trained = [model, *([module.discriminator] if module.discriminator else [])]
        memory = step_memory(trained, trainer.optimizers, averages=int(module.ema is not None))
        terms = ", ".join(
            f"{tag.removeprefix('train/')} {value:.4g}"
            for tag, value in module.scalars.items()
            if tag.startswith("train/")
        )
        entries = describe_run(config, module, data, folder, step) | {"one step": terms, "memory": memory}
        print(summary(entries))
        print("dry run: nothing was written")


def _latent_noise(config: TrainConfig, model: AutoencoderVidTwin) -> LatentNoise:
    shapes = model.structure_shape, model.dynamics_shape
    return LatentNoise(config.seed, *shapes, config.latent_noise, config.interpolating_noise, config.batch_size)


def _prepare(
    config: TrainConfig, model: AutoencoderVidTwin, lpips: nn.Module | None
) -> tuple[ClipDataModule, VidTwinModule]:
    """The clips of a run, and its module."""
    data = ClipDataModule(
        config,
        model.config.num_frames,
        model.config.sample_size,
        config.batch_size,
        config.num_held_out,
        config.seed,
        _latent_noise(config, model),
        config.micro_batches(config.num_processes)[0],
        Exchange(config.exchange, config.seed, config.batch_size) if config.exchange.is_on else None,
        ViewChange(blur=0.0, **asdict(config.augmentation)) if config.augmentation.is_on else None,
    )
    # Where blocks are compiled, the last layer stays outside: the adaptive weight takes gradients there alone.
    set_up_model(model, config, config.device)
    return data, VidTwinModule(model, config, len(data.train), lpips)


def _make_trainer(config: TrainConfig, folder: RunFolder, **options) -> Trainer:
    """Lightning's trainer for a config; `options` are further arguments of it."""
    return Trainer(
        accelerator=config.accelerator,
        devices=config.num_devices,
        num_nodes=config.num_nodes,
        strategy="auto" if config.num_processes == 1 else SidesStrategy(),
        sync_batchnorm=config.accelerator != "cpu" and torch.cuda.is_available(),
        precision=PRECISIONS[resolve_precision(config.precision, config.device)],
        max_epochs=-1,
        val_check_interval=config.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        log_every_n_steps=config.log_every,
        plugins=[AtomicCheckpointIO(), make_environment()],
        default_root_dir=folder.path,
        **options,
    )

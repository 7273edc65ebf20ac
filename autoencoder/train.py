"""Train the autoencoder: python -m autoencoder.train --help."""

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from autoencoder.common import commands
from autoencoder.common.device import resolve_device
from autoencoder.common.errors import UserError
from autoencoder.common.files import atomic_folder, atomic_path
from autoencoder.common.launchers import is_first_process
from autoencoder.common.precision import describe_precision, resolve_precision, settle_precision
from autoencoder.common.run import LAST_AUTOENCODER, RunFolder, prepare, write_pointer
from autoencoder.metrics.lpips import lpips_network
from autoencoder.settings import AutoencoderSettings
from autoencoder.training.config import TrainConfig
from autoencoder.training.datamodule import ClipDataModule
from autoencoder.training.module import VidTwinModule
from autoencoder.vidtwin import AutoencoderVidTwin

RUNS = Path("outputs/autoencoder")
PRESET = "tiny"
DOWNLOAD = "download"
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints appear under their name only when they are whole and on disk; they load without unpickling code."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        """Write, then rename."""
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path, map_location="cpu", weights_only=True):
        """Read tensors and plain containers only."""
        return torch.load(path, map_location=map_location, weights_only=True)


class StepCheckpoint(Callback):
    """Saves every few steps and at the end, after the validation where a step has one, so that no record is lost."""

    def __init__(self, folder: RunFolder, config: TrainConfig):
        self.folder, self.config = folder, config

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Save a step without validation."""
        if trainer.global_step % self.config.validate_every and trainer.global_step != self.config.max_steps:
            self._save(trainer)

    def on_validation_end(self, trainer, pl_module) -> None:
        """Save a step with validation."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if step % self.config.checkpoint_every and step != self.config.max_steps:
            return
        if trainer.logger:
            trainer.logger.experiment.flush()
        trainer.save_checkpoint(self.folder.checkpoint_path(step), weights_only=False)
        if trainer.is_global_zero:
            self.folder.remove_old_checkpoints(self.config.keep_checkpoints)


class StepProgressBar(TQDMProgressBar):
    """One bar over the steps of the run."""

    def __init__(self, max_steps: int):
        super().__init__()
        self.max_steps = max_steps

    def on_train_start(self, trainer, pl_module) -> None:
        """A resumed run does not pass by the start of an epoch, where the bar gets its length."""
        super().on_train_start(trainer, pl_module)
        self.train_progress_bar.total = self.max_steps

    @property
    def total_train_batches(self) -> int:
        """All steps."""
        return self.max_steps

    def get_metrics(self, trainer, pl_module):
        """Without the version number."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


def parse(argv: Sequence[str] | None) -> tuple[TrainConfig, AutoencoderVidTwin, RunFolder, str]:
    """Config, model, folder, and the whole config as YAML."""
    parser = commands.make_parser(
        TrainConfig, __doc__, "autoencoder.train", stage="autoencoder", groups={"model": AutoencoderSettings}
    )
    folder, settings = prepare(parser, argv, RUNS, preset=lambda _: PRESET)
    device = "cpu" if settings.accelerator == "cpu" else resolve_device("auto")
    settings.precision = settle_precision(settings.precision, device, folder.config)
    text = parser.dump(settings)
    config = commands.build(TrainConfig, parser.instantiate(settings))
    torch.manual_seed(config.seed)  # the weights that the model starts from
    return config, AutoencoderVidTwin(**vars(settings.model)), folder, text


def load_lpips(config: TrainConfig) -> nn.Module | None:
    """The LPIPS network that the config asks for.

    Raises:
        ValueError: if it asks for LPIPS and does not say where the weights are.
    """
    if not config.lpips_weight:
        return None
    if config.lpips_weights is None:
        raise UserError(
            f"lpips_weight={config.lpips_weight} needs the weights of VGG-16: give the path of torchvision's "
            f"vgg16-397923af.pth as --lpips-weights, let torchvision get it by --lpips-weights {DOWNLOAD}, or train "
            "without LPIPS by --lpips-weight 0"
        )
    return lpips_network(None if config.lpips_weights == DOWNLOAD else config.lpips_weights)


def make_strategy(config: TrainConfig) -> str:
    """Lightning's strategy: with a GAN, each of the two backward passes leaves the weights of one side unused."""
    if config.num_processes == 1:
        return "auto"
    return "ddp_find_unused_parameters_true" if config.gan else "ddp"


def train(
    config: TrainConfig,
    model: AutoencoderVidTwin,
    folder: RunFolder,
    callbacks: Sequence[Callback] = (),
    lpips: nn.Module | None = None,
) -> Trainer:
    """Train to `config.max_steps` and leave the model in `folder.model`.

    Args:
        config: of the run.
        model: the autoencoder; its weights are those that the run starts from.
        folder: of the run; the newest checkpoint in it is loaded.
        callbacks: further callbacks of the trainer.
        lpips: what `load_lpips` returns.

    Returns:
        The trainer, whose `callback_metrics` hold the last validation.
    """
    checkpoint, step = folder.newest_checkpoint()
    data = ClipDataModule(
        config, model.config.num_frames, model.config.sample_size, config.batch_size, config.num_held_out, config.seed
    )
    if config.attention_backend:
        model.set_attention_backend(config.attention_backend)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if config.compile:
        # The last layer stays outside of compiled code: the adaptive weight takes gradients there alone.
        model.compile_repeated_blocks()
    module = VidTwinModule(model, config, len(data.train), lpips)
    trainer = Trainer(
        accelerator=config.accelerator,
        devices=config.num_devices,
        num_nodes=config.num_nodes,
        strategy=make_strategy(config),
        sync_batchnorm=config.accelerator != "cpu" and torch.cuda.is_available(),
        precision=PRECISIONS[resolve_precision(config.precision, config.device)],
        max_steps=config.max_steps,
        max_epochs=-1,
        val_check_interval=config.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=config.log_every,
        logger=TensorBoardLogger(folder.path, name="tensorboard", version="", purge_step=step + 1 if step else 0),
        plugins=[AtomicCheckpointIO()],
        callbacks=[
            StepCheckpoint(folder, config),
            StepProgressBar(config.max_steps),
            *callbacks,
        ],
        default_root_dir=folder.path,
    )
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    if trainer.is_global_zero:
        with atomic_folder(folder.model) as temporary, module.ema_weights():
            model.save_pretrained(temporary)
    return trainer


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    config, model, folder, text = parse(argv)
    lpips = load_lpips(config)
    if is_first_process():
        with atomic_path(folder.config) as temporary:
            temporary.write_text(text)
        print(describe_precision(config.precision, config.device))
    trainer = train(config, model, folder, lpips=lpips)
    if trainer.is_global_zero:
        write_pointer(LAST_AUTOENCODER, folder.model)
        print(f"the model is in {folder.model}, the curves are shown by: tensorboard --logdir {folder.tensorboard}")


if __name__ == "__main__":
    commands.run_command(main)

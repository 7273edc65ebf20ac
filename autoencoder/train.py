"""Train the autoencoder: python -m autoencoder.train --help."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from autoencoder.common import commands
from autoencoder.common.launchers import check_number, join_launched
from autoencoder.common.resuming import RETIRED, announce_resumed
from autoencoder.common.run import LAST_AUTOENCODER, RunFolder, prepare, write_pointer
from autoencoder.settings import AutoencoderSettings
from autoencoder.training.config import TrainConfig
from pipelines.folders import model_folder

if TYPE_CHECKING:
    from autoencoder.vidtwin import AutoencoderVidTwin

RUNS = Path("outputs/autoencoder")
PRESETS = {"sprites": "sprites"}  # by data set; its clips have fewer frames and more pixels than those of `tiny`


def parse(
    argv: Sequence[str] | None, needs_inputs: bool = False
) -> tuple[TrainConfig, "AutoencoderVidTwin", RunFolder, str]:
    """Config, model, folder, and the whole config as YAML.

    Args:
        argv: command-line arguments; None takes those of the process.
        needs_inputs: refuse missing data or LPIPS weights, before the model is built.
    """
    parser = commands.make_parser(
        TrainConfig,
        __doc__,
        "autoencoder.train",
        stage="autoencoder",
        groups={"model": AutoencoderSettings},
        passed_over=RETIRED,
    )
    vae = partial(model_folder, part="vae")
    folder, settings = prepare(parser, argv, RUNS, preset=lambda asked: PRESETS.get(asked.dataset, "tiny"), started=vae)

    from autoencoder.common.device import resolve_device
    from autoencoder.common.precision import settle_precision
    from autoencoder.training.fit import check_inputs

    device = "cpu" if settings.accelerator == "cpu" else resolve_device("auto")
    settings.precision = settle_precision(settings.precision, device, folder.config)
    text = parser.dump(settings, skip_unset=False)  # a null may stand where the default is a value
    config = commands.build(TrainConfig, parser.instantiate(settings))
    if config.resume:
        announce_resumed(folder, text, parser, TrainConfig.MAY_CHANGE)
    if needs_inputs:
        check_inputs(config, settings.model.num_frames, settings.model.sample_size)
    model = _build_model(config, settings.model, folder)
    if not config.dry_run:
        folder.claim()
    return config, model, folder, text


def _build_model(config: TrainConfig, settings: AutoencoderSettings, folder: RunFolder) -> "AutoencoderVidTwin":
    """The autoencoder with the weights that the run starts from; a checkpoint in `folder` takes their place later."""
    import torch

    from autoencoder.common.checkpoints import newest_whole_checkpoint
    from autoencoder.training.start import start_from
    from autoencoder.vidtwin import AutoencoderVidTwin

    torch.manual_seed(config.seed)
    model = AutoencoderVidTwin(**vars(settings))
    if config.init_from and not newest_whole_checkpoint(folder.checkpoints)[0]:
        start_from(model, model_folder(config.init_from, "vae"), config.init_missing)
    return model


def main(argv: Sequence[str] | None = None) -> None:
    """Train the autoencoder, from command-line arguments."""
    join_launched()
    config, model, folder, text = parse(argv, needs_inputs=True)
    check_number(config.num_devices, config.num_nodes)

    from autoencoder.common.records import describe_loggers
    from autoencoder.training.fit import dry_run, load_lpips, train

    lpips = load_lpips(config)
    if config.dry_run:
        return dry_run(config, model, folder, lpips)
    with folder.held(text, config.resume):
        trainer = train(config, model, folder, lpips=lpips)
    if trainer.is_global_zero:
        write_pointer(LAST_AUTOENCODER, folder.model)
        print(f"the model is in {folder.model}, the curves are {describe_loggers(config.logger, folder)}")


if __name__ == "__main__":
    commands.run_command(main)

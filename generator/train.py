"""Train the diffusion transformer on the latents of a data set: python -m generator.train --help.

The latents are encoded first, unless they are cached already. Start several processes by `accelerate launch -m
generator.train` or torchrun; configs/accelerate holds launch configs for several GPUs, several machines and FSDP2.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from autoencoder.common import commands
from autoencoder.common.launchers import join_launched
from autoencoder.common.resuming import RETIRED, announce_resumed
from autoencoder.common.run import RunFolder, prepare, write_pointer
from generator.config import TrainConfig
from generator.settings import TransformerSettings
from pipelines.folders import model_folder

RUNS = Path("outputs/generator")
POINTER = Path("outputs/last_pipeline")


def vae_beside(init_from: str | None) -> Path | None:
    """The autoencoder in the pipeline of the transformer that a run starts from; None where there is none."""
    vae = init_from and model_folder(init_from, "transformer").parent / "vae"
    return vae if vae and (vae / "config.json").is_file() else None


def parse(argv: Sequence[str] | None) -> tuple[TrainConfig, dict[str, Any], RunFolder, str]:
    """Read the command line: config, settings of the model by name, run folder, and all settings as YAML."""
    parser = commands.make_parser(
        TrainConfig,
        __doc__,
        "generator.train",
        stage="generator",
        groups={"model": TransformerSettings},
        passed_over=RETIRED,
    )
    transformer = partial(model_folder, part="transformer")
    folder, settings = prepare(parser, argv, RUNS, preset=lambda asked: asked.dataset, started=transformer)

    from autoencoder.common.device import resolve_device
    from autoencoder.common.precision import settle_precision
    from generator.latent_cache import autoencoder_folder

    # Noted in the config, so that a resumed run keeps its autoencoder when another one has been trained since.
    settings.autoencoder = str(autoencoder_folder(settings.autoencoder or vae_beside(settings.init_from)))
    settings.precision = settle_precision(settings.precision, resolve_device("auto"), folder.config)
    noted = settings.clone()
    noted.rebuild_cache = False  # nor is a cache rebuilt again by a run that is resumed
    text = parser.dump(noted, skip_unset=False)  # a null may stand where the default is a value
    config = commands.build(TrainConfig, parser.instantiate(settings))

    from generator.checkpoint import is_same_autoencoder

    check(config)
    if config.resume:
        same = {"autoencoder": partial(is_same_autoencoder, folder)}
        if config.lora_rank:  # the base may have been moved; the checkpoint knows whether it is the same one
            same["init_from"] = lambda saved, now: True
        announce_resumed(folder, text, parser, TrainConfig.MAY_CHANGE, same)
    if not config.dry_run:
        folder.claim()
    return config, vars(settings.model), folder, text


def check(config: TrainConfig) -> None:
    """Refuse what could not be trained or previewed, before hours of encoding.

    Raises:
        UserError: naming the setting.
    """
    from generator.fit import check_previews
    from generator.lora import check_peft
    from generator.start import check_target, check_times

    check_previews(config)
    if config.lora_rank:
        check_peft()
    if config.init_from is None or (config.resume and not config.lora_rank):
        return
    place = model_folder(config.init_from, "transformer")
    if config.lora_rank:
        check_times(place, config.objective)
    if not config.resume:
        check_target(place, config.objective.kind)


def main(argv: Sequence[str] | None = None) -> None:
    """Train the transformer, from command-line arguments."""
    join_launched()
    config, model_settings, folder, text = parse(argv)

    from autoencoder.common.records import describe_loggers
    from generator.fit import make_accelerator, train

    accelerator = make_accelerator(config)
    if config.dry_run:
        from generator.dry_run import dry_run

        return dry_run(config, model_settings, folder, accelerator)
    # All processes have parsed by now, so none takes the new folder for an older run.
    with folder.held(text, config.resume):
        train(config, model_settings, folder, accelerator=accelerator)
    if accelerator.is_main_process:
        write_pointer(POINTER, folder.pipeline)
        print(f"the pipeline is in {folder.pipeline}, the curves are {describe_loggers(config.logger, folder)}")
    accelerator.end_training()


if __name__ == "__main__":
    commands.run_command(main)

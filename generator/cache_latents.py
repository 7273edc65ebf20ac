"""Encode a data set once, for training on its latents: python -m generator.cache_latents --help.

Start several processes, on several GPUs or machines, by torchrun: torchrun --nproc-per-node 8 -m
generator.cache_latents. They share the work, and write the same bytes as a single process.
"""

from collections.abc import Sequence
from dataclasses import fields

from autoencoder.common import commands
from generator.config import CacheLatentsConfig, TrainConfig


def parse(argv: Sequence[str] | None) -> CacheLatentsConfig:
    """Read the command line; the defaults are those with which `generator.train` caches the same data set."""
    own = {field.name for field in fields(CacheLatentsConfig)}
    parser = commands.make_parser(
        CacheLatentsConfig,
        __doc__,
        "generator.cache_latents",
        stage="generator",
        passed_over={field.name for field in fields(TrainConfig)} - own | {"model"},
    )
    settings = parser.read(argv, base=lambda asked: commands.preset_path("generator", asked.dataset))
    return commands.build(CacheLatentsConfig, settings)


def main(argv: Sequence[str] | None = None) -> None:
    """Encode a data set, from command-line arguments."""
    config = parse(argv)

    from autoencoder.checkpoint import fingerprint, load_autoencoder
    from autoencoder.common.processes import process_group
    from generator.latent_cache import autoencoder_folder, build_cache

    folder = autoencoder_folder(config.autoencoder)
    with process_group() as (rank, _):
        model = load_autoencoder(folder, config.device)
        folder = config.output_dir or config.cache_folder(fingerprint(model))
        cache = build_cache(model, config, folder, progress=rank == 0, rebuild=config.rebuild_cache)
    if rank == 0:
        print(
            f"{len(cache)} clips of {len(cache.class_names)} classes are in {folder}; "
            f"{len(cache.unreadable)} files could not be read"
        )


if __name__ == "__main__":
    commands.run_command(main)

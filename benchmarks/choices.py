"""The choices of stage two, trained for equal steps on moving shapes: `python -m benchmarks.choices`.

Every variant changes one value of the first one's config. It is trained with each of the seeds by `python -m
generator.train` on the same latents; the shares of samples whose class the oracle confirms are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands
from benchmarks.settings import (
    check_counts,
    chosen_variants,
)

DEFAULT = "default"
# Flags of `generator.train` by variant.
CHOICES: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    "flow": ("--objective.kind", "flow"),
    "v_prediction": ("--objective.kind", "v_prediction"),
    "epsilon": ("--objective.kind", "epsilon"),
    "min_snr": ("--objective.min-snr-gamma", "5"),
    "shared_times": ("--objective.independent-times", "false"),
    "independent_times": ("--objective.independent-times", "true"),
    "cross_attention": ("--model.conditioning", "cross_attention"),
    "layer_norm": ("--model.norm", "layer_norm"),
    "gelu": ("--model.feed-forward", "gelu"),
    "no_qk_norm": ("--model.qk-norm", "none"),
    "sincos": ("--model.positions", "sincos"),
    "rotary": ("--model.positions", "rotary"),
}


@dataclass
class ChoicesConfig:
    """What to train, sample and compare."""

    autoencoder: str | None = None
    """Folder of the autoencoder; by default the one that `python -m autoencoder.train` left last."""
    preset: str = "shapes"
    """Preset, or YAML file, of the first variant."""
    max_steps: int = 600
    """Optimiser steps of every run."""
    max_videos: int = 10_000
    """Clips to train on."""
    seeds: int = 3
    """Runs of every variant, with the seeds 0, 1, 2, ..."""
    variants: str = ",".join(CHOICES)
    """Variants to train, separated by commas; the first is what the others are compared with."""
    videos_per_class: int = 20
    """Samples of every class and run."""
    num_inference_steps: int = 25
    """Scheduler steps of a sample."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance."""
    output_dir: Path = Path("outputs/choices")
    """Folder of the runs, their latents and choices.json; the runs of an earlier comparison are replaced."""

    def __post_init__(self):
        counts = ("max_steps", "max_videos", "seeds", "videos_per_class", "num_inference_steps")
        check_counts(**{name: getattr(self, name) for name in counts})
        self.names = chosen_variants(self.variants, list(CHOICES))


def main(argv: Sequence[str] | None = None) -> None:
    """Train and compare the variants, from command-line arguments."""
    parser = commands.make_parser(ChoicesConfig, __doc__, "benchmarks.choices")
    config = commands.build(ChoicesConfig, parser.read(argv))

    from benchmarks.work.choices import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

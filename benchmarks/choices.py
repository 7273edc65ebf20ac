"""The choices of stage two, trained for equal steps on moving shapes: `python -m benchmarks.choices`.

Every variant changes one value of the preset, or several joined by "+". It is trained with each of the seeds by `python
-m generator.train` on the same latents; the shares of samples whose class the oracle confirms are compared, and the
seconds that the training took. Several calls with one --output-dir, each with a variant of its own, can run side by
side; a last call with all variants then finds their runs there and prints the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import check_least
from benchmarks.settings import chosen_variants

DEFAULT = "default"
# Flags of `generator.train` by variant.
CHOICES: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    "flow": ("--objective.kind", "flow"),
    "flow_sample": ("--objective.kind", "flow_sample"),
    "v_prediction": ("--objective.kind", "v_prediction"),
    "epsilon": ("--objective.kind", "epsilon"),
    "min_snr": ("--objective.min-snr-gamma", "5"),
    "noisy_times": ("--objective.logit-mean", "0.8"),
    "contrastive": ("--objective.contrastive-weight", "0.05"),
    "joint_share": ("--objective.joint-share", "0.75"),
    "shared_times": ("--objective.independent-times", "false"),
    "independent_times": ("--objective.independent-times", "true"),
    "cross_attention": ("--model.conditioning", "cross_attention"),
    "layer_norm": ("--model.norm", "layer_norm"),
    "gelu": ("--model.feed-forward", "gelu"),
    "no_qk_norm": ("--model.qk-norm", "none"),
    "sincos": ("--model.positions", "sincos"),
    "rotary": ("--model.positions", "rotary"),
}
# The kinds of a flow alone draw times by `noisy_times`.
DEFAULT_VARIANTS = ("flow_sample+noisy_times" if name == "noisy_times" else name for name in CHOICES)


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
    variants: str = ",".join(DEFAULT_VARIANTS)
    """Variants to train, separated by commas; the first is what the others are compared with. "a+b" changes the values
    of both."""
    videos_per_class: int = 20
    """Samples of every class and run."""
    num_inference_steps: int = 25
    """Scheduler steps of a sample."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance."""
    output_dir: Path = Path("outputs/choices")
    """Folder of the runs, their latents and choices.json. A run that is there and was made with the same settings from
    the same autoencoder is taken over; others are replaced."""

    def __post_init__(self):
        counts = ("max_steps", "max_videos", "seeds", "videos_per_class", "num_inference_steps")
        check_least(self, 1, *counts)
        chosen_variants(self.variants.replace("+", ","), list(CHOICES))
        self.names = self.variants.split(",")


def main(argv: Sequence[str] | None = None) -> None:
    """Train and compare the variants, from command-line arguments."""
    parser = commands.make_parser(ChoicesConfig, __doc__, "benchmarks.choices")
    config = commands.build(ChoicesConfig, parser.read(argv))

    from benchmarks.work.choices import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

"""The paper's ablations of the autoencoder, trained for equal steps on the same data: `python -m benchmarks.ablations`.

Every variant is trained with each of the seeds by `python -m autoencoder.train`; the last validations are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import check_least
from benchmarks.settings import chosen_variants

FULL, ONE_LATENT = "full", "one_latent"
# The paper's PSNR in dB and SSIM, taken at one early step of its own training.
PAPER = {
    FULL: (26.116, 0.731),
    ONE_LATENT: (23.512, 0.654),
    "dynamics_qformer": (24.835, 0.693),
    "convolution": (25.386, 0.702),
    "space_in_hidden": (23.169, 0.630),
}


@dataclass
class AblationConfig:
    """What to train and compare."""

    preset: str = "tiny"
    """Preset of the full model and its training."""
    max_steps: int = 600
    """Optimiser steps of every run."""
    seeds: int = 3
    """Runs of every variant, with the seeds 0, 1, 2, ..."""
    variants: str = ",".join(PAPER)
    """Variants to train, separated by commas; the first is what the others are compared with."""
    dataset: str | None = None
    """Data set; by default the preset's."""
    data_root: str | None = None
    """Folder of the data."""
    output_dir: Path = Path("outputs/ablations")
    """Folder of the runs and of ablations.json; the runs of an earlier comparison are replaced."""

    def __post_init__(self):
        check_least(self, 1, "seeds", "max_steps")
        self.names = chosen_variants(self.variants, list(PAPER))


def main(argv: Sequence[str] | None = None) -> None:
    """Train and compare the variants, from command-line arguments."""
    parser = commands.make_parser(AblationConfig, __doc__, "benchmarks.ablations")
    config = commands.build(AblationConfig, parser.read(argv))

    from benchmarks.work.ablations import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

"""Train the judge of sprites: `python -m benchmarks.sprites_judge --data-root sprites.npz --out DIR`.

It learns action and attributes on the training clips, blurred and noisy to all degrees as decoded clips are, in a few
minutes of a processor core; then its accuracy on the held-out clips is printed and saved with its weights. `python -m
benchmarks.separation --dataset sprites --judge DIR` lets it tell what decoded clips show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import ExistingFileError, UserError, check_least


@dataclass
class JudgeConfig:
    """What to train on, and how."""

    data_root: str
    """The file of the sprites, or the folder of their sheets."""
    out: Path
    """New folder for the judge."""
    epochs: int = 6
    """Passes over the training clips."""
    batch_size: int = 32
    """Clips of a step."""
    learning_rate: float = 5e-3
    """Highest learning rate of AdamW; it rises and falls in one cycle."""
    width: int = 16
    """Channels of the first convolution."""
    seed: int = 0
    """What initial weights and the order of the clips depend on."""
    device: str = "auto"
    """Where to train; "auto" takes CUDA where there is one."""

    def __post_init__(self):
        check_least(self, 1, "epochs", "batch_size", "width")
        if not self.learning_rate > 0:
            raise UserError(f"learning_rate must be positive, got {self.learning_rate}")


def main(argv: Sequence[str] | None = None) -> None:
    """Train and measure the judge, from command-line arguments."""
    parser = commands.make_parser(JudgeConfig, __doc__, "benchmarks.sprites_judge")
    config = commands.build(JudgeConfig, parser.read(argv))
    if config.out.exists():
        raise ExistingFileError(f"{config.out} exists already: give the name of a new folder")

    from benchmarks.work.sprites_judge import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

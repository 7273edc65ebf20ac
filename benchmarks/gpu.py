"""Tests and speed on a GPU, in under ten minutes: python -m benchmarks.gpu.

It runs the tests that need a GPU, then times training steps of both stages, encoding, decoding and sampling at the
paper's size, eager and compiled, with random weights. Peak memory is shown beside what `benchmarks.memory` counts, the
FLOP rate as a share of the card's peak (MFU). A part that fails or takes too long is recorded with its error, and the
next one begins. `--quick` takes the tiny models, which a CPU can run, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import UserError


@dataclass
class GpuConfig:
    """What to run, and for how long."""

    device: str = "auto"
    """Where to run, such as "cuda:1"; "auto" takes CUDA where there is one."""
    quick: bool = False
    """Take the tiny models and one round, to try the command itself; a CPU runs nothing else."""
    minutes: float = 10.0
    """Time for everything, in minutes; a part that would begin later is left out."""
    part_seconds: float = 75.0
    """Time for each part in seconds, compilation included."""
    tests: bool = True
    """Run the tests that need a GPU, too."""
    output_dir: Path = Path("benchmarks/results")
    """Folder of gpu_<card>.json and gpu_<card>.md."""

    def __post_init__(self):
        if self.minutes <= 0 or self.part_seconds <= 0:
            raise UserError(f"minutes and part_seconds must be positive, got {self.minutes} and {self.part_seconds}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, from command-line arguments."""
    parser = commands.make_parser(GpuConfig, __doc__, "benchmarks.gpu")
    config = commands.build(GpuConfig, parser.read(argv))

    from benchmarks.work.gpu import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

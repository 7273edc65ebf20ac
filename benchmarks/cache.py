"""Does memory grow with the latent cache, and how fast are random clips? python -m benchmarks.cache --help.

Writes a small and a large cache of noise, in the shape of the paper's headline setting, into a temporary folder, and
reads random clips of each in a process of its own.

Then batches of stage two are made from the small one by 0, 1 and 2 workers, and samples per second and the training
process's own time per batch are printed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import check_least


@dataclass
class CacheBenchmarkConfig:
    """What to write and read. The defaults take 0.5 GB of disk while it runs."""

    clips: int = 256
    """Clips of the small cache."""
    factor: int = 100
    """Clips of the large cache, as a multiple of `clips`."""
    shard_size: int = 256
    """Clips of a shard."""
    batch_size: int = 64
    """Clips read at a time, as in a training step."""
    batches: int = 300
    """Batches read of each cache, after one that warms up."""
    folder: Path | None = None
    """Where to make the temporary folder; null takes the system's."""
    output: str = "outputs/benchmarks/cache.json"
    """JSON file to write."""

    def __post_init__(self):
        counts = ("clips", "factor", "shard_size", "batch_size", "batches")
        check_least(self, 1, *counts)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, from command-line arguments."""
    parser = commands.make_parser(CacheBenchmarkConfig, __doc__, "benchmarks.cache")
    config = commands.build(CacheBenchmarkConfig, parser.read(argv))

    from benchmarks.work.cache import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

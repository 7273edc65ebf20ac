"""Speed of the autoencoder beside its own matrix products: python -m benchmarks.autoencoder --help."""

from collections.abc import Sequence

from autoencoder.common import commands
from benchmarks.settings import BenchmarkConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, from command-line arguments."""
    parser = commands.make_parser(BenchmarkConfig, __doc__, "benchmarks.autoencoder")
    config = commands.build(BenchmarkConfig, parser.read(argv))

    from benchmarks.suite import run
    from benchmarks.work.autoencoder import STAGE

    run(STAGE, config)


if __name__ == "__main__":
    commands.run_command(main)

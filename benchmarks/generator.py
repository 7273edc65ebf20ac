"""Speed of the diffusion transformer beside its own matrix products: python -m benchmarks.generator --help."""

from collections.abc import Sequence

from autoencoder.common import commands
from benchmarks.settings import BenchmarkConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, from command-line arguments."""
    parser = commands.make_parser(BenchmarkConfig, __doc__, "benchmarks.generator")
    config = commands.build(BenchmarkConfig, parser.read(argv))

    from benchmarks.suite import run
    from benchmarks.work.generator import STAGE

    run(STAGE, config)


if __name__ == "__main__":
    commands.run_command(main)

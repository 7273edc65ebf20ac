"""Samples confirmed by the oracle against solver steps: `python -m benchmarks.solvers --pipelines DIR[,DIR]`.

Each pipeline of moving shapes is sampled with the schedulers that fit its prediction type, all from the same noise.
Solvers of second order call the network twice a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import UserError
from benchmarks.settings import check_counts


@dataclass
class SolversConfig:
    """What to sample."""

    pipelines: str
    """Pipelines of moving shapes, separated by commas: folders, as pipeline/ of runs of `python -m generator.train`, or
    names of shipped ones, such as shapes."""
    steps: str = "5,8,10,20,25,50"
    """Numbers of scheduler steps, separated by commas."""
    videos_per_class: int = 10
    """Samples of every class."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance."""
    output_dir: Path = Path("outputs/benchmarks")
    """Folder for solvers.json and solvers.png."""

    def __post_init__(self):
        if not all(number.strip().isdecimal() for number in self.steps.split(",")):
            raise UserError(f"steps must be whole numbers, separated by commas, got {self.steps!r}")
        check_counts(videos_per_class=self.videos_per_class, **{f"steps {n}": n for n in self.numbers})

    @property
    def numbers(self) -> list[int]:
        """The numbers of steps, as a list."""
        return [int(number) for number in self.steps.split(",")]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, from command-line arguments."""
    parser = commands.make_parser(SolversConfig, __doc__, "benchmarks.solvers")
    config = commands.build(SolversConfig, parser.read(argv))

    from benchmarks.work.solvers import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

"""Speed of the clip loader beside decord's own decoding of the same frames: python -m benchmarks.data --help."""

from collections.abc import Sequence
from dataclasses import dataclass

from autoencoder.common import commands
from autoencoder.common.errors import UserError, check_least

SAMPLINGS = ("time", "stride")


@dataclass
class DataBenchmarkConfig:
    """What to read, and how often."""

    videos: str
    """Folder, or .csv manifest, of the videos."""
    num_frames: int = 16
    """Frames of a clip."""
    size: int = 224
    """Height and width of a clip, in pixels."""
    sample_fps: float = 8.0
    """Frames per second of a clip."""
    sampling: str = ",".join(SAMPLINGS)
    """Ways to choose frames, separated by commas: time, stride."""
    rounds: int = 15
    """Clips per file and sampling, after a warm-up, each with its own start and crop; medians are reported."""
    output: str = "outputs/benchmarks/data.json"
    """JSON file to write."""

    def __post_init__(self):
        for sampling in self.samplings:
            if sampling not in SAMPLINGS:
                raise UserError(f"sampling must be of {', '.join(SAMPLINGS)}, got {sampling!r}")
        check_least(self, 1, "rounds", "num_frames", "size")
        if not self.sample_fps > 0:
            raise UserError(f"sample_fps must be positive, got {self.sample_fps}")

    @property
    def samplings(self) -> list[str]:
        """The ways to choose frames, as a list."""
        return self.sampling.split(",")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, from command-line arguments."""
    parser = commands.make_parser(DataBenchmarkConfig, __doc__, "benchmarks.data")
    config = commands.build(DataBenchmarkConfig, parser.read(argv))

    from benchmarks.work.data import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

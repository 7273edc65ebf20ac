"""Is there a jump where clips are joined? python -m benchmarks.joins video.mp4 ... --checkpoint DIR

For every overlap: the mean difference of neighbouring frames of the reconstruction where two clips meet, divided by
that inside clips; 1 is no jump. An overlap of n frames has n + 1 transitions at each border: from the last frame that
only one clip holds to the first that only the next one holds. The same ratio of the original shows what is due to the
video itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands


@dataclass
class JoinsConfig:
    """What to measure."""

    checkpoint: Path
    """Folder of the autoencoder."""
    overlaps: list[int] | None = None
    """Overlaps in frames; null takes 0 and the default of reconstruction."""
    json: Path = Path("outputs/benchmarks/joins.json")
    """JSON file to write."""
    device: str = "auto"
    """Where to run; "auto" takes CUDA where there is one."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the joins of videos, from command-line arguments."""
    parser = commands.make_parser(JoinsConfig, __doc__, "benchmarks.joins")
    parser.add_argument("videos", nargs="+", type=Path, help="video files longer than a clip")
    settings = parser.read(argv)
    config = commands.build(JoinsConfig, settings)

    from benchmarks.work.joins import execute

    execute(config, settings.videos)


if __name__ == "__main__":
    commands.run_command(main)

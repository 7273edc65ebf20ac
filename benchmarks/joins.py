"""Is there a jump where clips are joined? python -m benchmarks.joins video.mp4 ... --checkpoint DIR

For every overlap: how much neighbouring frames of the reconstruction differ where two clips meet, over how much they
differ inside clips; 1 is no jump. The transitions at a border are those from the last frame of one clip alone to the
first of the next alone, so an overlap of n frames has n + 1. The same ratio of the original, at the same places, says
what is due to the video itself.
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
    """Overlaps in frames; null is 0 and the default of reconstruction."""
    json: Path = Path("outputs/benchmarks/joins.json")
    """Where to write the table."""
    device: str = "auto"
    """Where to run; "auto" takes CUDA where there is one."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = commands.make_parser(JoinsConfig, __doc__, "benchmarks.joins")
    parser.add_argument("videos", nargs="+", type=Path, help="video files longer than a clip")
    settings = parser.read(argv)
    config = commands.build(JoinsConfig, settings)

    from benchmarks.work.joins import execute

    execute(config, settings.videos)


if __name__ == "__main__":
    commands.run_command(main)

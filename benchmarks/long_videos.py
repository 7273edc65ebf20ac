"""Do videos longer than a clip hold together? python -m benchmarks.long_videos --pipeline DIR

Samples long videos of a pipeline of moving shapes, with the structure kept or drawn again and for several overlaps, and
lets the oracle judge them: class, content from clip to clip, and what happens where clips join. Beside them stand real
swings of that length, the same through the autoencoder, and clips that share a structure but are not chained. A first
table says whether dynamics latents can be moved from the end of a clip to the start of the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import UserError, check_least


@dataclass
class LongVideosConfig:
    """What to sample and to judge."""

    pipeline: str
    """Folder of a pipeline of moving shapes, or the name of a shipped one."""
    num_frames: int = 64
    """Frames of a video, some whole clips of the pipeline."""
    overlaps: list[int] = field(default_factory=lambda: [4, 8, 12])
    """Frames that a clip goes on from."""
    strengths: list[float] = field(default_factory=lambda: [0.2, 0.4])
    """Shares of the steps in which a structure is drawn again, with the overlap in the middle of the list."""
    videos_per_class: int = 10
    """Videos of every class."""
    num_inference_steps: int = 50
    """Steps of the scheduler."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance."""
    json: Path = Path("outputs/benchmarks/long_videos.json")
    """JSON file to write."""
    sheet: Path | None = None
    """PNG file to write with some of the videos, those with a fault first; null writes none."""
    device: str = "auto"
    """Where to run, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""

    def __post_init__(self):
        names = ("num_frames", "videos_per_class", "num_inference_steps")
        check_least(self, 1, *names)
        if not self.overlaps:
            raise UserError("overlaps is an empty list: give one or more, such as [4, 8]")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, from command-line arguments."""
    parser = commands.make_parser(LongVideosConfig, __doc__, "benchmarks.long_videos")
    config = commands.build(LongVideosConfig, parser.read(argv))

    from benchmarks.work.long_videos import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

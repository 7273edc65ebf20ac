"""What is left of people: `python -m benchmarks.people --checkpoint DIR --pipeline DIR --data-root DIR ...`

For labelled videos of which it is known who is seen (`--content-pattern`), some of these people held out: how well an
autoencoder reconstructs the latter, by PSNR, SSIM, LPIPS and rFVD, in full and from each latent alone, beside the
frozen mean frame; whose action and whose look is seen where one person's structure meets another's dynamics; and what a
pipeline samples, alone and for the structure of a given person. Actions are judged by the nearest class mean of I3D's
logits, looks by that of colour histograms; first of all it is measured how right the judges are, on people left out.
Prints tables in Markdown, and writes JSON and a sheet, faults first.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import UserError
from benchmarks.settings import check_counts


@dataclass
class PeopleConfig:
    """What to measure."""

    checkpoints: list[str] = field(default_factory=list)
    """Folder of an autoencoder, given as `--checkpoint DIR` or `--checkpoint NAME=DIR`, as often as there are; only of
    the first one latents are exchanged."""
    pipeline: Path | None = None
    """Folder of a pipeline, whose autoencoder should be the first; null measures no samples."""
    data_root: str | None = None
    """Folder of the videos, or .csv manifest, as for training."""
    content_pattern: str | None = None
    """Who is seen, as for training; null takes the manifest's column `content`."""
    held_out_contents: list[str] | None = None
    """Who is held out, as for training."""
    person_pattern: str = r"person\d+"
    """Regular expression that finds the person in a video's path: all of the match, or its first group if it has one.
    One person may have several looks, as contents."""
    sample_fps: float = 12.5
    """Frames per second of a clip, as for training."""
    clips_per_video: int = 6
    """Clips of each video, from random starts."""
    pairs: int = 48
    """Pairs of clips of two people and two actions that exchange their latents, of training and of held-out people."""
    seeds: int = 3
    """Sets of samples, each as many as there are training clips."""
    num_inference_steps: int = 50
    """Steps of the scheduler."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance."""
    batch_size: int = 16
    """Clips that go through the models at a time."""
    output: Path = Path("outputs/benchmarks/people.json")
    """JSON file to write."""
    sheet: Path | None = None
    """PNG file to write; null writes none."""
    device: str = "auto"
    """Where to run, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""

    def __post_init__(self):
        names = ("clips_per_video", "pairs", "seeds", "num_inference_steps", "batch_size")
        check_counts(**{name: getattr(self, name) for name in names})
        try:
            re.compile(self.person_pattern)
        except re.error as error:
            raise UserError(f"person_pattern={self.person_pattern!r} is no regular expression: {error}") from error


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, from command-line arguments."""
    parser = commands.make_parser(PeopleConfig, __doc__, "benchmarks.people", repeated={"checkpoint": "checkpoints"})
    config = commands.build(PeopleConfig, parser.read(argv))

    from benchmarks.work.people import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

"""Does an autoencoder's own evaluation tell how well its latents can be generated? `python -m benchmarks.worth`

On moving shapes, every autoencoder given is evaluated by `python -m autoencoder.evaluate --videos shapes`, with videos
of interpolated latents; then the same DiT is trained on its latents for equal steps and sampled. The table sets both
side by side, with the correlation over the autoencoders of each figure and of the samples' (arXiv 2608.13556,
2603.05630).
Prints Markdown and writes JSON; what is already in the output folder is taken over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import UserError, check_least


@dataclass
class WorthConfig:
    """What to evaluate, train and compare."""

    checkpoints: list[str] = field(default_factory=list)
    """Folder of an autoencoder of moving shapes, given as `--checkpoint NAME=DIR`, three or more."""
    num_shapes: int = 100
    """Held-out moving shapes to evaluate on, two clips of each."""
    preset: str = "shapes_long"
    """Preset, or YAML file, of stage two."""
    max_steps: int = 700
    """Steps of stage two."""
    max_videos: int = 2500
    """Clips to train it on."""
    seeds: int = 1
    """Trainings of stage two on each autoencoder's latents."""
    num_samples: int = 200
    """Samples of each training, whose FVD is measured and which the oracle judges."""
    num_inference_steps: int = 25
    """Steps of the scheduler."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance."""
    output_dir: Path = Path("outputs/worth")
    """Folder of the evaluations, the trainings and worth.json."""

    def __post_init__(self):
        counts = ("num_shapes", "max_steps", "max_videos", "seeds", "num_samples", "num_inference_steps")
        check_least(self, 1, *counts)
        names = [text.partition("=")[0] for text in self.checkpoints]
        if len(set(names)) < 3 or len(set(names)) < len(names) or not all("=" in text for text in self.checkpoints):
            raise UserError(
                f"a correlation takes three autoencoders of different names, as --checkpoint NAME=DIR, got {names}"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, from command-line arguments."""
    parser = commands.make_parser(WorthConfig, __doc__, "benchmarks.worth", repeated={"checkpoint": "checkpoints"})
    config = commands.build(WorthConfig, parser.read(argv))

    from benchmarks.work.worth import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

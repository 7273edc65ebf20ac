"""Does a pipeline learn a sixth shape from few clips by LoRA, and keep the five? `python -m benchmarks.sixth_shape`

Trains LoRA on the shipped pipeline of moving shapes with clips of diamonds, which it has never seen, and lets the
oracle, which then tells six shapes apart, judge samples of all classes before and after. Prints a table in Markdown and
writes JSON.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import UserError, check_least


@dataclass
class SixthShapeConfig:
    """What to train and to judge."""

    pipeline: str = "shapes"
    """Folder of a pipeline of moving shapes, or the name of a shipped one."""
    preset: str = "shapes_lora"
    """Preset, or YAML file, of the training."""
    num_clips: int = 40
    """Clips of diamonds to train on."""
    without_replay: bool = True
    """Train a second time without samples of the pipeline's own beside the clips."""
    seeds: int = 1
    """Trainings of each kind, on the same clips."""
    max_steps: int | None = None
    """Steps of a training; those of the preset by default."""
    samples_per_class: int = 50
    """Samples of every class, of each pipeline."""
    held_out_clips: int = 600
    """Held-out clips of all twelve classes, which are judged as they are and reconstructed."""
    num_inference_steps: int = 50
    """Steps of the scheduler."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance."""
    output_dir: Path = Path("outputs/sixth_shape")
    """Folder of the trainings and sixth_shape.json; a training that is there is taken over."""
    sheet: Path | None = None
    """PNG file to write with samples of the first training; null writes none."""
    device: str = "auto"
    """Where to sample, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""

    def __post_init__(self):
        names = ("num_clips", "seeds", "samples_per_class", "held_out_clips", "num_inference_steps")
        check_least(self, 1, *names)
        if self.held_out_clips not in range(12, 1001):
            raise UserError(f"held_out_clips must be 12 to 1000, got {self.held_out_clips}")
        if self.num_clips < 2:
            raise UserError(f"num_clips must be at least 2, for there are two new classes, got {self.num_clips}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, from command-line arguments."""
    parser = commands.make_parser(SixthShapeConfig, __doc__, "benchmarks.sixth_shape")
    config = commands.build(SixthShapeConfig, parser.read(argv))

    from benchmarks.work.sixth_shape import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

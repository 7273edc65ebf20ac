"""Both stages on moving shapes, from training to samples: `python -m pipelines.demo`.

Runs the training commands of the README at a small size, samples every class, measures reconstructions and samples,
and writes videos, a sheet of frames, curves and a summary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common.commands import build, make_parser, run_command
from autoencoder.common.errors import UserError
from autoencoder.common.locks import locked_folder


@dataclass
class DemoConfig:
    """Settings of the demo."""

    output_dir: Path = Path("outputs/demo")
    """Folder of the demo; the results of an earlier demo there are replaced."""
    quick: bool = False
    """Run everything in about a minute, with models that have learnt next to nothing."""
    num_inference_steps: int = 50
    """Scheduler steps of a sample."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance."""
    device: str = "auto"
    """Where to sample and measure, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one. The trainings
    always choose by themselves."""

    def __post_init__(self):
        if self.num_inference_steps < 1:
            raise UserError(f"num_inference_steps must be at least 1, got {self.num_inference_steps}")

    @property
    def videos_per_class(self) -> int:
        """Samples of every class."""
        return 1 if self.quick else 10

    @property
    def num_held_out(self) -> int:
        """Held-out clips to measure the autoencoder on."""
        return 20 if self.quick else 200

    @property
    def num_recombined(self) -> int:
        """Held-out clips whose structure or dynamics is given."""
        return 10 if self.quick else 100


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo, from command-line arguments."""
    parser = make_parser(DemoConfig, __doc__, "pipelines.demo")
    config = build(DemoConfig, parser.read(argv))

    from pipelines.demonstration import execute

    with locked_folder(config.output_dir):
        execute(config)


if __name__ == "__main__":
    run_command(main)

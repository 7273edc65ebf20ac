"""The whole way, small: `python -m pipelines.demo`.

Runs the commands of the README on moving shapes (autoencoder, latents and transformer, samples), then measures what
came out of them and writes videos, a sheet of frames, curves and a summary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common.commands import build, make_parser, run_command
from autoencoder.common.errors import UserError
from autoencoder.common.locks import locked_folder


@dataclass
class DemoConfig:
    """The demo."""

    output_dir: Path = Path("outputs/demo")
    """Folder of the demo; what an earlier demo left there is replaced."""
    quick: bool = False
    """The same way in about a minute, with models that have learnt next to nothing."""
    num_inference_steps: int = 50
    """Scheduler steps of a sample."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance."""
    device: str = "auto"
    """Where to sample and measure, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one. The trainings take
    what they find."""

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
    """The command."""
    parser = make_parser(DemoConfig, __doc__, "pipelines.demo")
    config = build(DemoConfig, parser.read(argv))

    from pipelines.demonstration import execute

    with locked_folder(config.output_dir):
        execute(config)


if __name__ == "__main__":
    run_command(main)

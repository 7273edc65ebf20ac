"""What can be had on moving shapes, at once and in twelve minutes: `python -m pipelines.demo`.

First, from the pipeline that is installed with the package: samples of all classes, exchanges of latents and control by
either latent, as a sheet of frames and as moving pictures. Then the same from scratch, by the training commands of the
README. A table sets both beside the goals.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common.commands import build, make_parser, run_command
from autoencoder.common.errors import UserError, check_least
from autoencoder.common.locks import locked_folder


@dataclass
class DemoConfig:
    """Settings of the demo."""

    output_dir: Path = Path("outputs/demo")
    """Folder of the demo; the results of an earlier demo there are replaced."""
    pipeline: Path | None = Path("shapes")
    """Pipeline that is shown first: a folder, or else, where no folder of that name exists, the name of a shipped one;
    null shows none."""
    train: bool = True
    """Train both stages from scratch, too; false ends after the first pipeline."""
    quick: bool = False
    """Run everything in about a minute, with trained models that have learnt next to nothing."""
    num_inference_steps: int = 50
    """Scheduler steps of a sample."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance."""
    device: str = "auto"
    """Where to sample and measure, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one. The trainings
    always choose by themselves."""

    def __post_init__(self):
        check_least(self, 1, "num_inference_steps")
        if self.pipeline is None and not self.train:
            raise UserError("nothing to show: leave --train true, or name a --pipeline")

    @property
    def counts(self) -> dict[str, int]:
        """How much is measured, as in `pipelines.goals.GoalSettings`; nothing keeps its defaults."""
        return {"samples_per_class": 1, "exchanged_pairs": 10, "held_out_clips": 20} if self.quick else {}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo, from command-line arguments."""
    started = time.perf_counter()
    parser = make_parser(DemoConfig, __doc__, "pipelines.demo")
    config = build(DemoConfig, parser.read(argv))

    from pipelines.demonstration import execute

    with locked_folder(config.output_dir):
        execute(config, started)


if __name__ == "__main__":
    run_command(main)

"""Make a trained pipeline a shipped one: `python -m pipelines.ship --autoencoder RUN --generator RUN`.

The folder holds what the second run saved, the settings of both runs, and a model card that says how the two were
trained, on which machine, for how long, and what the pipeline reaches. All of it is read from the runs or measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common.commands import build, make_parser, run_command


@dataclass
class ShipConfig:
    """What to ship, and where."""

    autoencoder: Path
    """Folder of a run of `python -m autoencoder.train` that has ended; or a shipped pipeline, or its name, whose
    autoencoder is taken over with what is known of its training."""
    generator: Path
    """Folder of the run of `python -m generator.train` on its latents, which has ended, too."""
    out: Path = Path("pipelines/shipped/shapes")
    """Folder to make, of at most 8 MB; a pipeline that lies there is replaced. In pipelines/shipped its name is one for
    --pipeline."""
    measure: bool = True
    """Measure how well latents separate and samples show their class, for the model card, in about a minute."""
    num_inference_steps: int = 50
    """Steps of the scheduler for what is measured."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance for what is measured."""
    device: str = "auto"
    """Where to measure, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the folder, from command-line arguments."""
    parser = make_parser(ShipConfig, __doc__, "pipelines.ship")
    config = build(ShipConfig, parser.read(argv))

    from pipelines.shipping import execute

    execute(config)


if __name__ == "__main__":
    run_command(main)

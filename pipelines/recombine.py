"""Measure samples with one latent given, on moving shapes: `python -m pipelines.recombine --pipeline DIR`.

Prints a table of shares that the oracle confirms, and writes it with a sheet of frames.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common.commands import build, make_parser, run_command
from autoencoder.common.errors import UserError, check_least
from autoencoder.common.files import atomic_path


@dataclass
class RecombineConfig:
    """What to sample."""

    pipeline: Path
    """Folder of a pipeline trained on moving shapes with independent_times; or else, where no folder of that name
    exists, the name of a shipped one, such as shapes."""
    count: int = 100
    """Held-out clips whose structure or dynamics is given, at least 10."""
    num_inference_steps: int = 50
    """Steps of the scheduler."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance."""
    output_dir: Path = Path("outputs/recombination")
    """Folder for recombination.json and sheet.png."""
    device: str = "auto"
    """Where to run, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""

    def __post_init__(self):
        if self.count < 10:
            raise UserError(f"count must be at least 10, one of every class, got {self.count}")
        check_least(self, 1, "num_inference_steps")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the table, from command-line arguments."""
    parser = make_parser(RecombineConfig, __doc__, "pipelines.recombine")
    config = build(RecombineConfig, parser.read(argv))

    from autoencoder.common.pictures import save_png, sheet
    from autoencoder.data import Shapes
    from pipelines.checkpoint import load_pipeline
    from pipelines.recombination import recombination_table, recombine

    pipe = load_pipeline(config.pipeline, config.device)
    pipe.set_progress_bar_config(disable=True)
    held_out = Shapes(pipe.vae.config.num_frames, pipe.vae.config.sample_size, "val")
    summary, pictures = recombine(pipe, held_out, config.count, config.num_inference_steps, config.guidance_scale)
    save_png(sheet(pictures), config.output_dir / "sheet.png")
    with atomic_path(config.output_dir / "recombination.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    print(f"{recombination_table(summary)}\n\nwrote recombination.json and sheet.png to {config.output_dir}")


if __name__ == "__main__":
    run_command(main)

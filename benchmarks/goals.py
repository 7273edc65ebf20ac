"""Which goals do pipelines reach? `python -m benchmarks.goals --pipeline DIR`

Of pipelines of moving shapes, measures the exchange of real latents, the samples, control by either latent, and
reconstructions; of pipelines of sprites, what a judge sees with either latent exchanged or sampled. Prints a table in
Markdown that sets one or several pipelines beside the goals.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import UserError, check_least


@dataclass
class GoalsConfig:
    """What to measure."""

    pipelines: list[str] = field(default_factory=list)
    """Folder of a pipeline, or the name of a shipped one; given as `--pipeline DIR` or `--pipeline NAME=DIR`, as often
    as there are. Those of one NAME share a column: of several trainings of one pipeline the mean and each value are
    shown, and a pipeline of sprites fills its rows."""
    samples_per_class: int = 10
    """Samples of every class, with both latents sampled and with either one given."""
    exchanged_pairs: int = 100
    """Pairs of held-out clips that exchange their latents, both ways."""
    held_out_clips: int = 200
    """Held-out clips to reconstruct."""
    num_inference_steps: int = 50
    """Steps of the scheduler."""
    guidance_scale: float = 2.0
    """Weight of classifier-free guidance."""
    judge: Path | None = None
    """Folder of a judge, which `python -m benchmarks.sprites_judge` trains; pipelines of sprites need one."""
    data_root: str | None = None
    """File or folder of the sprites; data/sprites by default."""
    judged_clips: int | None = None
    """Held-out clips of sprites for the judge; null takes all."""
    output: Path = Path("outputs/benchmarks/goals.json")
    """JSON file to write."""
    sheet: Path | None = None
    """PNG file to write with the clips that were judged, of the first pipeline of moving shapes in every column, those
    with a fault first; null writes none."""
    device: str = "auto"
    """Where to run, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""

    def __post_init__(self):
        names = ("samples_per_class", "exchanged_pairs", "held_out_clips", "num_inference_steps", "judged_clips")
        check_least(self, 1, *names)
        if not self.pipelines:
            raise UserError("nothing to measure: give folders of pipelines by --pipeline")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, from command-line arguments."""
    parser = commands.make_parser(GoalsConfig, __doc__, "benchmarks.goals", repeated={"pipeline": "pipelines"})
    config = commands.build(GoalsConfig, parser.read(argv))

    from benchmarks.work.goals import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

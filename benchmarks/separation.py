"""Do structure and dynamics hold different things? `python -m benchmarks.separation --checkpoint DIR`

Held-out clips exchange their real latents in pairs, both ways: whose content and whose motion is seen? Small
classifiers read from each latent alone what the other one should hold. The two-factor score of the MSD benchmark
(arXiv 2510.17313) is measured with latents of other clips, and with those that a pipeline samples. Several checkpoints
are set side by side, with what the separation costs in PSNR. On sprites, a judge adds the scores of their benchmark.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from autoencoder.common import commands
from autoencoder.common.errors import UserError, check_least


@dataclass
class SeparationConfig:
    """What to measure."""

    checkpoints: list[Path] = field(default_factory=list)
    """Folders of autoencoders; given as `--checkpoint DIR`, as often as there are. Prices are told against the first
    one."""
    pipeline: Path | None = None
    """Folder of a pipeline that samples latents, or the name of a shipped one, such as shapes; its autoencoder is
    measured, too, as the last one, unless it is one of the checkpoints."""
    dataset: Literal["shapes", "sprites"] = "shapes"
    """Data set of the clips."""
    data_root: str | None = None
    """File or folder of `sprites`; data/sprites by default."""
    judge: Path | None = None
    """Folder of a judge of `sprites`, which `python -m benchmarks.sprites_judge` trains; null leaves out what needs
    one."""
    judged_clips: int | None = None
    """Held-out clips of `sprites` for the judge; null takes all."""
    count: int = 100
    """Pairs of held-out clips, each exchanged both ways."""
    probe_clips: int = 2000
    """Training clips that the classifiers learn from; half as many held-out clips are read. 0 leaves them out."""
    num_inference_steps: int = 50
    """Steps of the pipeline's scheduler."""
    guidance_scale: float = 2.0
    """Weight of the pipeline's classifier-free guidance."""
    seed: int = 0
    """Which clips are chosen and paired, and what is drawn."""
    output: Path = Path("outputs/benchmarks/separation.json")
    """JSON file to write."""
    sheet: Path | None = None
    """PNG file to write with a few exchanged clips of every autoencoder; null writes none."""
    device: str = "auto"
    """Where to run, such as "cpu" or "cuda:0"; "auto" takes CUDA where there is one."""

    def __post_init__(self):
        check_least(self, 1, "count", "num_inference_steps", "judged_clips")
        if self.probe_clips != 0 and self.probe_clips < 100:
            raise UserError(f"probe_clips must be at least 100, or 0 for no probes, got {self.probe_clips}")
        if not (self.checkpoints or self.pipeline):
            raise UserError("nothing to measure: give folders of autoencoders by --checkpoint, or a --pipeline")
        if self.judge is not None and self.dataset != "sprites":
            raise UserError(f"a judge is for --dataset sprites; the oracle judges {self.dataset}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, from command-line arguments."""
    parser = commands.make_parser(
        SeparationConfig, __doc__, "benchmarks.separation", repeated={"checkpoint": "checkpoints"}
    )
    config = commands.build(SeparationConfig, parser.read(argv))

    from benchmarks.work.separation import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

"""Sampling a clip beside other models, all with random weights: python -m benchmarks.sampling --help.

One clip at batch 1, without guidance: the paper's DiT beside Latte (the denoisers alone), the decoders of both, and our
DiT beside diffusers' at equal width, depth and tokens. The models compared run in turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autoencoder.common import commands
from autoencoder.common.errors import UserError, check_least
from benchmarks.settings import DTYPE_NAMES

PARTS = ("denoiser", "decoder", "equal")


@dataclass
class SamplingConfig:
    """What to measure, and how often."""

    parts: str = ",".join(PARTS)
    """Comparisons, separated by commas: denoiser, decoder, equal (the DiTs of equal width, depth and tokens)."""
    steps: int | None = None
    """Steps of each denoiser that are timed, in turns; by default 50 on CUDA and 2 on a CPU."""
    dtype: str = "fp32"
    """Arithmetic: fp32, or bf16 (in the training step autocast over fp32 weights)."""
    layers: int | None = None
    """Blocks of the two DiTs of equal depth; by default 18, as in the paper, on CUDA and 4 on a CPU."""
    rounds: int = 3
    """Turns of the two DiTs of equal depth, after a warm-up."""
    compile: bool = False
    """Compile both DiTs of equal depth."""
    quick: bool = False
    """Very small models instead, to check that everything runs; their numbers mean nothing."""
    output: str = "outputs/benchmarks/sampling.json"
    """JSON file to write."""

    def __post_init__(self):
        for part in self.part_list:
            if part not in PARTS:
                raise UserError(f"parts must be of {', '.join(PARTS)}, got {part!r}")
        if self.dtype not in DTYPE_NAMES:
            raise UserError(f"dtype must be of {', '.join(DTYPE_NAMES)}, got {self.dtype!r}")
        check_least(self, 1, "steps", "layers", "rounds")

    @property
    def part_list(self) -> list[str]:
        """The comparisons, as a list."""
        return self.parts.split(",")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark, from command-line arguments."""
    parser = commands.make_parser(SamplingConfig, __doc__, "benchmarks.sampling")
    config = commands.build(SamplingConfig, parser.read(argv))

    from benchmarks.work.sampling import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

"""Cost of a diffusion model on the latents of each tokenizer, as in the paper: python -m benchmarks.resources.

A training step of the same small DiT is counted on the latents of VidTwin and of five other tokenizers (arXiv
2412.17726, figure 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands
from autoencoder.common.errors import UserError

KERNEL_NAMES = ("fused", "math")


@dataclass
class ResourcesConfig:
    """How to count, and where to write."""

    attention: str = "fused"
    """Kernel whose memory is counted and measured: fused (flash or memory-efficient) keeps queries, keys, values and
    output; math also keeps every attention weight. FLOPs are the same."""
    output_dir: Path = Path("outputs/benchmarks")
    """Folder of resources.json and resources.png."""

    def __post_init__(self):
        if self.attention not in KERNEL_NAMES:
            raise UserError(f"attention must be of {', '.join(KERNEL_NAMES)}, got {self.attention!r}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the comparison, from command-line arguments."""
    parser = commands.make_parser(ResourcesConfig, __doc__, "benchmarks.resources")
    config = commands.build(ResourcesConfig, parser.read(argv))

    from benchmarks.work.resources import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

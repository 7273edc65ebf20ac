"""Memory of a training step of every preset on a GPU, counted without one: python -m benchmarks.memory.

Each preset is taken as it stands, with its micro-batch, its precision and its checkpointing, on one GPU. The count is
of the tensors that autograd keeps when the backward pass begins, each storage once, with attention kernels that keep no
weights; with checkpointing, also of those that the largest block keeps while it is computed again. Weights, gradients,
optimiser states, moving averages, and in stage one the discriminator and LPIPS are added. Not counted: temporary
tensors of the backward pass and of the optimiser, the work space of kernels, fragmentation, CUDA's context (0.5 to 1
GB), previews and validation. A tenth of the card is left for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common import commands


@dataclass
class MemoryConfig:
    """Where to write."""

    output_dir: Path = Path("outputs/benchmarks")
    """Folder of memory.json and memory.md."""


def main(argv: Sequence[str] | None = None) -> None:
    """Count and write the table, from command-line arguments."""
    parser = commands.make_parser(MemoryConfig, __doc__, "benchmarks.memory")
    config = commands.build(MemoryConfig, parser.read(argv))

    from benchmarks.work.memory import execute

    execute(config)


if __name__ == "__main__":
    commands.run_command(main)

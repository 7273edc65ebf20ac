"""Settings shared by several benchmarks, and their checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoencoder.common.errors import UserError, check_least

DTYPE_NAMES = ("fp32", "bf16")


def check_counts(**counts: int) -> None:
    """Check numbers, given by name.

    Raises:
        UserError: if one is below 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name} must be at least 1, got {count}")


def name_and_folder(text: str) -> tuple[str, str]:
    """Name and folder of NAME=DIR; of DIR alone, or where there is a folder of the whole text, that for both."""
    name, is_named, folder = text.partition("=")
    return (name, folder) if is_named and not Path(text).exists() else (text, text)


def chosen_variants(text: str, known: Sequence[str]) -> list[str]:
    """Split names separated by commas.

    Raises:
        UserError: for a name that is not known.
    """
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"variants must be of {', '.join(known)}, got {', '.join(unknown)}")
    return names


@dataclass
class BenchmarkConfig:
    """What to measure, and how often. Lists are separated by commas."""

    sizes: str = "tiny,paper"
    """Sizes of the model: tiny, paper."""
    batch_size: str = "1"
    """Batch sizes."""
    dtype: str = "fp32,bf16"
    """Arithmetic: fp32, bf16."""
    rounds: int = 3
    """Turns, after a warm-up; medians are reported."""
    skip_training: bool = False
    """Leave the training step out; at the paper's size and batch 1 it takes 13 GiB and on a CPU some minutes."""
    output: str | None = None
    """JSON file to write; by default outputs/benchmarks/<stage>.json."""

    def __post_init__(self):
        for size in self.size_list:
            if size not in ("tiny", "paper"):
                raise UserError(f"sizes must be of tiny, paper, got {size!r}")
        for dtype in self.dtype_list:
            if dtype not in DTYPE_NAMES:
                raise UserError(f"dtype must be of {', '.join(DTYPE_NAMES)}, got {dtype!r}")
        if not all(entry.isdecimal() and int(entry) for entry in self.batch_size.split(",")):
            raise UserError(f"batch_size must be positive integers, separated by commas, got {self.batch_size!r}")
        check_least(self, 1, "rounds")

    @property
    def size_list(self) -> list[str]:
        """The sizes, as a list."""
        return self.sizes.split(",")

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes, as a list."""
        return [int(entry) for entry in self.batch_size.split(",")]

    @property
    def dtype_list(self) -> list[str]:
        """The names of the dtypes, as a list."""
        return self.dtype.split(",")

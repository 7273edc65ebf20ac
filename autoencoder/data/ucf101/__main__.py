"""Check an unpacked UCF-101: python -m autoencoder.data.ucf101 --root DIR.

Counts videos and classes, compares them with the official lists and opens every file. If anything is missing or
damaged, it prints what, and where to get it, and ends with status 1.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoencoder.common import commands
from autoencoder.common.errors import UserError

if TYPE_CHECKING:
    from autoencoder.data.ucf101.check import Counts


@dataclass
class CheckConfig:
    """What to check."""

    root: Path
    """Folder that holds UCF-101/ and ucfTrainTestlist/."""
    quick: bool = False
    """Check names only, open no video."""
    num_workers: int = 2
    """Processes that open videos; 0 opens them in the process itself."""

    def __post_init__(self):
        if self.num_workers < 0:
            raise UserError(f"num_workers must be at least 0, got {self.num_workers}")


def main(argv: Sequence[str] | None = None, counts: "Counts | None" = None) -> None:
    """Check the data set, from command-line arguments.

    Args:
        argv: None takes the arguments of the process.
        counts: expected numbers of videos and classes; None takes those of the complete data set.
    """
    parser = commands.make_parser(CheckConfig, __doc__, "autoencoder.data.ucf101")
    config = commands.build(CheckConfig, parser.read(argv))

    from autoencoder.data.ucf101.check import COMPLETE, check
    from autoencoder.data.ucf101.dataset import LAYOUT, SOURCE

    counts = counts or COMPLETE
    problems = check(config.root, counts, quick=config.quick, num_workers=config.num_workers)
    if problems:
        print(f"UCF-101 in {config.root} is not complete:")
        print("\n".join(f"  {problem}" for problem in problems))
        print(f"Expected:\n{LAYOUT}\nVideos and lists come from {SOURCE}.")
        sys.exit(1)
    opened = "names alone were looked at" if config.quick else "every file opens"
    print(
        f"UCF-101 in {config.root} is complete: {counts.videos:,} videos of {counts.classes} classes, {counts.train:,} "
        f"and {counts.test:,} in split 1; {opened}"
    )


if __name__ == "__main__":
    commands.run_command(main)

"""Check an unpacked UCF-101: python -m autoencoder.data.ucf101 --root DIR.

Counts videos and classes, compares them with the official lists and opens every file. If anything is missing or
damaged, it prints what, what there is, and where to get the rest, and ends with status 1.
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
    classes: list[str] | None = None
    """Classes to check, such as BenchPress,Diving; null checks all."""
    allow_missing: bool = False
    """Be content if what is there is in order."""
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

    from autoencoder.data.ucf101.check import COMPLETE, Archive, check
    from autoencoder.data.ucf101.lists import LAYOUT, SOURCE

    counts = counts or COMPLETE
    archive = Archive(config.root, config.classes)
    options = {name: getattr(config, name) for name in ("allow_missing", "quick", "num_workers")}
    problems = check(archive, counts, **options)
    is_complete = not problems and not archive.missing(counts)
    opened = "names alone were looked at" if config.quick else "every file opens"
    if problems:
        print(f"UCF-101 in {config.root} is not {'in order' if config.allow_missing else 'complete'}:")
        print("\n".join(f"  {problem}" for problem in problems))
    elif not is_complete:
        print(f"UCF-101 in {config.root} is in order as far as it is there; {opened}")
    elif config.classes is None:
        print(
            f"UCF-101 in {config.root} is complete: {counts.videos:,} videos of {counts.classes} classes, "
            f"{counts.train:,} and {counts.test:,} in split 1; {opened}"
        )
    else:
        names = ", ".join(archive.classes)
        print(f"UCF-101 in {config.root} holds all {len(archive.files):,} videos of {names}; {opened}")
    if not is_complete and archive.files and archive.splits:
        print("There are:", *archive.contents(), sep="\n  ")
    if problems:
        print(f"Expected:\n{LAYOUT}\nVideos and lists come from {SOURCE}.")
        sys.exit(1)


if __name__ == "__main__":
    commands.run_command(main)

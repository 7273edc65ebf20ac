"""What every training run has, whatever its stage: common settings, a folder, and the pointer to the last model."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import Namespace

from autoencoder.common.checkpoints import checkpoints_in
from autoencoder.common.errors import ExistingFileError, UserError
from autoencoder.common.files import atomic_path, naming_failed_writes, threads_silent_on_full_disks
from autoencoder.common.launchers import is_first_process, launch
from autoencoder.common.parser import CommandParser
from autoencoder.common.presets import preset_path
from autoencoder.common.signals import Stopped, StopSignals, catch_signals, resume_command

LAST_AUTOENCODER = Path("outputs/last_autoencoder")  # the pointer that stage one leaves for stage two

CHOSEN_FOLDER = "VIDTWIN_RUN_FOLDER"  # environment variable: process that has chosen, and its folder


def _inherited_folder() -> str | None:
    """What the process that launched this one has chosen, where Lightning starts the processes of a node."""
    chooser, _, path = os.environ.get(CHOSEN_FOLDER, "").partition(":")
    return path if chooser == str(os.getppid()) else None


def _numbered_folder(parent: Path, resume: bool) -> Path:
    """The next of run-001, run-002, ..., or the newest one there to resume; made known to processes started later."""
    if launch().world_size > 1:
        raise UserError("several processes were launched: give them one --output-dir")
    numbers = sorted(int(path.name[4:]) for path in parent.glob("run-*") if path.name[4:].isdigit())
    number = numbers[-1] if numbers else 0
    path = parent / f"run-{number if resume and numbers else number + 1:03d}"
    os.environ[CHOSEN_FOLDER] = f"{os.getpid()}:{path}"
    return path


class RunFolder:
    """The folder of a run: config.yaml, checkpoints/, tensorboard/ and, in the end, model/ or pipeline/.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.config = self.path / "config.yaml"
        self.model = self.path / "model"
        self.pipeline = self.path / "pipeline"

    @classmethod
    def choose(cls, parent: str | Path, output_dir: str | None, resume: bool) -> "RunFolder":
        """The folder of a new or resumed run.

        Without `output_dir` it is the next of run-001, run-002, ... below `parent`, or the newest one there to resume.

        Raises:
            FileExistsError: if the folder holds a run and `resume` is not set.
            ValueError: if several processes are launched without `output_dir`, which they have to agree on.
        """
        if output_dir is None:
            return cls(_inherited_folder() or _numbered_folder(Path(parent), resume))
        folder = cls(output_dir)
        if folder.config.exists() and not resume and is_first_process():
            raise ExistingFileError(
                f"{output_dir} holds a run already: go on with --resume, or give another --output-dir"
            )
        return folder

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint after `step` optimiser steps lies."""
        return self.checkpoints / f"step-{step:08d}"

    def newest_checkpoint(self) -> tuple[Path | None, int]:
        """The newest checkpoint by name, and its step; (None, 0) where there is none."""
        found = checkpoints_in(self.checkpoints)
        return found[-1] if found else (None, 0)

    def remove_old_checkpoints(self, keep: int) -> None:
        """Leave only the newest `keep` checkpoints, and nothing half-written."""
        old = [path for path, _ in checkpoints_in(self.checkpoints)[:-keep]]
        for path in [*old, *self.checkpoints.glob(".*.tmp*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def prepare(
    parser: CommandParser, argv: Sequence[str] | None, parent: str | Path, preset: Callable[[Namespace], str]
) -> tuple[RunFolder, Namespace]:
    """The folder of a training command, and its settings.

    Under what is asked for lies the config of the run that is resumed, else a preset.

    Args:
        parser: of `commands.make_parser`, for a config derived from `RunConfig`.
        argv: command-line arguments; None takes those of the process.
        parent: where runs without `output_dir` lie.
        preset: name of the default preset, by what is asked for.
    """
    chosen = []

    def base(asked: Namespace) -> Path:
        folder = RunFolder.choose(parent, asked.output_dir, asked.resume)
        chosen.append(folder)
        resumed = asked.resume and folder.config.exists()
        return folder.config if resumed else preset_path(parser.stage, preset(asked))

    settings = parser.read(argv, base)
    return chosen[0], settings


@contextmanager
def ending_in_order(folder: RunFolder, module: str) -> Iterator[StopSignals]:
    """Whatever ends the block from outside is one line: a signal, with the command that goes on, or a full disk.

    Args:
        folder: of the run.
        module: the command of the run, such as "autoencoder.train".
    """
    with catch_signals() as signals, threads_silent_on_full_disks(), naming_failed_writes(folder.path):
        try:
            yield signals
        except Stopped as stopped:
            if is_first_process():
                step = folder.newest_checkpoint()[1]
                moment = f"after step {step}, which is saved" if step else "before the first step was saved"
                stopped.tell(f" {moment}; go on with: {resume_command(module, folder.path)}")
            stopped.is_told = True
            if not is_first_process() and launch().launcher == "Lightning":
                sys.exit()  # else the process that started this one would be killed before it can say all that
            raise


def write_pointer(pointer: str | Path, target: str | Path) -> None:
    """Note in a small file which folder was left last."""
    with atomic_path(pointer) as temporary:
        temporary.write_text(f"{Path(target).resolve()}\n")


def read_pointer(pointer: str | Path) -> Path | None:
    """The folder that was left last, or None."""
    return Path(Path(pointer).read_text().strip()) if Path(pointer).is_file() else None

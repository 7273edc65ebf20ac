"""Starting and ending a training run of either stage, and the pointer to the newest model."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import Namespace

from autoencoder.common.errors import UserError
from autoencoder.common.files import atomic_path, naming_failed_writes, threads_silent_on_full_disks
from autoencoder.common.launchers import is_first_process, launch
from autoencoder.common.parser import CommandParser
from autoencoder.common.presets import preset_path
from autoencoder.common.run_folder import RunFolder
from autoencoder.common.signals import Stopped, StopSignals, catch_signals, resume_command

LAST_AUTOENCODER = Path("outputs/last_autoencoder")  # the pointer that stage one leaves for stage two


def prepare(
    parser: CommandParser,
    argv: Sequence[str] | None,
    parent: str | Path,
    preset: Callable[[Namespace], str],
    started: Callable[[str], Path],
) -> tuple[RunFolder, Namespace]:
    """Choose the run folder of a training command, without creating it, and read the command's settings.

    Flags and files override the config of the run that is resumed, or else the settings of the model that a new run
    starts from, and a default preset.

    Args:
        parser: made by `commands.make_parser` for a config derived from `RunConfig`.
        argv: command-line arguments; None takes those of the process.
        parent: folder of runs without `output_dir`.
        preset: returns the name of the default preset, given the settings asked for.
        started: returns the folder of the model that an `init_from` names.

    Raises:
        UserError: if there is no such run or no such model, or the folder cannot be used.
    """
    chosen = []

    def base(asked: Namespace) -> Path:
        try:
            folder = RunFolder.choose(parent, asked.output_dir, asked.resume)
        except UserError:
            if parser.is_asked_for_help:  # which says what would run if the folder were right
                return preset_path(parser.stage, preset(asked))
            raise
        chosen.append(folder)
        return folder.config if asked.resume else preset_path(parser.stage, preset(asked))

    def model(asked: Namespace) -> Path | None:
        if asked.init_from is None or asked.resume or parser.is_asked_for_help:
            return None
        return started(asked.init_from) / "config.json"

    settings = parser.read(argv, base, model)
    return chosen[0], settings


@contextmanager
def ending_in_order(folder: RunFolder, module: str) -> Iterator[StopSignals]:
    """Report in one line what ends the block from outside: a signal, with the command to resume, or a full disk.

    Args:
        folder: the run's folder.
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
    """Write the absolute path of the newest result folder into a small file."""
    with atomic_path(pointer) as temporary:
        temporary.write_text(f"{Path(target).resolve()}\n")


def read_pointer(pointer: str | Path) -> Path | None:
    """The folder that `write_pointer` wrote; None if there is no pointer."""
    return Path(Path(pointer).read_text().strip()) if Path(pointer).is_file() else None

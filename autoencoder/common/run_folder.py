"""The folder of a run: choosing it, locking it, and the paths inside it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoencoder.common.checkpoints import checkpoints_in
from autoencoder.common.errors import ExistingFileError, MissingFileError, UserError
from autoencoder.common.files import atomic_path
from autoencoder.common.launchers import is_first_process, launch
from autoencoder.common.locks import LOCK_FILE, locked_folder

CHOSEN_FOLDER = "VIDTWIN_RUN_FOLDER"  # environment variable that passes "PID:folder" on to child processes
NUM_NAMED = 5  # runs that a message lists at most


class RunFolder:
    """The folder of a run: config.yaml, checkpoints/, tensorboard/ and, in the end, model/ or pipeline/.

    Args:
        path: the folder.
        is_numbered: whether its name is the next free number, which `claim` settles.
    """

    def __init__(self, path: str | Path, is_numbered: bool = False):
        self.path, self._is_numbered = Path(path), is_numbered

    @classmethod
    def choose(cls, parent: str | Path, output_dir: str | None, resume: bool) -> "RunFolder":
        """The folder of a new or resumed run; nothing is written.

        Without `output_dir` it is the next of run-001, run-002, ... below `parent`, or the newest run there to resume.

        Raises:
            ExistingFileError: if the folder holds a run and `resume` is not set.
            MissingFileError: if there is nothing to resume; the message names the runs that there are.
            UserError: if several processes are launched without `output_dir`, which they have to agree on.
        """
        parent = Path(parent)
        if output_dir is not None:
            folder = cls(output_dir)
            if resume:
                folder._check_holds_a_run(parent)
            elif is_first_process():
                folder._check_is_new()
            return folder
        if inherited := _inherited_folder():
            return cls(inherited)
        if launch().world_size > 1:
            raise UserError("several processes were launched: give them one --output-dir")
        if not resume:
            return cls(_next_number(parent), is_numbered=True)
        runs = [path for path in _numbered(parent) if cls(path).config.is_file()]
        if not runs:
            raise MissingFileError(f"nothing to resume in {parent}{_runs_there_are(parent)}")
        return cls(runs[-1])

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Folder of the records."""
        return self.path / "tensorboard"

    @property
    def csv(self) -> Path:
        """File of the scalars, where a run records them so."""
        return self.path / "csv" / "metrics.csv"

    @property
    def wandb_id(self) -> Path:
        """File of the run's id at Weights & Biases, where it records there."""
        return self.path / "wandb" / "id"

    @property
    def config(self) -> Path:
        """All settings of the run."""
        return self.path / "config.yaml"

    @property
    def model(self) -> Path:
        """Folder of stage one's model."""
        return self.path / "model"

    @property
    def pipeline(self) -> Path:
        """Folder of stage two's pipeline."""
        return self.path / "pipeline"

    def claim(self) -> None:
        """Create a numbered folder, under the next number that no other process has taken.

        Child processes, such as those that Lightning starts, take the same folder.
        """
        while self._is_numbered:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.path.mkdir()
                self._is_numbered = False
            except FileExistsError:
                self.path = _next_number(self.path.parent)
        os.environ[CHOSEN_FOLDER] = f"{os.getpid()}:{self.path}"

    @contextmanager
    def held(self, settings: str, resume: bool) -> Iterator[None]:
        """Lock the folder for the block; the first process writes the settings to config.yaml.

        If a new run ends in a UserError before it has written anything else, the folder is removed again; the settings
        of one that was resumed are as they were, if it ends so before it has saved a step.

        Args:
            settings: the run's settings, as YAML.
            resume: whether the folder may hold a run already.

        Raises:
            FolderInUseError: if another process has the folder.
            ExistingFileError: if another run was begun there meanwhile, and `resume` is not set.
        """
        if not is_first_process():
            yield
            return
        with locked_folder(self.path):
            if not resume:
                self._check_is_new()
            former = self.config.read_text() if resume and self.config.is_file() else None
            step = self.newest_checkpoint()[1]
            self._write_settings(settings)
            try:
                yield
            except UserError:
                if former is not None and self.newest_checkpoint()[1] == step:
                    self._write_settings(former)
                elif not resume and {path.name for path in self.path.iterdir()} == {self.config.name, LOCK_FILE}:
                    shutil.rmtree(self.path)
                raise

    def _write_settings(self, text: str) -> None:
        with atomic_path(self.config) as temporary:
            temporary.write_text(text)

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint after `step` optimiser steps lies."""
        return self.checkpoints / f"step-{step:08d}"

    def newest_checkpoint(self) -> tuple[Path | None, int]:
        """The newest checkpoint by name, and its step; (None, 0) where there is none."""
        checkpoints = checkpoints_in(self.checkpoints)
        return checkpoints[-1] if checkpoints else (None, 0)

    def remove_old_checkpoints(self, keep: int) -> None:
        """Leave only the newest `keep` checkpoints, and nothing half-written."""
        old = [path for path, _ in checkpoints_in(self.checkpoints)[:-keep]]
        for path in [*old, *self.checkpoints.glob(".*.tmp*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _check_is_new(self) -> None:
        if self.config.exists() or self.newest_checkpoint()[0]:
            raise ExistingFileError(
                f"{self.path} holds a run already: go on with --resume, or give another --output-dir"
            )

    def _check_holds_a_run(self, parent: Path) -> None:
        if not self.config.is_file():
            lacks = " (it holds checkpoints, but no config.yaml)" if self.newest_checkpoint()[0] else ""
            raise MissingFileError(
                f"nothing to resume in {self.path}{lacks}{_runs_there_are(parent, self.path.parent)}"
            )


def _inherited_folder() -> str | None:
    """The folder that the parent process chose, where Lightning starts the processes of a node."""
    chooser, _, path = os.environ.get(CHOSEN_FOLDER, "").partition(":")
    return path if chooser == str(os.getppid()) else None


def _numbered(parent: Path) -> list[Path]:
    """run-001, run-002, ... in their order."""
    return sorted(
        (path for path in parent.glob("run-*") if path.name[4:].isdigit()), key=lambda path: int(path.name[4:])
    )


def _next_number(parent: Path) -> Path:
    taken = _numbered(parent)
    return parent / f"run-{int(taken[-1].name[4:]) + 1 if taken else 1:03d}"


def _runs_there_are(*parents: Path) -> str:
    """The newest runs below some folders, for a message."""
    configs = {config.resolve(): config for parent in parents for config in parent.glob("*/config.yaml")}
    newest = sorted(configs.values(), key=lambda config: config.stat().st_mtime, reverse=True)[:NUM_NAMED]
    return f"; the runs there are: {', '.join(str(config.parent) for config in newest)}" if newest else ""

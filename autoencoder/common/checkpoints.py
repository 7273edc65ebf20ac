"""Finding the checkpoints of a run, and checking that they are whole."""

import pickle
import re
import struct
import zipfile
import zlib
from pathlib import Path

from autoencoder.common.errors import UserError
from autoencoder.common.launchers import is_first_process

NAME = re.compile(r"step-(\d+)")
ASIDE = ".broken"  # ending that a checkpoint which is not whole is renamed to

# Whatever a file that was cut short, or that holds something else, makes zipfile and torch raise.
BROKEN = (OSError, EOFError, RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError)
BROKEN += (zipfile.BadZipFile, pickle.UnpicklingError, struct.error, zlib.error)


def checkpoints_in(folder: str | Path) -> list[tuple[Path, int]]:
    """The checkpoints of a folder by their names, oldest first, each with its step; their contents are not checked."""
    named = [(path, NAME.fullmatch(path.name)) for path in Path(folder).glob("step-*")]
    return sorted(((path, int(match[1])) for path, match in named if match), key=lambda pair: pair[1])


def defect_of(path: str | Path) -> str | None:
    """What is wrong with the file of a checkpoint, in one line; None if it is whole.

    All checksums are verified and the file is unpickled; its tensors are mapped, not loaded.
    """
    import torch

    path = Path(path)
    try:
        if path.stat().st_size == 0:
            return "it is empty"
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                return f"the checksum of {damaged} in it is wrong"
        torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except PermissionError:
        raise
    except BROKEN as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None


def newest_whole_checkpoint(folder: str | Path) -> tuple[Path | None, int]:
    """The newest checkpoint that is whole, and its step; (None, 0) where there are none at all.

    Newer ones that are not whole are named and renamed, so that they never count again.

    Raises:
        UserError: if there are checkpoints, but none is whole; then they stay.
    """
    defects: dict[Path, str] = {}
    for path, step in reversed(checkpoints_in(folder)):
        defect = defect_of(path)
        if defect is None:
            if is_first_process():
                _put_aside(defects, path)
            return path, step
        defects[path] = defect
    if defects:
        reasons = "; ".join(f"{path.name}: {defect}" for path, defect in defects.items())
        raise UserError(f"no checkpoint in {folder} is whole ({reasons}): begin a new run in another folder")
    return None, 0


def _put_aside(defects: dict[Path, str], whole: Path) -> None:
    for path, defect in defects.items():
        aside = path.with_name(path.name + ASIDE)
        path.replace(aside)
        print(f"{path} is not whole ({defect}): it is {aside.name} now, and the run goes on from {whole.name}")

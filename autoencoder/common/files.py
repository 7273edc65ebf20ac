"""Writing files so that a reader never sees half of one."""

import errno
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from autoencoder.common.errors import UserError

if TYPE_CHECKING:
    import torch

# What ends the writing of a file that was allowed to begin: a full disk, a quota, a limit on file sizes.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PROBE = bytes(1 << 20)


class WriteError(UserError, OSError):
    """A file could not be written to its end."""


@contextmanager
def naming_failed_writes(path: str | Path, written: Path | None = None) -> Iterator[None]:
    """Turn the errors of a full disk inside the block into one that names the file and the reason.

    Args:
        path: file or folder to name, as the user knows it.
        written: the temporary file that is written in its place; writing to it once more finds out the reason where
            a library only says that it failed, as torch does.

    Raises:
        WriteError: for the errors of `DISK_ERRORS`, whichever library raises them; all others pass unchanged.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = None if isinstance(error, UserError) else _reason(error, written)
        if reason is None:
            raise
        # What cleans up after a full disk often meets it again; what was meant to be written counts.
        first = error.__context__
        if isinstance(first, WriteError):
            raise first from None
        raise WriteError(f"{path} could not be written: {reason}") from error


def _reason(error: Exception, written: Path | None) -> str | None:
    """Which of `DISK_ERRORS` it is, in the system's words; None for another error."""
    number = error.errno if isinstance(error, OSError) else None
    if match := re.search(r"\(os error (\d+)\)", str(error)):  # as safetensors puts it
        number = int(match[1])
    if number is None and written is not None and written.is_file():
        try:
            with open(written, "ab") as file:
                file.write(PROBE)
        except OSError as refused:
            number = refused.errno
    return os.strerror(number) if number in DISK_ERRORS else None


@contextmanager
def threads_silent_on_full_disks() -> Iterator[None]:
    """Keep writer threads, as TensorBoard's, from printing tracebacks of `DISK_ERRORS`; their callers raise these."""
    former = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not (isinstance(failure.exc_value, OSError) and failure.exc_value.errno in DISK_ERRORS):
            former(failure)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = former


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`, with its ending, that becomes `path` when the block ends without an error.

    The data reach the disk before the name changes, and an error leaves nothing behind.

    Raises:
        WriteError: if the disk is full, or cannot be written for a reason of that kind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        with naming_failed_writes(path, temporary):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """An empty temporary folder beside `path` that takes its place when the block ends without an error.

    Raises:
        WriteError: if the disk is full, or cannot be written for a reason of that kind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, former = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("tmp", "former"))
    temporary.mkdir()
    try:
        with naming_failed_writes(path):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as opened:
                        os.fsync(opened.fileno())
        if path.exists():
            os.replace(path, former)
        try:
            os.replace(temporary, path)
        except OSError:
            if former.exists():
                os.replace(former, path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def save_safetensors(
    tensors: "dict[str, torch.Tensor]", path: str | Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file atomically; tensors are made contiguous and moved to the CPU."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, temporary, metadata)

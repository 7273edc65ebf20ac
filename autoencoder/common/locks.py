"""Locks on folders, so that only one process works in a folder at a time.

A lock is the operating system's, on a file in the folder: it ends with its process, however that ends, so none is ever
left behind. The file may stay. Where it is removed, a process that was about to lock it sees that, and takes a new one.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from autoencoder.common.errors import UserError

LOCK_FILE = ".lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)  # of file systems without locks


class FolderInUseError(UserError):
    """Another process works in a folder."""


@dataclass
class _Held:
    """A lock of this process, and how many blocks hold it."""

    file: TextIO
    count: int = 0


_held: dict[Path, _Held] = {}


@contextmanager
def locked_folder(
    folder: str | Path, on_wait: Callable[[str], None] | None = None, keep_file: bool = True
) -> Iterator[None]:
    """Lock a folder, which is created if need be, for as long as the block runs.

    Several blocks of one process may hold the same lock. Processes that this one forks do not hold it, so it ends with
    this process even if a worker of it lives on.

    Args:
        folder: to lock.
        on_wait: called with a line for the user before waiting until another process releases the folder; None raises
            `FolderInUseError` instead of waiting.
        keep_file: whether the lock's file stays in the folder.

    Raises:
        FolderInUseError: if another process holds the folder; the message says which one, where that is known.
    """
    path = (Path(folder) / LOCK_FILE).resolve()
    if path not in _held:
        path.parent.mkdir(parents=True, exist_ok=True)
        _held[path] = _Held(_lock(path, folder, on_wait))
    held = _held[path]
    held.count += 1
    try:
        yield
    finally:
        held.count -= 1
        if not held.count and _held.get(path) is held:
            del _held[path]
            if not keep_file:
                path.unlink(missing_ok=True)
            held.file.close()


def _lock(path: Path, folder: str | Path, on_wait: Callable[[str], None] | None) -> TextIO:
    """The locked file, open for as long as the lock is held; it says who holds it."""
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    try:
        _flock(file, folder, on_wait)
        if not _is_at(file, path):  # the holder that this one waited for has removed it
            file.close()
            return _lock(path, folder, on_wait)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _flock(file: TextIO, folder: str | Path, on_wait: Callable[[str], None] | None) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        message = f"{folder} is in use by {file.read() or 'another process'}"
        if on_wait is None:
            raise FolderInUseError(f"{message}: wait until that has ended, or give another folder") from None
        on_wait(f"{message}; waiting until that has ended")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        print(f"warning: {folder} lies on a file system without locks: see to it that no other process uses it")


def _leave_to_the_parent() -> None:
    """A forked process closes its copies, which leaves the locks to the process that took them."""
    for held in _held.values():
        held.file.close()
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)

"""A folder is held by one process at a time, and by none that is dead."""

import multiprocessing
import os
import signal
import socket
from multiprocessing.connection import Connection

import pytest

from autoencoder.common.locks import LOCK_FILE, FolderInUseError, locked_folder
from pipelines import demo, demonstration

FORK = multiprocessing.get_context("fork")


def hold(folder, line: Connection) -> None:
    """Say whether the folder could be had, and keep it until told to end."""
    try:
        with locked_folder(folder):
            line.send(True)
            line.recv()
    except FolderInUseError:
        line.send(False)


class Other:
    """Another process that tries to hold a folder."""

    def __init__(self, folder):
        self.line, theirs = FORK.Pipe()
        self.process = FORK.Process(target=hold, args=(folder, theirs))
        self.process.start()
        self.has_it = self.line.recv()

    def end(self) -> None:
        if self.process.is_alive() and self.has_it:
            self.line.send("end")
        self.process.join()


def others_may_have(folder) -> bool:
    other = Other(folder)
    other.end()
    return other.has_it


@pytest.fixture
def holder(tmp_path):
    other = Other(tmp_path)
    assert other.has_it
    yield other
    other.end()


def test_a_folder_in_use_is_refused_and_its_holder_named(tmp_path, holder):
    expected = rf"{tmp_path} is in use by process {holder.process.pid} on {socket.gethostname()}: wait"
    with pytest.raises(FolderInUseError, match=expected), locked_folder(tmp_path):
        pass
    holder.end()
    with locked_folder(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text() == f"process {os.getpid()} on {socket.gethostname()}"


def test_a_killed_process_holds_nothing(tmp_path, holder):
    os.kill(holder.process.pid, signal.SIGKILL)
    holder.process.join()
    with locked_folder(tmp_path):
        pass


def test_it_waits_for_the_other_one_and_says_so(tmp_path, holder):
    lines = []

    def end(line: str) -> None:
        lines.append(line)
        holder.end()

    with locked_folder(tmp_path, on_wait=end):
        assert lines[0].startswith(f"{tmp_path} is in use by process {holder.process.pid} on ")
        assert lines[0].endswith("; waiting until that has ended")


def test_blocks_of_one_process_share_it(tmp_path):
    folder = tmp_path / "new" / "run"
    with locked_folder(folder):
        with locked_folder(str(folder)):
            pass
        assert not others_may_have(folder), "the outer block still holds it"
    assert others_may_have(folder)
    with pytest.raises(RuntimeError, match="stop"), locked_folder(folder):
        raise RuntimeError("stop")
    assert others_may_have(folder)


def test_a_forked_worker_does_not_keep_it(tmp_path):
    end = FORK.Event()
    with locked_folder(tmp_path):
        worker = FORK.Process(target=end.wait)
        worker.start()
    try:
        assert worker.is_alive() and others_may_have(tmp_path)
    finally:
        end.set()
        worker.join()


def count_up(folder, counter, times: int) -> None:
    """Read and write a number, which goes wrong where two processes do it at a time."""
    for _ in range(times):
        with locked_folder(folder, on_wait=lambda line: None, keep_file=False):
            counter.write_text(str(int(counter.read_text()) + 1))


def test_a_lock_whose_file_is_removed_holds(tmp_path):
    folder, counter = tmp_path / "folder", tmp_path / "counter"
    counter.write_text("0")
    processes = [FORK.Process(target=count_up, args=(folder, counter, 50)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert counter.read_text() == "200" and list(folder.iterdir()) == []
    with locked_folder(folder, keep_file=False):
        assert not others_may_have(folder)
        with locked_folder(folder, keep_file=False):
            pass
        assert not others_may_have(folder), "the inner block of the same process leaves it"
    assert others_may_have(folder)


def test_two_demos_do_not_share_a_folder(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(demonstration, "execute", lambda config: pytest.fail("it began"))
    with pytest.raises(FolderInUseError, match="is in use by process"):
        demo.main(["--output-dir", str(tmp_path)])

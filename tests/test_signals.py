"""Signals end a program in order, and its workers only by its own word."""

import os
import signal
import time

import pytest
import torch
from torch.utils.data import DataLoader

from autoencoder.common import commands, signals
from autoencoder.common.signals import (
    SIGNALS,
    Stopped,
    catch_signals,
    leave_signals_to_the_parent,
    resume_command,
    take_signals_back,
)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_ends_with_its_code_and_what_was_before_comes_back(signum):
    before = signal.getsignal(signum)
    with pytest.raises(Stopped) as stopped, catch_signals():
        signal.raise_signal(signum)
    assert stopped.value.code == 128 + signum and stopped.value.name == signum.name
    assert signal.getsignal(signum) == before


def test_delayed_signals_are_noted_and_the_first_one_counts():
    with pytest.raises(SystemExit) as stopped, catch_signals() as stop:
        with stop.delayed():
            assert stop.signum == 0
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)  # a launcher hands on what its group has got
            assert stop.signum == signal.SIGTERM
        stop.stop()
    assert stopped.value.code == 143


def test_a_second_signal_ends_at_once(monkeypatch):
    ends = []
    monkeypatch.setattr(signals.os, "_exit", ends.append)
    monkeypatch.setattr(signals, "SAME_REQUEST", -1.0)
    with catch_signals() as stop, stop.delayed():
        signal.raise_signal(signal.SIGTERM)
        assert not ends
        signal.raise_signal(signal.SIGINT)
    assert ends == [130]


def test_blocks_inside_share_it_and_libraries_are_overruled():
    with catch_signals() as outer:
        with catch_signals() as inner, inner.delayed():
            assert inner is outer
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            take_signals_back(inner)
            signal.raise_signal(signal.SIGTERM)
        assert outer.signum == signal.SIGTERM


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with catch_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signum == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_commands_say_what_stopped_them(capsys):
    for told in (False, True):

        def main(told=told) -> None:
            try:
                signal.raise_signal(signal.SIGINT)
            except Stopped as stopped:
                if told:
                    stopped.tell("; more")
                raise

        with pytest.raises(SystemExit) as stopped:
            commands.run_command(main)
        assert stopped.value.code == 130
    assert capsys.readouterr().out == "stopped by SIGINT\nstopped by SIGINT; more\n"


def test_a_command_hands_signals_on_to_the_command_that_it_runs(monkeypatch):
    class Process:
        """Of a command that runs until it is told to end, and then saves what it has."""

        told: list[int] = []
        waits = 0

        def __init__(self, command):
            assert command[1:] == ["-m", "autoencoder.train", "--resume"]

        def wait(self) -> int:
            Process.waits += 1
            if not self.told:
                signal.raise_signal(signal.SIGTERM)
            return 143

        def send_signal(self, signum: int) -> None:
            self.told.append(signum)

    monkeypatch.setattr(commands.subprocess, "Popen", Process)
    with pytest.raises(Stopped) as stopped:
        commands.run_command(lambda: commands.start_command("autoencoder.train", ["--resume"]))
    assert stopped.value.code == 143 and Process.told == [signal.SIGTERM] and Process.waits == 2


class Slow(torch.utils.data.Dataset):
    """Says which process made an item."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> int:
        time.sleep(0.05)
        return os.getpid()


def test_workers_outlive_a_signal_to_the_whole_group_and_end_with_their_loader():
    loader = DataLoader(
        Slow(), batch_size=None, num_workers=2, multiprocessing_context="fork",
        worker_init_fn=leave_signals_to_the_parent,
    )  # fmt: skip
    with catch_signals() as stop, stop.delayed():
        batches = iter(loader)
        pids = {next(batches), next(batches)}
        for pid in pids:
            for signum in SIGNALS:
                # From another process, for a worker takes its parent's word.
                os.waitpid(os.spawnlp(os.P_NOWAIT, "kill", "kill", f"-{signum.value}", str(pid)), 0)
        assert {*batches} <= pids
        workers = batches._workers
        del batches
    assert all(not worker.is_alive() for worker in workers)


def test_a_worker_takes_its_parents_word():
    pid = os.fork()
    if not pid:
        leave_signals_to_the_parent()
        time.sleep(60)
        os._exit(1)
    time.sleep(0.2)
    os.kill(pid, signal.SIGTERM)
    assert os.waitpid(pid, 0)[1] == 0


def test_resume_command(tmp_path):
    assert resume_command("generator.train", "a b/run") == "python -m generator.train --resume --output-dir 'a b/run'"

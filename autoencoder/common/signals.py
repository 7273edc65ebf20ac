"""Stopping cleanly on a signal: Ctrl-C, a cluster's SIGTERM or warning, a terminal that closes."""

import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # the last one: SLURM's, before the time is up
SAME_REQUEST = 0.5  # seconds in which a launcher may hand on what the whole group of processes has got already


class Stopped(SystemExit):
    """A signal asked the program to end, with the exit code of shells: 128 + its number.

    Attributes:
        name: the signal's name.
        is_told: whether the user has been told.
    """

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum, self.name = signum, signal.Signals(signum).name
        self.is_told = False

    def tell(self, then: str = "") -> None:
        """Print once which signal came, followed by `then`; a closed terminal is no error."""
        if not self.is_told:
            self.is_told = True
            with suppress(OSError):  # of a terminal that was closed
                print(f"stopped by {self.name}{then}", flush=True)


class StopSignals:
    """The signals received inside `catch_signals`.

    Attributes:
        signum: the first signal that came, or 0.
    """

    def __init__(self):
        self.signum = 0
        self._came, self._process, self._delays = 0.0, os.getpid(), 0

    @contextmanager
    def delayed(self) -> Iterator[None]:
        """Inside the block a signal is only recorded; the caller reads `signum` and stops where nothing is lost."""
        self._delays += 1
        try:
            yield
        finally:
            self._delays -= 1

    def stop(self, signum: int | None = None) -> None:
        """Stop now.

        Args:
            signum: a signal that another process received; None takes this process's.

        Raises:
            Stopped: always.
        """
        raise Stopped(signum or self.signum)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker, which the process that forked it ends
            return
        now = time.monotonic()
        if not self.signum:
            self.signum, self._came = signum, now
            if not self._delays:
                self.stop()
        elif now - self._came > SAME_REQUEST:
            os._exit(128 + signum)


_current: StopSignals | None = None


@contextmanager
def catch_signals() -> Iterator[StopSignals]:
    """Turn the signals of `SIGNALS` into `Stopped` while the block runs; a second one ends the process at once.

    Nested in another such block, it yields that block's object. A signal that the process was started to ignore, as by
    nohup, stays ignored. Outside of the main thread nothing is caught, for Python handles signals only there.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or StopSignals()
        return
    _current = stop = StopSignals()
    former = {signum: signal.getsignal(signum) for signum in SIGNALS}
    caught = [signum for signum, handler in former.items() if handler not in (signal.SIG_IGN, None)]
    try:
        for signum in caught:
            signal.signal(signum, stop._handle)
        yield stop
    finally:
        for signum in caught:
            signal.signal(signum, former[signum])
        _current = None


def take_signals_back(stop: StopSignals) -> None:
    """Restore the handlers of `catch_signals` after a library has installed its own inside the block."""
    if _current is stop:
        for signum in SIGNALS:
            if signal.getsignal(signum) not in (signal.SIG_IGN, None):
                signal.signal(signum, stop._handle)


def leave_signals_to_the_parent(worker: int = 0) -> None:
    """In a worker process: end only on a SIGTERM of the parent process, and ignore all other `SIGNALS`.

    Ctrl-C and clusters signal all processes of a group. A worker that ended then would raise an error in the middle of
    its parent's last step.

    Args:
        worker: ignored; torch passes the worker's number to a `worker_init_fn`.
    """
    for signum in SIGNALS:
        if signum != signal.SIGTERM:
            signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_says, args=(os.getppid(),), daemon=True).start()


def _end_when_the_parent_says(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def resume_command(module: str, folder: str | os.PathLike) -> str:
    """The command line that goes on with a run."""
    return f"python -m {module} --resume --output-dir {shlex.quote(os.fspath(folder))}"

"""Long work: it says how far it is, and ends early where its visitor asks for that."""

import threading
from collections.abc import Callable

import torch

from autoencoder.common.errors import UserError
from pipelines.pipeline_vidtwin import VidTwinDiffusionPipeline

Tell = Callable[[int, int, str], None]


class WorkStopped(UserError):
    """The visitor has stopped the work."""


class Work:
    """One piece of long work.

    Args:
        tell: called with the steps that are done, those there are in all, and what they are; None tells nobody.
    """

    def __init__(self, tell: Tell | None = None):
        self._tell, self._stop, self._end = tell, threading.Event(), threading.Event()

    @property
    def is_stopped(self) -> bool:
        """Whether somebody has asked for the end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask the work to end, from any thread."""
        self._stop.set()

    def end(self) -> None:
        """Say that the work has ended, in whatever way."""
        self._end.set()

    def wait(self) -> None:
        """Wait until it has."""
        self._end.wait()

    def check(self) -> None:
        """End here if that was asked for.

        Raises:
            WorkStopped: if it was.
        """
        if self.is_stopped:
            raise WorkStopped("stopped")

    def advance(self, done: int, total: int, what: str) -> None:
        """Say how far the work is, and end here if that was asked for.

        Raises:
            WorkStopped: if it was.
        """
        self.check()
        if self._tell is not None:
            self._tell(done, total, what)

    def on_step_end(
        self, pipe: VidTwinDiffusionPipeline, index: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """A `callback_on_step_end` of the pipeline; the sampling ends after the step in which `stop` was called."""
        pipe._interrupt = self.is_stopped
        if self._tell is not None:
            self._tell(index + 1, pipe.num_timesteps, "sampling")
        return tensors

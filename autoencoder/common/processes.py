"""Processes that were launched together, and what they exchange."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from autoencoder.common.launchers import join_launched

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=7)  # of a process that is done for the others


@contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """Join the processes that were launched together, if there are several; yields this one's rank and their number.

    They use gloo on every device, which is fast enough for the few numbers that they exchange at the end.
    """
    if join_launched().world_size == 1:
        yield 0, 1
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield distributed.get_rank(), distributed.get_world_size()
    finally:
        distributed.destroy_process_group()


def from_all(mine: T) -> list[T]:
    """Gather one value from every process, in the order of their ranks; all of them must call it."""
    if not distributed.is_initialized():
        return [mine]
    gathered: list[T | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, mine)
    return gathered


def mean_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes, detached; all of them must call it. On a GPU the host does not wait."""
    if not distributed.is_initialized():
        return tensor
    tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(tensor)
    return tensor / distributed.get_world_size()


class CommonStop:
    """Lets all processes stop after the same step, whichever of them receives a signal first.

    After every step they start to exchange the signals received, over gloo on the CPU, and read the result one step
    later, so that no step waits for another process or for a GPU. Every process must create one and call `after_step`
    after every step.
    """

    def __init__(self):
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        self._group = distributed.new_group(backend="gloo", timeout=LONGEST_WAIT) if several else None
        self._asked: torch.Tensor | None = None
        self._exchange: distributed.Work | None = None

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self._group is None

    def after_step(self, signum: int) -> int:
        """The signal to stop for after this step, the same for all processes, or 0.

        Args:
            signum: the signal that this process received, or 0.
        """
        if self._group is None:
            return signum
        answer = 0
        if self._exchange is not None:
            self._exchange.wait()
            answer = int(self._asked)
        self._asked = torch.tensor(signum)
        self._exchange = distributed.all_reduce(self._asked, distributed.ReduceOp.MAX, self._group, async_op=True)
        return answer

"""Processes that were launched together, and what they tell each other."""

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
    """Join the processes that were launched together, if there are several; gives this one's rank and their number.

    All that they exchange is a few numbers in the end, so gloo serves on every device.
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
    """What every process gave, in the order of their ranks; all of them must call it."""
    if not distributed.is_initialized():
        return [mine]
    found: list[T | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, mine)
    return found


def mean_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes; all of them must call it, and the device waits for none but its kin."""
    if not distributed.is_initialized():
        return tensor
    tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(tensor)
    return tensor / distributed.get_world_size()


class CommonStop:
    """Lets all processes stop after the same step, wherever a signal came first.

    All of them begin to exchange, over gloo on the CPU, what they were asked at the end of every step, and read the
    answer one step later, when it is long there: no step waits for another process, nor for a GPU. All must make one
    and ask it after every step.
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
            signum: what came to this process, or 0.
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

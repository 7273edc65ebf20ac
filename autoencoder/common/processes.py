"""Processes that torchrun started, and what they tell each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")

LONGEST_WAIT = timedelta(days=7)  # of a process that is done for the others


@contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """Join the processes of a torchrun, if there are several; gives the rank of this one and their number.

    All that they exchange is a few numbers in the end, so gloo serves on every device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
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

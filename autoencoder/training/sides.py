"""The autoencoder and its discriminator as two sides that several processes train, each with DDP of its own."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


class SidesStrategy(DDPStrategy):
    """Lightning's DDP, but that a `Side` averages the gradients.

    Around the module as a whole, DDP would average the gradients of both sides after each of the two backward passes of
    a step, of which either has those of one side only.
    """

    def configure_ddp(self) -> None:
        """Leave the module as it is."""


class _Call(nn.Module):
    """Runs a function in the forward pass of its parts, which is where DDP takes note of it."""

    def __init__(self, *parts: nn.Module):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, function: Callable[..., T], *inputs) -> T:
        return function(*inputs)


class Side:
    """What has a backward pass of its own; its gradients are averaged over the processes once in a step.

    Args:
        parts: whose weights all get a gradient in that pass.
        device: where they lie.
    """

    def __init__(self, *parts: nn.Module, device: torch.device):
        self._ddp = None
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            device_ids = None if device.type == "cpu" else [device.index]
            # Buffers are the batch statistics of a process's own clips, which nothing reads.
            self._ddp = DistributedDataParallel(
                _Call(*parts), device_ids=device_ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def __call__(self, function: Callable[..., T], *inputs) -> T:
        """The function's result, for a backward pass that averages the gradients unless `accumulating` says no."""
        return function(*inputs) if self._ddp is None else self._ddp(function, *inputs)

    def accumulating(self, is_last: bool) -> AbstractContextManager:
        """A block in which the side runs and goes backward; gradients wait for the last micro-batch of a step."""
        return nullcontext() if self._ddp is None or is_last else self._ddp.no_sync()

"""Data-parallel training of the autoencoder and its discriminator, each wrapped in DDP by itself."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


class SidesStrategy(DDPStrategy):
    """Lightning's DDP strategy, except that each `Side` averages its own gradients.

    A step has two backward passes, one per side. Wrapped around the whole module, DDP would wait in each of them for
    gradients of both sides.
    """

    def configure_ddp(self) -> None:
        """Leave the module unwrapped."""


class _Call(nn.Module):
    """Runs any function as the forward pass of its parts, because DDP acts on forward passes."""

    def __init__(self, *parts: nn.Module):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, function: Callable[..., T], *inputs) -> T:
        return function(*inputs)


class Side:
    """Modules with a backward pass of their own, whose gradients are averaged over the processes once per step.

    Args:
        parts: modules whose weights all get a gradient in that pass.
        device: device of their weights.
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
        """Call a function; the backward pass of its result averages gradients unless `accumulating` delays that."""
        return function(*inputs) if self._ddp is None else self._ddp(function, *inputs)

    def accumulating(self, is_last: bool) -> AbstractContextManager:
        """A block for forward and backward of a micro-batch; gradients are averaged only if it is the step's last."""
        return nullcontext() if self._ddp is None or is_last else self._ddp.no_sync()

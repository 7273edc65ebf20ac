"""Running diffusers' scheduler steps on CUDA without making the host wait for the device."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.overrides import TorchFunctionMode


def without_waiting(device: torch.device) -> AbstractContextManager:
    """A block in which, on CUDA, copies to the device are asynchronous and `torch.linalg.solve` does not synchronise.

    Schedulers copy the noise of CPU generators and a few numbers, which go through pinned memory here; UniPC solves a
    small system, which `solve` does here. On other devices nothing changes.
    """
    return _WithoutWaiting() if device.type == "cuda" else nullcontext()


class _WithoutWaiting(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.to and args[0].device.type == "cpu" and _names_cuda(*args[1:], *kwargs.values()):
            return func(args[0].pin_memory(), *args[1:], **kwargs | {"non_blocking": True})
        if func is torch.linalg.solve:
            return solve(*args, **kwargs)
        return func(*args, **kwargs)


def _names_cuda(*arguments) -> bool:
    return any(isinstance(argument, torch.device) and argument.type == "cuda" for argument in arguments)


def solve(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve `matrix x = right` for x (n,), with (n, n) and (n,), by Gauss-Jordan elimination on the device.

    No pivot is chosen, because that would need to read values: the leading minors must not be 0, which holds for the
    Vandermonde matrices of UniPC.
    """
    rows = torch.cat([matrix, right[:, None]], dim=1)  # (n, n + 1)
    for place in range(len(matrix)):
        pivot = rows[place] / rows[place, place]  # (n + 1,)
        others = rows - rows[:, place : place + 1] * pivot  # (n, n + 1)
        rows = torch.cat([others[:place], pivot[None], others[place + 1 :]])
    return rows[:, -1]

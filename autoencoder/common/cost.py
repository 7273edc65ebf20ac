"""Measuring the cost of a piece of work: FLOPs, peak memory, seconds."""

import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers.models.attention_dispatch import attention_backend
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

TRAINING_FLOPS = 3  # of a forward; by convention a backward pass counts as two

_COUNTS: WeakKeyDictionary[nn.Module, dict[tuple, int]] = WeakKeyDictionary()

# Where torch keeps the hooks of a module; each is an ordered dict.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# What accelerate and diffusers write into a module to move its weights about.
_OFFLOADING = ("_hf_hook", "_diffusers_hook", "_old_forward", "forward")


@dataclass
class Cost:
    """Cost of a piece of work.

    Attributes:
        flops: floating-point operations, 2 per multiply-add of matrix products, convolutions and attention.
        peak_memory_bytes: the most that torch's allocator held on the GPU; None where it was not measured.
        seconds: wall-clock time.
    """

    flops: int = 0
    peak_memory_bytes: int | None = None
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """The cost of one after the other."""
        peaks = [peak for peak in (self.peak_memory_bytes, other.peak_memory_bytes) if peak is not None]
        return Cost(self.flops + other.flops, max(peaks, default=None), self.seconds + other.seconds)

    def __str__(self) -> str:
        memory = "not measured" if self.peak_memory_bytes is None else format_bytes(self.peak_memory_bytes)
        return f"{format_flops(self.flops)}, {self.seconds:.2f} s, peak memory {memory}"


def format_flops(flops: float) -> str:
    """1_984_000_000_000 -> "1.984 TFLOP"."""
    for unit, size in (("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6)):
        if flops >= size:
            return f"{flops / size:.3f} {unit}"
    return f"{flops:.0f} FLOP"


def format_bytes(size: float) -> str:
    """3_221_225_472 -> "3.00 GiB"."""
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if size >= 2**power:
            return f"{size / 2**power:.2f} {unit}"
    return f"{size:.0f} B"


def training_flops(call: nn.Module | Callable, *inputs: torch.Tensor) -> int:
    """FLOPs of a training step on `inputs`, `TRAINING_FLOPS` times those of its forward.

    Args:
        call, inputs: as for `count_flops`.
    """
    return TRAINING_FLOPS * count_flops(call, *inputs)


@contextmanager
def measure(device: torch.device | str) -> Iterator[Cost]:
    """Measure the seconds and the peak memory of a block.

    On CUDA the allocator's peak is reset first, and the clock waits for the device at both ends. On other devices no
    reliable peak can be measured, and `peak_memory_bytes` stays None.

    Args:
        device: where the work runs.

    Yields:
        A `Cost`, filled in when the block ends without an error; its `flops` are left to the caller.
    """
    device = torch.device(device)
    cost = Cost()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    yield cost
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        cost.peak_memory_bytes = torch.cuda.max_memory_allocated(device)
    cost.seconds = time.perf_counter() - start


class PeakMemory:
    """Peak of torch's allocator on a GPU since its last reset, leaving out the blocks run `apart`.

    Args:
        device: where the work runs; only CUDA has a peak to measure.
    """

    def __init__(self, device: torch.device | str):
        self.device, self._former = torch.device(device), 0

    @property
    def bytes(self) -> int | None:
        """The peak so far; None where it is not measured."""
        if self.device.type != "cuda":
            return None
        return max(self._former, torch.cuda.max_memory_allocated(self.device))

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Leave the memory of the block out; the block may reset the allocator's peak, as `measure` does."""
        self._former = self.bytes or 0
        try:
            yield
        finally:
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)


def count_flops(call: nn.Module | Callable, *args, **kwargs) -> int:
    """FLOPs of one call of a model: 2 per multiply-add of its matrix products, convolutions and attention.

    Nothing is computed. A twin of the model without storage runs on the meta device with the plain attention kernel,
    so the count is the same on every device, for every dtype and attention backend (a fused kernel that torch has no
    formula for would count as 0). Causal attention is counted in full; norms and activations count 0. The model is
    left untouched, and a count is kept for as long as the model lives, by the shapes of the arguments.

    Args:
        call: a module, or a method of one such as `vae.decode`.
        args, kwargs: what it is called with. Only the shapes of tensors matter, and they may lie on any device;
            whatever else has a `to` method (`VidTwinLatents`) is moved by it.

    Raises:
        TypeError: if `call` is neither a module nor a method of one.
    """
    model, method = (call, None) if isinstance(call, nn.Module) else (getattr(call, "__self__", None), call)
    if not isinstance(model, nn.Module):
        raise TypeError(f"count_flops takes a module or a method of one, got {call!r}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    args, kwargs = tree_map(_to_meta, (args, kwargs))
    function = type(model).forward if method is None else method.__func__
    key = (function, repr((args, kwargs)))  # a meta tensor shows its shape
    counts = _COUNTS.setdefault(model, {})
    if key not in counts:
        twin = _meta_twin(model)
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), attention_backend("native"), sdpa_kernel(SDPBackend.MATH), counter:
            function(twin, *args, **kwargs)
        counts[key] = counter.get_total_flops()
    return counts[key]


def forget_flops(model: nn.Module) -> None:
    """Count a model anew from now on, because its layers have changed."""
    _COUNTS.pop(model, None)


def _to_meta(value: Any) -> Any:
    return value.to("meta") if hasattr(value, "to") else value


def _meta_twin(model: nn.Module) -> nn.Module:
    """A copy with meta tensors for weights, without hooks, offloading, compilation or an own choice of kernel.

    `copy.deepcopy` takes what it finds in `memo` for the copy of an object, so the weights themselves are never copied.
    """
    memo = {}
    plain = (value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor))
    for tensor in (*model.parameters(), *model.buffers(), *plain):
        meta = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(meta, requires_grad=False) if isinstance(tensor, nn.Parameter) else meta
    for module in model.modules():
        memo |= {id(vars(module)[name]): OrderedDict() for name in _HOOKS}
        memo |= {id(vars(module)[name]): None for name in _OFFLOADING if name in vars(module)}
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        for name in _OFFLOADING:
            vars(module).pop(name, None)
        module._compiled_call_impl = None
        if hasattr(processor := getattr(module, "processor", None), "_attention_backend"):
            processor._attention_backend = None
    return twin

"""Timing a model in turns with its own matrix products alone, so that both run on an equally fast machine."""

import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from autoencoder.common.cost import measure

# What an operator belongs to: the first pattern that fits its name or the name of one that called it. Copies come
# before matrix products, so that laying out an input is a copy, but spreading the bias is a part of the product.
_KINDS = {
    "attention": re.compile("attention|attn"),
    "convolutions": re.compile("conv"),
    "copies": re.compile(r"aten::(clone|contiguous|reshape|to|_to_copy|cat|constant_pad_nd)$"),
    "matrix products": re.compile(r"aten::(linear|matmul|addmm|mm|bmm)$"),
}
_OTHER_KIND = "norms and elementwise"


class LinearCall(NamedTuple):
    """One call of a linear layer: (rows, in_features) -> (rows, out_features)."""

    rows: int
    in_features: int
    out_features: int
    bias: bool

    @property
    def flops(self) -> int:
        """2 per multiply-add."""
        return 2 * self.rows * self.in_features * self.out_features


@dataclass(frozen=True)
class Measurement:
    """Rounds of a piece of work and of its linear layers alone.

    Attributes:
        flops: the work's FLOPs.
        seconds: the work's seconds, median over the rounds.
        flops_per_second: `flops` over `seconds`.
        linear_flops: FLOPs of the linear layers in one forward.
        linear_flops_per_second: their rate alone, median over the rounds.
        ratio: rate of the work over the rate of its linear layers alone, median over the rounds.
        rounds: how many.
        peak_memory_bytes: the allocator's peak on CUDA, without the products alone; None means not measured.
    """

    flops: int
    seconds: float
    flops_per_second: float
    linear_flops: int
    linear_flops_per_second: float
    ratio: float
    rounds: int
    peak_memory_bytes: int | None


@contextmanager
def recorded_linears(model: nn.Module) -> Iterator[list[LinearCall]]:
    """List every call of an `nn.Linear` in the model, in order, while the block runs."""
    calls = []

    def record(linear: nn.Linear, args: tuple[torch.Tensor]) -> None:
        rows = args[0].numel() // linear.in_features
        calls.append(LinearCall(rows, linear.in_features, linear.out_features, linear.bias is not None))

    hooks = [module.register_forward_pre_hook(record) for module in model.modules() if isinstance(module, nn.Linear)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def time_linears(calls: Sequence[LinearCall], dtype: torch.dtype, device: torch.device) -> float:
    """Seconds of plain linear layers, one for each of `calls` and in their order; those of one shape share operands."""

    def operands(call: LinearCall) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        def noise(*shape: int) -> torch.Tensor:
            return torch.randn(shape, dtype=dtype, device=device)

        bias = noise(call.out_features) if call.bias else None
        return noise(call.rows, call.in_features), noise(call.out_features, call.in_features), bias

    operands_by_call = {call: operands(call) for call in calls}
    for arguments in operands_by_call.values():  # the first call of a shape builds its kernel
        F.linear(*arguments)
    with measure(device) as cost:
        for call in calls:
            F.linear(*operands_by_call[call])
    return cost.seconds


def measure_in_turns(
    work: Callable[[], object], model: nn.Module, flops: int, dtype: torch.dtype, device: torch.device, rounds: int
) -> Measurement:
    """Time a piece of work beside its matrix products alone, after a warm-up of both.

    Half of the products run before the work and half after it, so that a drift in the machine's speed affects both
    alike.

    Args:
        work: what is timed; it calls `model` once.
        model: whose linear layers are timed alone.
        flops: the work's FLOPs.
        dtype: dtype of the products alone.
        device: where both run.
        rounds: turns, at least 1.
    """
    with recorded_linears(model) as calls:
        work()
    linear_flops = sum(call.flops for call in calls)
    costs, linear_seconds = [], []
    for _ in range(rounds):
        before = time_linears(calls[::2], dtype, device)
        with measure(device) as cost:
            work()
        costs.append(cost)
        linear_seconds.append(before + time_linears(calls[1::2], dtype, device))
    seconds = statistics.median(cost.seconds for cost in costs)
    peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None]
    rounds_of_both = zip(costs, linear_seconds, strict=True)
    return Measurement(
        flops=flops,
        seconds=seconds,
        flops_per_second=flops / seconds,
        linear_flops=linear_flops,
        linear_flops_per_second=linear_flops / statistics.median(linear_seconds),
        ratio=statistics.median((flops / cost.seconds) / (linear_flops / linear) for cost, linear in rounds_of_both),
        rounds=rounds,
        peak_memory_bytes=max(peaks, default=None),
    )


def time_by_kind(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Share of the time by kind of operator, largest first; the shares add up to 1.

    Args:
        work: run once, under torch's profiler.
        device: whose time counts: on CUDA that of the kernels, on the CPU that of the operators.
    """
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as profiler:
        work()
    times = dict.fromkeys((*_KINDS, _OTHER_KIND), 0.0)
    for event in profiler.events():
        if event.device_type == DeviceType.CPU:  # kernels are counted with the operator that launched them
            times[_kind(event)] += event.self_device_time_total if on_cuda else event.self_cpu_time_total
    total = sum(times.values())
    return {kind: time / total for kind, time in sorted(times.items(), key=lambda item: -item[1])}


def _kind(event: torch.autograd.profiler_util.FunctionEvent) -> str:
    names = [event.name]
    while (event := event.cpu_parent) is not None:
        names.append(event.name)
    for kind, pattern in _KINDS.items():
        if any(pattern.search(name) for name in names):
            return kind
    return "copies" if names[0] == "aten::copy_" else _OTHER_KIND

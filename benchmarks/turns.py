"""Timing several models in turns, so that all of them run on an equally fast machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autoencoder.common.cost import measure


@dataclass(frozen=True)
class Contender:
    """A model and the work to time.

    Attributes:
        name: the model's name.
        model: the module, with its weights on the CPU or on the device of the timing.
        call: the work.
        flops: the work's FLOPs.
        warm_up: runs once before the timing; None runs the work itself.
    """

    name: str
    model: nn.Module
    call: Callable[[], object]
    flops: int
    warm_up: Callable[[], object] | None = None


def warm_up_alone(contenders: Sequence[Contender], device: torch.device) -> list[int | None]:
    """Warm every contender up with no other on the device.

    Returns:
        Peak memory of each in bytes, its weights included; None where it cannot be measured. All models are on the
        device in the end.
    """
    peaks = []
    for contender in contenders:
        contender.model.to(device)
        with measure(device) as cost:
            (contender.warm_up or contender.call)()
        peaks.append(cost.peak_memory_bytes)
        contender.model.to("cpu")
    for contender in contenders:
        contender.model.to(device)
    return peaks


def time_in_turns(contenders: Sequence[Contender], device: torch.device, rounds: int) -> list[list[float]]:
    """Seconds of every round, by contender; the order of the contenders is reversed in every other round."""
    seconds = [[] for _ in contenders]
    turns = list(zip(contenders, seconds, strict=True))
    for round_ in range(rounds):
        for contender, times in reversed(turns) if round_ % 2 else turns:
            with measure(device) as cost:
                contender.call()
            times.append(cost.seconds)
    return seconds

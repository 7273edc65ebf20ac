"""Several models timed in turns, so that all of them see the same machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autoencoder.common.cost import measure


@dataclass(frozen=True)
class Contender:
    """A model and what it is timed at.

    Attributes:
        name: of the model.
        model: the module, with its weights on the CPU or where it is timed.
        call: the work.
        flops: of the work.
        warm_up: what runs before the clock does; None stands for the work itself.
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
    """Seconds of every round of every contender; the order turns round from one round to the next."""
    seconds = [[] for _ in contenders]
    turns = list(zip(contenders, seconds, strict=True))
    for round_ in range(rounds):
        for contender, times in reversed(turns) if round_ % 2 else turns:
            with measure(device) as cost:
                contender.call()
            times.append(cost.seconds)
    return seconds

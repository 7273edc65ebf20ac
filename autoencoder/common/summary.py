"""Lines that a run prints: its settings before the first step, when it will be done, and what a step takes."""

import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import torch
from torch import nn

from autoencoder.common.config import RunConfig
from autoencoder.common.cost import format_bytes
from autoencoder.common.machine import describe_machine
from autoencoder.common.run import RunFolder

if TYPE_CHECKING:
    from autoencoder.common.records import Records
    from autoencoder.data.clips import ClipDataset

MEASURED_SECONDS = 10.0
SKIPPED_STEPS = 3  # at the start, which compile, load and warm up


def summary(entries: Mapping[str, str]) -> str:
    """Format texts by name as aligned lines."""
    width = max(map(len, entries)) + 2
    return "\n".join(f"{name:{width}}{text}" for name, text in entries.items())


def format_duration(seconds: float) -> str:
    """Seconds as text, such as "40 s", "12 min" or "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def describe_clips(clips: "ClipDataset") -> str:
    """One line: how many clips a data set has, and of how many classes."""
    count = len(clips.class_names)
    return f"{len(clips):,} clips" + (f" of {count} class{'es' * (count > 1)}" if count else ", no classes")


def describe_batches(config: RunConfig, num_processes: int) -> str:
    """One line: steps, batch size and micro-batches."""
    sizes = config.micro_batches(num_processes)
    parts = f", {len(sizes)} micro-batches of {sizes[0]} on each device" if len(sizes) > 1 else ""
    return f"{config.max_steps:,} with {config.batch_size} clips each{parts}"


class ExpectedEnd:
    """Estimates once, as soon as it can, how long a run still takes.

    Args:
        max_steps: the run's number of steps.
    """

    def __init__(self, max_steps: int):
        self.max_steps = max_steps
        self._calls, self._start, self._first, self._is_told = 0, 0.0, 0, False

    def after_step(self, step: int) -> str | None:
        """Must be called after every step.

        Returns:
            The estimate in one line, once `MEASURED_SECONDS` have passed since the warm-up steps; else None.
        """
        self._calls += 1
        now = time.perf_counter()
        if self._calls == SKIPPED_STEPS:
            self._start, self._first = now, step
        seconds = now - self._start
        if self._is_told or self._calls <= SKIPPED_STEPS or seconds < MEASURED_SECONDS:
            return None
        self._is_told = True
        per_step = seconds / (step - self._first)
        left = per_step * (self.max_steps - step)
        if left < MEASURED_SECONDS:
            return None
        end = datetime.now() + timedelta(seconds=left)
        rate = f"{1 / per_step:.2f} steps per second" if per_step < 1 else f"{per_step:.1f} seconds per step"
        day = "%H:%M" if left < 86_400 else "%Y-%m-%d %H:%M"
        return f"about {format_duration(left)} to go, until {end:{day}} ({rate}; validation and previews not counted)"


def log_run(records: "Records", folder: RunFolder, device: torch.device, step: int) -> None:
    """Write the config.yaml of a run, and its machine, to its records."""
    records.text("machine", describe_machine(device), step)
    if folder.config.is_file():
        records.settings(folder.config.read_text(), step)


def step_memory(modules: Iterable[nn.Module], optimizers: Iterable[torch.optim.Optimizer], averages: int) -> str:
    """One line: bytes of weights, gradients, optimiser states and averages, counted, and on CUDA the measured peak.

    Args:
        modules: that were trained and still have their gradients; at least one.
        optimizers: that have made a step.
        averages: moving averages of the weights of the first module.
    """
    modules = list(modules)
    weights = [sum(parameter.nbytes for parameter in module.parameters()) for module in modules]
    gradients = sum(p.grad.nbytes for module in modules for p in module.parameters() if p.grad is not None)
    states = sum(
        value.nbytes
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    held = {"weights": sum(weights), "gradients": gradients, "optimiser": states, "averages": averages * weights[0]}
    text = ", ".join(f"{name} {format_bytes(count)}" for name, count in held.items() if count)
    device = next(modules[0].parameters()).device
    if device.type != "cuda":
        return f"{text}; peak of the step not measured on {device.type}"
    return f"{text}; peak of the step {format_bytes(torch.cuda.max_memory_allocated(device))}"

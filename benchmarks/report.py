"""Output of a benchmark: one row per measurement on the screen, and a JSON file."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from autoencoder.common.cost import format_bytes, format_flops
from autoencoder.common.files import atomic_path
from autoencoder.common.machine import cpu_name
from benchmarks.measure import Measurement

HEADER = (
    f"{'size':6} {'batch':>5} {'work':13} {'dtype':5} {'seconds':>9} {'FLOPs':>14} {'rate':>16} {'matrix rate':>16} "
    f"{'ratio':>6}  peak memory"
)


@dataclass(frozen=True, kw_only=True)
class Result(Measurement):
    """A measurement and what was measured.

    FLOPs are those of `autoencoder.common.cost.count_flops`; a training step counts as three forwards, by convention.

    Attributes:
        size: name of the model's size.
        batch_size: clips, or token sequences.
        work: "forward" or "training step" (forward, backward and AdamW).
        dtype: "fp32" or "bf16" (weights in bf16 for the forward, autocast over fp32 weights for the training step).
        time_by_kind: share of the time of a forward by kind of operator; None for a training step.
    """

    size: str
    batch_size: int
    work: str
    dtype: str
    time_by_kind: dict[str, float] | None

    def __str__(self) -> str:
        memory = "not measured" if self.peak_memory_bytes is None else format_bytes(self.peak_memory_bytes)
        row = (
            f"{self.size:6} {self.batch_size:5} {self.work:13} {self.dtype:5} {self.seconds:9.4f} "
            f"{format_flops(self.flops):>14} {format_flops(self.flops_per_second) + '/s':>16} "
            f"{format_flops(self.linear_flops_per_second) + '/s':>16} {self.ratio:6.1%}  {memory}"
        )
        if self.time_by_kind is None:
            return row
        return f"{row}\n{'':13}time: {', '.join(f'{kind} {share:.1%}' for kind, share in self.time_by_kind.items())}"


def environment(device: torch.device) -> dict[str, str | int]:
    """The machine, library version and date of a measurement."""
    on_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else "CPU",
        "cpu": cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_json(path: str | Path, benchmark: str, environment: dict[str, str | int], results: Sequence) -> None:
    """Write everything that was measured, a sequence of dataclasses, atomically."""
    report = {"benchmark": benchmark, **environment, "results": [asdict(result) for result in results]}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")

"""The machine that a run or a measurement is made on."""

import os
import platform
from pathlib import Path

import torch


def cpu_name() -> str:
    """The model of the processor, which `platform` does not know on Linux."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_machine(device: torch.device) -> str:
    """One line: the GPU, or the processor with the threads of this process, and the version of torch."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    capability = torch.backends.cpu.get_cpu_capability()
    threads, cores = torch.get_num_threads(), os.cpu_count() or 0
    return f"{cpu_name()} ({capability}), {threads} of {cores} cores, torch {torch.__version__}"

"""The speed benchmark of either stage: its loop over sizes, batch sizes, dtypes and kinds of work."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from autoencoder.common import commands
from autoencoder.common.cost import count_flops, training_flops
from autoencoder.common.device import resolve_device
from benchmarks.measure import measure_in_turns, time_by_kind
from benchmarks.report import HEADER, Result, environment, write_json
from benchmarks.settings import DTYPE_NAMES, BenchmarkConfig

DTYPES = dict(zip(DTYPE_NAMES, (torch.float32, torch.bfloat16), strict=True))


@dataclass(frozen=True)
class Stage:
    """The parts of a stage that its benchmark needs.

    Attributes:
        name: the stage's name.
        models: a function that builds the model, by size.
        inputs: (model, batch size) -> arguments of a forward, fp32 on the CPU.
        loss: (model, arguments) -> loss of a training step; it calls the model once.
    """

    name: str
    models: dict[str, Callable[[], nn.Module]]
    inputs: Callable[[nn.Module, int], tuple[torch.Tensor, ...]]
    loss: Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Work:
    """A piece of work to time.

    Attributes:
        call: does the work once, and calls the model once.
        model: which it calls.
        flops: the work's FLOPs.
    """

    call: Callable[[], None]
    model: nn.Module
    flops: int


def preset_model(stage: str, name: str) -> dict[str, Any]:
    """The settings of the model in a preset."""
    return yaml.safe_load(commands.preset_path(stage, name).read_text())["model"]


def forward(stage: Stage, size: str, batch_size: int, dtype: str, device: torch.device) -> Work:
    """A forward in evaluation mode, the weights in `dtype`."""
    model = stage.models[size]().to(device).eval()
    # diffusers' own `to` warns of modules kept in fp32 whenever it is given a dtype, even where there are none.
    model = nn.Module.to(model, DTYPES[dtype])
    inputs = [
        tensor.to(device, DTYPES[dtype] if tensor.is_floating_point() else None)
        for tensor in stage.inputs(model, batch_size)
    ]

    @torch.inference_mode()
    def call() -> None:
        model(*inputs)

    return Work(call, model, count_flops(model, *inputs))


def training_step(stage: Stage, size: str, batch_size: int, dtype: str, device: torch.device) -> Work:
    """Forward, backward and AdamW in training mode; bf16 is autocast over fp32 weights."""
    model = stage.models[size]().to(device).train()
    inputs = [tensor.to(device) for tensor in stage.inputs(model, batch_size)]
    optimizer = torch.optim.AdamW(model.parameters())

    def call() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
            loss = stage.loss(model, *inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return Work(call, model, training_flops(model, *inputs))


WORKS = {"forward": forward, "training step": training_step}


def result(
    stage: Stage, name: str, size: str, batch_size: int, dtype: str, device: torch.device, rounds: int
) -> Result:
    """Measure one kind of work; the model is freed when this returns."""
    work = WORKS[name](stage, size, batch_size, dtype, device)
    measurement = measure_in_turns(work.call, work.model, work.flops, DTYPES[dtype], device, rounds)
    return Result(
        size=size,
        batch_size=batch_size,
        work=name,
        dtype=dtype,
        time_by_kind=time_by_kind(work.call, device) if name == "forward" else None,
        **asdict(measurement),
    )


def results(stage: Stage, config: BenchmarkConfig, device: torch.device) -> Iterator[Result]:
    """Every measurement that the config asks for, one after the other."""
    names = ["forward"] if config.skip_training else list(WORKS)
    for case in itertools.product(names, config.size_list, config.batch_sizes, config.dtype_list):
        yield result(stage, *case, device, config.rounds)


def run(stage: Stage, config: BenchmarkConfig) -> None:
    """Measure a stage, print the table and write it."""
    device = resolve_device("auto")
    machine = environment(device)
    print(", ".join(f"{key} {value}" for key, value in machine.items()), HEADER, sep="\n", flush=True)
    measured = []
    for row in results(stage, config, device):
        print(row, flush=True)
        measured.append(row)
    output = Path(config.output or f"outputs/benchmarks/{stage.name}.json")
    write_json(output, stage.name, machine, measured)
    print(f"ratio: rate over that of the model's own linear layers alone, measured in turns; written to {output}")

"""The work of `python -m benchmarks.sampling`."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from autoencoder.common.cost import format_bytes, format_flops
from autoencoder.common.device import resolve_device
from benchmarks import contenders
from benchmarks.contenders import PATCHES, Scale
from benchmarks.measure import time_by_kind
from benchmarks.report import environment, write_json
from benchmarks.sampling import SamplingConfig
from benchmarks.suite import DTYPES
from benchmarks.turns import Contender, time_in_turns, warm_up_alone

FULL_STEPS = 50  # of the paper's sampler
FLOPS_GOAL, SECONDS_GOAL = 6, 5  # how many times as much Latte should take
HEADER = (
    f"{'':52}{'FLOPs':>14}{f'of {FULL_STEPS} steps':>15}{'steps':>7}{'s / step':>10}{'seconds':>9}{'peak memory':>14}"
)
WORKS = {"forward": contenders.forward, "training step": contenders.training_step}


@dataclass(frozen=True, kw_only=True)
class SamplingRow:
    """Cost of a model.

    Attributes:
        comparison: "denoiser" or "decoder".
        name: the model's name.
        flops: FLOPs of one step, or of decoding the clip.
        steps: calls that were timed, in turns with the others.
        seconds: seconds of all these calls together.
        peak_memory_bytes: the allocator's peak on CUDA with this model alone, its weights included; None means not
            measured.
    """

    comparison: str
    name: str
    flops: int
    steps: int
    seconds: float
    peak_memory_bytes: int | None

    def __str__(self) -> str:
        memory = "not measured" if self.peak_memory_bytes is None else format_bytes(self.peak_memory_bytes)
        all_steps = format_flops(FULL_STEPS * self.flops) if self.comparison == "denoiser" else ""
        return (
            f"{self.name:52}{format_flops(self.flops):>14}{all_steps:>15}{self.steps:7}"
            f"{self.seconds / self.steps:10.3f}{self.seconds:9.2f}{memory:>14}"
        )


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Cost of another model divided by ours.

    Attributes:
        comparison: "denoiser" or "decoder".
        name, other: ours and the other one.
        flops, seconds, memory: theirs over ours; memory None where it was not measured.
        reached: whether a denoiser reaches the goal for FLOPs and seconds; None for a decoder, which has none.
    """

    comparison: str
    name: str
    other: str
    flops: float
    seconds: float
    memory: float | None
    reached: bool | None

    def __str__(self) -> str:
        memory = "not measured" if self.memory is None else f"{self.memory:.2f}"
        line = (
            f"{self.other} over {self.name}: FLOPs {self.flops:.2f}, seconds {self.seconds:.2f}, peak memory {memory}"
        )
        if self.reached is None:
            return line
        return f"{line}: goal of {FLOPS_GOAL} and {SECONDS_GOAL} {'reached' if self.reached else 'NOT reached'}"


@dataclass(frozen=True, kw_only=True)
class EqualRow:
    """Our DiT beside diffusers' of equal width, depth and tokens.

    Attributes:
        comparison: "equal DiT".
        work: "forward" or "training step".
        layers: blocks of each.
        compiled: whether both were compiled.
        flops, other_flops: FLOPs of the work, ours and theirs.
        seconds, other_seconds: medians over the rounds.
        ratio: theirs over ours, median over the rounds; above 1 ours is faster.
        lowest_ratio: lowest ratio of any round.
        rounds: how many.
        time_by_kind, other_time_by_kind: share of the time of each kind of operator.
    """

    comparison: str = "equal DiT"
    work: str
    layers: int
    compiled: bool
    flops: int
    other_flops: int
    seconds: float
    other_seconds: float
    ratio: float
    lowest_ratio: float
    rounds: int
    time_by_kind: dict[str, float]
    other_time_by_kind: dict[str, float]

    def __str__(self) -> str:
        kind = f"{self.work}, {self.layers} blocks{', compiled' if self.compiled else ''}"
        both = [
            ("VidTwin", self.flops, self.seconds, self.time_by_kind),
            ("diffusers", self.other_flops, self.other_seconds, self.other_time_by_kind),
        ]
        lines = [
            f"{f'{name} DiT, {kind}':52}{format_flops(flops):>14}{seconds:10.3f} s  {_shares(shares)}"
            for name, flops, seconds, shares in both
        ]
        place = "ours slower" if self.ratio < 1 else "ours not slower"
        lines.append(f"diffusers over VidTwin: seconds {self.ratio:.2f} (lowest {self.lowest_ratio:.2f}): {place}")
        return "\n".join(lines)


def _shares(time_by_kind: dict[str, float]) -> str:
    return ", ".join(f"{kind} {share:.1%}" for kind, share in time_by_kind.items() if share)


def measured(comparison: str, entrants: Sequence[Contender], device: torch.device, steps: int) -> list[SamplingRow]:
    """Time models in turns.

    Args:
        comparison: "denoiser" or "decoder".
        entrants: the models.
        device: where they run.
        steps: calls of each.
    """
    peaks = warm_up_alone(entrants, device)
    seconds = time_in_turns(entrants, device, steps)
    return [
        SamplingRow(
            comparison=comparison,
            name=entrant.name,
            flops=entrant.flops,
            steps=steps,
            seconds=sum(times),
            peak_memory_bytes=peak,
        )
        for entrant, times, peak in zip(entrants, seconds, peaks, strict=True)
    ]


def ratio(ours: SamplingRow, other: SamplingRow) -> Ratio:
    """The other model's cost over ours."""
    flops, seconds = other.flops / ours.flops, other.seconds / ours.seconds
    peaks = other.peak_memory_bytes, ours.peak_memory_bytes
    has_goal = ours.comparison == "denoiser"
    return Ratio(
        comparison=ours.comparison,
        name=ours.name,
        other=other.name,
        flops=flops,
        seconds=seconds,
        memory=None if None in peaks else peaks[0] / peaks[1],
        reached=flops >= FLOPS_GOAL and seconds >= SECONDS_GOAL if has_goal else None,
    )


def compare_equal(
    work: str, scale: Scale, layers: int, config: SamplingConfig, dtype: torch.dtype, device: torch.device
) -> EqualRow:
    """Time our DiT and diffusers' in turns."""
    models = contenders.equal_models(scale, layers)
    if config.compile:
        models = [(name, torch.compile(model), inputs) for name, model, inputs in models]
    entrants = [WORKS[work](*model, dtype, device) for model in models]
    for entrant in entrants:
        entrant.call()
    ours, theirs = time_in_turns(entrants, device, config.rounds)
    ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
    return EqualRow(
        work=work,
        layers=layers,
        compiled=config.compile,
        flops=entrants[0].flops,
        other_flops=entrants[1].flops,
        seconds=statistics.median(ours),
        other_seconds=statistics.median(theirs),
        ratio=statistics.median(ratios),
        lowest_ratio=min(ratios),
        rounds=config.rounds,
        time_by_kind=time_by_kind(entrants[0].call, device),
        other_time_by_kind=time_by_kind(entrants[1].call, device),
    )


def denoisers(scale: Scale, dtype: torch.dtype, device: torch.device, steps: int) -> list[SamplingRow | Ratio]:
    """Compare our DiT with every choice of patches, and Latte on the same clip and at its own size."""
    ours = [contenders.vidtwin_denoiser(scale, patches, dtype, device) for patches in PATCHES]
    latte = contenders.latte_denoisers(scale, dtype, device)
    rows = measured("denoiser", [*ours, *latte], device, steps)
    return rows + [ratio(own, other) for other in rows[len(ours) :] for own in rows[: len(ours)]]


def decoders(scale: Scale, dtype: torch.dtype, device: torch.device) -> list[SamplingRow | Ratio]:
    """Compare our decoder with the image autoencoder's."""
    entrants = [make(scale, dtype, device) for make in (contenders.vidtwin_decoder, contenders.image_decoder)]
    rows = measured("decoder", entrants, device, 1)
    return [*rows, ratio(*rows)]


def results(config: SamplingConfig, scale: Scale, device: torch.device) -> Iterator[SamplingRow | Ratio | EqualRow]:
    """Run the comparisons of the config, and yield their rows."""
    on_cuda, dtype = device.type == "cuda", DTYPES[config.dtype]
    if "denoiser" in config.part_list:
        yield from denoisers(scale, dtype, device, config.steps or (FULL_STEPS if on_cuda else 2))
    if "decoder" in config.part_list:
        yield from decoders(scale, dtype, device)
    if "equal" not in config.part_list:
        return
    layers = config.layers or (scale.dit["num_layers"] if on_cuda else min(4, scale.dit["num_layers"]))
    for work in WORKS:
        yield compare_equal(work, scale, layers, config, dtype, device)


def execute(config: SamplingConfig) -> None:
    """Time all parts, print and write."""
    device = resolve_device("auto")
    machine = environment(device) | {"dtype": config.dtype, "quick": config.quick}
    print(", ".join(f"{key} {value}" for key, value in machine.items()), HEADER, sep="\n", flush=True)
    scale = contenders.quick_scale() if config.quick else contenders.paper_scale()
    rows = []
    for row in results(config, scale, device):
        print(row, flush=True)
        rows.append(row)
    write_json(config.output, "sampling", machine, rows)
    print(f"written to {config.output}")

"""The work of `python -m benchmarks.memory`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from autoencoder.common.config import OptimizerConfig
from autoencoder.common.files import atomic_path
from benchmarks import memory as command
from benchmarks.memory import MemoryConfig
from benchmarks.report import write_json
from benchmarks.saved_memory import count_saved_in_blocks
from benchmarks.training_steps import Step, make_step
from pipelines.stages import read_presets

CARD = 80 * 10**9  # bytes of an A100 or H100 of 80 GB
LIMIT = CARD * 9 // 10

SIZES = ("tiny", "control", "clips64_short", "clips64", "shapes_quick", "shapes_short", "shapes_long")
SIZES += ("sprites", "sprites_control", "small", "base", "large")
SETTINGS = ("setting2", "setting3", "released", "one_latent", "dynamics_qformer", "convolution", "space_in_hidden")
NOT_COUNTED = ("shapes_lora",)  # a frozen model and adapters beside it, which no step here is made of
RECIPES = ("shapes", "shapes_long", "sprites", "clips64", "folder", "ucf101", "ucf101_paper")
DIT_SIZES = ("size_s", "size_b", "size_l", "size_xl")
AUTOENCODERS = [(size,) for size in SIZES] + [("base", setting) for setting in SETTINGS]
GENERATORS = [(recipe,) for recipe in RECIPES] + [(recipe, size) for recipe in RECIPES[4:] for size in DIT_SIZES]
STAGE_ROWS = (("autoencoder", AUTOENCODERS), ("generator", GENERATORS))


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of a training step on one GPU.

    Attributes:
        stage: "autoencoder" or "generator".
        preset: presets, in the order in which they are given.
        parameters: number of parameters of the model that trains, without a discriminator.
        precision: "bf16" or "fp32".
        micro_batch: samples that go through at a time on one GPU.
        checkpointing: whether the preset computes blocks again in the backward pass.
        saved: kept for the backward pass without computing blocks again.
        saved_with_checkpointing: the same with computing blocks again, the largest block's own included.
        states: weights, gradients, optimiser states and moving averages, also of the discriminator, and the weights of
            LPIPS.
        total: states, and what the preset as it stands keeps for the backward pass.
        largest_micro_batch: that fits the card without computing blocks again; 0 if one sample does not fit.
        largest_with_checkpointing: that fits the card with computing blocks again.
        fits: whether the preset as it stands fits.
    """

    stage: str
    preset: str
    parameters: int
    precision: str
    micro_batch: int
    checkpointing: bool
    saved: int
    saved_with_checkpointing: int
    states: int
    total: int
    largest_micro_batch: int
    largest_with_checkpointing: int
    fits: bool


class FusedAttention(TorchFunctionMode):
    """Attention by the operators that CUDA uses; without a GPU torch would choose the one that keeps all weights."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is not F.scaled_dot_product_attention:
            return function(*args, **kwargs)
        query, key, value, mask, dropout, is_causal = _attention_arguments(*args, **kwargs)
        if torch.is_autocast_enabled("cuda"):
            query, key, value = (tensor.to(torch.get_autocast_dtype("cuda")) for tensor in (query, key, value))
        if query.dtype is torch.float32 or mask is not None:
            keep = torch.is_grad_enabled()
            efficient = torch.ops.aten._scaled_dot_product_efficient_attention
            return efficient(query, key, value, mask, keep, dropout, is_causal)[0]
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout, is_causal)[0]


def _attention_arguments(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
    return query, key, value, attn_mask, dropout_p, is_causal


@contextmanager
def fake_gpu(precision: str) -> Iterator[None]:
    """Create tensors on fake CUDA, without contents; bf16 autocast is set by hand, as torch.autocast needs a GPU."""
    with FakeTensorMode(), torch.device("cuda"), FusedAttention():
        former = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        torch.set_autocast_enabled("cuda", precision == "bf16")
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.autocast_increment_nesting()
        try:
            yield
        finally:
            if torch.autocast_decrement_nesting() == 0:
                torch.clear_autocast_cache()
            torch.set_autocast_enabled("cuda", former[0])
            torch.set_autocast_dtype("cuda", former[1])


def precision_on_card(config: Any) -> str:
    """The precision of a config on a card of 80 GB, where "auto" is bf16."""
    return "bf16" if config.precision == "auto" else config.precision


def optimizer_states(config: OptimizerConfig, module: nn.Module) -> int:
    """Bytes that an optimiser keeps: two averages of a weight, or one where Muon orthogonalises it."""
    optimizer, _ = config.build(module, max_steps=1)
    return sum(
        parameter.nbytes * (1 if group.get("use_muon") else 2)
        for group in optimizer.param_groups
        for parameter in group["params"]
    )


def states_bytes(step: Step) -> int:
    """Weights, gradients, states of the optimisers and moving averages of what trains, and frozen weights."""
    trained = sum(2 * _bytes(module) + optimizer_states(optimizer, module) for module, optimizer in step.trained)
    return trained + step.num_averages * _bytes(step.model) + sum(map(_bytes, step.frozen))


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def count_presets(stage: str, *presets: str, **changes: Any) -> Memory:
    """Count the memory of a training step with presets, later ones on top, and changed fields of their config."""
    config, settings = read_presets(stage, *presets)
    config = replace(config, **changes)
    with fake_gpu(precision_on_card(config)):
        step = make_step(stage, config, settings)
        # The saved bytes grow linearly with the batch, so two counts give all. One sample is no good: some of its
        # rearrangements are views where those of more are copies.
        counts = [count_saved_in_blocks(lambda n=n: step.losses(n), step.model, step.modules) for n in (2, 3)]
        return _row(stage, " + ".join(presets), step, *zip(*counts, strict=True))


def _row(stage: str, preset: str, step: Step, whole: tuple[int, int], checkpointed: tuple[int, int]) -> Memory:
    """The row of presets, from the bytes saved for two and for three samples."""
    config, states = step.config, states_bytes(step)
    micro_batch = max(config.micro_batches(1))

    def saved(counts: tuple[int, int]) -> int:
        return counts[0] + (micro_batch - 2) * (counts[1] - counts[0])

    def largest(counts: tuple[int, int]) -> int:
        return max(0, 2 + (LIMIT - states - counts[0]) // (counts[1] - counts[0]))

    total = states + saved(checkpointed if config.gradient_checkpointing else whole)
    return Memory(
        stage=stage,
        preset=preset,
        parameters=sum(parameter.numel() for parameter in step.model.parameters()),
        precision=precision_on_card(config),
        micro_batch=micro_batch,
        checkpointing=config.gradient_checkpointing,
        saved=saved(whole),
        saved_with_checkpointing=saved(checkpointed),
        states=states,
        total=total,
        largest_micro_batch=largest(whole),
        largest_with_checkpointing=largest(checkpointed),
        fits=total <= LIMIT,
    )


def count_all() -> list[Memory]:
    """The rows of all presets; sizes of stage two on top of every recipe, settings of stage one on top of base."""
    return [count_presets(stage, *presets) for stage, rows in STAGE_ROWS for presets in rows]


def table(rows: Sequence[Memory]) -> str:
    """The rows as a table in Markdown; GB are 10^9 bytes."""
    heads = (
        *("presets", "parameters", "precision", "micro-batch", "saved, GB", "with checkpointing", "states, GB"),
        *("as it stands", "checkpointing", "fits 80 GB", "largest micro-batch", "with checkpointing"),
    )
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        cells = (
            f"{row.stage} {row.preset}",
            f"{row.parameters / 1e6:.1f} M",
            row.precision,
            str(row.micro_batch),
            *(f"{size / 1e9:.2f}" for size in (row.saved, row.saved_with_checkpointing, row.states, row.total)),
            "on" if row.checkpointing else "off",
            "yes" if row.fits else "NO",
            str(row.largest_micro_batch),
            str(row.largest_with_checkpointing),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def execute(config: MemoryConfig) -> None:
    """Count all presets, print the table and write it."""
    rows = count_all()
    text = table(rows)
    print(text)
    write_json(config.output_dir / "memory.json", "memory", {"torch": torch.__version__, "limit_bytes": LIMIT}, rows)
    with atomic_path(config.output_dir / "memory.md") as temporary:
        temporary.write_text(text + "\n")
    explanation = " ".join(command.__doc__.split("\n\n")[1].split())
    print(f"\n{explanation}\nwrote memory.json and memory.md to {config.output_dir}")

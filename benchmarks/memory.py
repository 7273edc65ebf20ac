"""What a training step of every preset holds on a GPU, counted without one: python -m benchmarks.memory.

Each preset is taken as it stands, with its micro-batch, its precision and its checkpointing, on one GPU. Counted is
what autograd keeps for the backward pass when it begins, each storage once, with attention kernels that keep no
weights; where blocks are computed again, also what the largest of them keeps. To it come weights, gradients, the
optimiser's states, moving averages, and in stage one the discriminator and LPIPS. Not counted: temporary tensors of
the backward pass and of the optimiser, the work space of kernels, what the allocator cannot use, CUDA's context (0.5 to
1 GB), previews and validation. A tenth of the card is left for them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from autoencoder import AutoencoderVidTwin
from autoencoder.common import commands
from autoencoder.common.config import OptimizerConfig
from autoencoder.common.files import atomic_path
from autoencoder.metrics.lpips import Lpips
from autoencoder.settings import AutoencoderSettings
from autoencoder.training import config as stage_one
from autoencoder.training.discriminator import PatchDiscriminator
from autoencoder.training.losses import VidTwinLoss, generator_hinge
from benchmarks.report import write_json
from benchmarks.saved_memory import count_saved_in_blocks
from generator import VidTwinDiT
from generator import config as stage_two
from generator.settings import TransformerSettings

CARD = 80 * 10**9  # bytes of an A100 or H100 of 80 GB
LIMIT = CARD * 9 // 10
NUM_CLASSES = 101
SIZES = ("tiny", "small", "base", "large")
SETTINGS = ("setting2", "setting3", "released", "one_latent", "dynamics_qformer", "convolution", "space_in_hidden")
RECIPES = ("shapes", "folder", "ucf101", "ucf101_paper")
DIT_SIZES = ("size_s", "size_b", "size_l", "size_xl")
AUTOENCODERS = [(size,) for size in SIZES] + [("base", setting) for setting in SETTINGS]
GENERATORS = [(recipe,) for recipe in RECIPES] + [(recipe, size) for recipe in RECIPES[1:] for size in DIT_SIZES]
STAGES = {
    "autoencoder": (stage_one.TrainConfig, AutoencoderSettings),
    "generator": (stage_two.TrainConfig, TransformerSettings),
}


@dataclass
class MemoryConfig:
    """The table."""

    output_dir: Path = Path("outputs/benchmarks")
    """Folder of memory.json and memory.md."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of a training step on one GPU.

    Attributes:
        stage: "autoencoder" or "generator".
        preset: presets, in the order in which they are given.
        parameters: of the model that trains, without a discriminator.
        precision: "bf16" or "fp32".
        micro_batch: samples that go through at a time on one GPU.
        checkpointing: whether the preset computes blocks again in the backward pass.
        saved: kept for the backward pass without computing blocks again.
        saved_with_checkpointing: the same with it, and what the largest block keeps while it is computed again.
        states: weights, gradients, states of the optimiser, moving averages; of the discriminator, too, and the
            weights of LPIPS.
        total: states, and what the preset, as it stands, keeps for the backward pass.
        largest_micro_batch: that fits the card without computing blocks again; 0 where one sample does not.
        largest_with_checkpointing: the same with it.
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
    """Attention by the operators that CUDA takes; without a GPU, torch would choose the one that keeps all weights."""

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
    """What is made inside is made on CUDA, without contents; bf16 is autocast, which torch.autocast refuses here."""
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


def read_presets(stage: str, *presets: str) -> tuple[Any, dict[str, Any]]:
    """The config of presets as a training reads it, and what they say of the model."""
    config_class, model_settings = STAGES[stage]
    parser = commands.make_parser(config_class, "", stage=stage, groups={"model": model_settings})
    settings = parser.read([argument for name in presets for argument in ("--config", name)])
    return commands.build(config_class, parser.instantiate(settings)), vars(settings.model)


def precision_on_card(config: Any) -> str:
    """ "auto" is bf16 on every card of 80 GB."""
    return "bf16" if config.precision == "auto" else config.precision


def optimizer_states(config: OptimizerConfig, module: nn.Module) -> int:
    """Bytes that an optimiser keeps: two averages of a weight, or one where Muon orthogonalises it."""
    optimizer, _ = config.build(module, max_steps=1)
    return sum(
        parameter.nbytes * (1 if group.get("use_muon") else 2)
        for group in optimizer.param_groups
        for parameter in group["params"]
    )


def trained_bytes(config: OptimizerConfig, module: nn.Module) -> int:
    """Weights, gradients and the optimiser's states of a module."""
    return 2 * _bytes(module) + optimizer_states(config, module)


def _lpips() -> Lpips:
    network = Lpips().requires_grad_(False).eval()
    for part in network.modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.cuda())  # torch.Tensor([...]) makes them on the CPU whatever the device
    return network


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def autoencoder_memory(*presets: str) -> Memory:
    """The memory of stage one with these presets."""
    config, settings = read_presets("autoencoder", *presets)
    with fake_gpu(precision_on_card(config)):
        model = AutoencoderVidTwin(**settings)
        lpips = _lpips() if config.lpips_weight else None
        loss = VidTwinLoss(config.kl_weight, config.lpips_weight, lpips)
        discriminator = PatchDiscriminator() if config.gan else None
        states = trained_bytes(config.optimizer, model) + bool(config.ema_decay) * _bytes(model)
        if lpips:
            states += _bytes(lpips)
        if discriminator:
            states += trained_bytes(config.discriminator_optimizer, discriminator)
            discriminator.requires_grad_(False)

        def forward(batch_size: int) -> list[torch.Tensor]:
            video = torch.empty(batch_size, *model.video_shape)
            reconstruction, posterior = model(video, sample_posterior=True)
            losses = [loss(reconstruction, video, posterior)[0]]
            return losses + ([generator_hinge(discriminator(reconstruction).float())] if discriminator else [])

        others = [module for module in (loss, lpips, discriminator) if module]
        return _count("autoencoder", presets, config, model, states, forward, others)


def generator_memory(*presets: str) -> Memory:
    """The memory of stage two with these presets, on the latents of the autoencoder that they are meant for."""
    config, settings = read_presets("generator", *presets)
    _, of_autoencoder = read_presets("autoencoder", "tiny" if config.dataset == "shapes" else "base")
    with fake_gpu(precision_on_card(config)):
        with torch.device("meta"):
            vae = AutoencoderVidTwin(**of_autoencoder)
        model = VidTwinDiT(
            structure_shape=vae.structure_shape,
            dynamics_shape=vae.dynamics_shape,
            dynamics_axes=vae.dynamics_axes,
            num_classes=NUM_CLASSES,
            prediction_type=config.objective.kind,
            independent_times=config.objective.independent_times,
            **settings,
        )
        decays = [decay for decay in (config.ema_decay, config.second_ema_decay) if decay is not None]
        states = trained_bytes(config.optimizer, model) + len(decays) * _bytes(model)

        def forward(batch_size: int) -> list[torch.Tensor]:
            tokens = torch.empty(batch_size, model.layout.num_tokens, model.layout.token_dim)
            times = torch.empty((batch_size, 2) if config.objective.independent_times else batch_size)
            labels = torch.zeros(batch_size, dtype=torch.long)
            return [(model(tokens, times, labels).sample - tokens).square().float().mean()]

        return _count("generator", presets, config, model, states, forward, [])


def _count(
    stage: str,
    presets: Sequence[str],
    config: Any,
    model: nn.Module,
    states: int,
    forward: Callable[[int], list[torch.Tensor]],
    others: Sequence[nn.Module],
) -> Memory:
    """Fill in the row of a preset.

    What is kept grows evenly with the batch, so two counts tell it for all; not from one sample on, where some copies
    that rearrange are none.
    """
    two, three = (count_saved_in_blocks(lambda n=n: forward(n), model, others) for n in (2, 3))
    micro_batch = max(config.micro_batches(1))
    precision = precision_on_card(config)

    def saved(counts: tuple[int, int], batch_size: int) -> int:
        return counts[0] + (batch_size - 2) * (counts[1] - counts[0])

    def largest(counts: tuple[int, int]) -> int:
        return max(0, 2 + (LIMIT - states - counts[0]) // (counts[1] - counts[0]))

    whole, checkpointed = zip(two, three, strict=True)
    kept = saved(checkpointed if config.gradient_checkpointing else whole, micro_batch)
    return Memory(
        stage=stage,
        preset=" + ".join(presets),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        precision=precision,
        micro_batch=micro_batch,
        checkpointing=config.gradient_checkpointing,
        saved=saved(whole, micro_batch),
        saved_with_checkpointing=saved(checkpointed, micro_batch),
        states=states,
        total=states + kept,
        largest_micro_batch=largest(whole),
        largest_with_checkpointing=largest(checkpointed),
        fits=states + kept <= LIMIT,
    )


def count_all() -> list[Memory]:
    """The rows of all presets; sizes of stage two on top of every recipe, settings of stage one on top of base."""
    return [autoencoder_memory(*presets) for presets in AUTOENCODERS] + [
        generator_memory(*presets) for presets in GENERATORS
    ]


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


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = commands.make_parser(MemoryConfig, __doc__, "benchmarks.memory")
    config = commands.build(MemoryConfig, parser.read(argv))
    rows = count_all()
    text = table(rows)
    print(text)
    write_json(config.output_dir / "memory.json", "memory", {"torch": torch.__version__, "limit_bytes": LIMIT}, rows)
    with atomic_path(config.output_dir / "memory.md") as temporary:
        temporary.write_text(text + "\n")
    print(
        f"\n{' '.join(__doc__.split(chr(10) * 2)[1].split())}\nwrote memory.json and memory.md to {config.output_dir}"
    )


if __name__ == "__main__":
    commands.run_command(main)

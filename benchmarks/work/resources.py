"""The work of `python -m benchmarks.resources`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from autoencoder import AutoencoderVidTwin
from autoencoder.common.cost import TRAINING_FLOPS, count_flops, format_bytes, format_flops, measure
from autoencoder.common.device import resolve_device
from autoencoder.common.plots import pyplot, save_figure
from benchmarks.report import environment, write_json
from benchmarks.resources import ResourcesConfig
from benchmarks.saved_memory import count_memory
from benchmarks.suite import preset_model
from benchmarks.uniform_dit import Grid, UniformDiT, num_tokens, patchify

# A 16 x 224 x 224 clip, (d, T, H, W) (arXiv 2412.17726); iVideoGPT works at 256 x 256.
OTHERS: dict[str, tuple[Grid, ...]] = {
    "MAGVIT-v2": ((5, 4, 28, 28),),
    "EMU-3": ((4, 4, 28, 28),),
    "CV-VAE": ((4, 4, 28, 28),),
    "CMD": ((3, 1, 224, 224), (32, 1, 16, 28)),
    "iVideoGPT": ((64, 2, 16, 16), (64, 14, 4, 4)),
}
VIDTWIN = {"VidTwin 1": None, "VidTwin 2": "setting2", "VidTwin 3": "setting3", "VidTwin released": "released"}
FLOPS_CLAIM, MEMORY_CLAIM = (4, 8), (2, 3)  # the paper's: times as much as VidTwin, from and to
PAPER_PARAMETERS = 12_610_560
KERNELS = {
    "fused": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION],
    "math": [SDPBackend.MATH],
}
HEADER = (
    f"{'tokenizer':17}{'tokens':>7}{'parameters':>12}{'no attention':>14}{'FLOPs / step':>15}{'attention':>10}"
    f"{'ratio':>8}{'states':>12}{'activations':>13}{'counted':>12}{'measured':>14}{'ratio':>8}"
)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Cost of a training step of the small DiT on the latents of a tokenizer, in fp32 at batch 1.

    Attributes:
        tokenizer: its name.
        grids: (d, T, H, W) of its latents.
        tokens: length of the sequence.
        parameters: number of parameters of the whole model.
        attention_parameters: those of its attention layers.
        norm_and_ffn_parameters: those of its feed-forwards and norms, which the paper counts.
        flops: FLOPs of a training step, three forwards by convention, attention counted.
        attention_share: share of scores and weighted sums in these FLOPs, which grows with the square of the tokens.
        states_bytes: parameters, gradients and Adam's two averages.
        activation_bytes: what autograd keeps for the backward pass, every storage once.
        measured_bytes: the allocator's peak in a step on CUDA, all of the above and temporary tensors; None means not
            measured.
        flops_ratio: FLOPs over those of VidTwin's setting 1.
        memory_ratio: memory over that of VidTwin's setting 1, measured where possible, else counted.
    """

    tokenizer: str
    grids: tuple[Grid, ...]
    tokens: int
    parameters: int
    attention_parameters: int
    norm_and_ffn_parameters: int
    flops: int
    attention_share: float
    states_bytes: int
    activation_bytes: int
    measured_bytes: int | None
    flops_ratio: float
    memory_ratio: float

    @property
    def counted_bytes(self) -> int:
        """States and activations."""
        return self.states_bytes + self.activation_bytes

    def __str__(self) -> str:
        measured = "not measured" if self.measured_bytes is None else format_bytes(self.measured_bytes)
        return (
            f"{self.tokenizer:17}{self.tokens:7}{self.parameters:12,}"
            f"{self.parameters - self.attention_parameters:14,}{format_flops(self.flops):>15}"
            f"{self.attention_share:10.1%}{self.flops_ratio:8.2f}{format_bytes(self.states_bytes):>12}"
            f"{format_bytes(self.activation_bytes):>13}{format_bytes(self.counted_bytes):>12}{measured:>14}"
            f"{self.memory_ratio:8.2f}"
        )


def vidtwin_grids(setting: str | None) -> tuple[Grid, ...]:
    """Latents of the base model with a preset on top: the structure, and the dynamics as a video of one frame."""
    arguments = preset_model("autoencoder", "base") | ({} if setting is None else preset_model("autoencoder", setting))
    with torch.device("meta"):
        vae = AutoencoderVidTwin(**arguments | {"num_layers": 1})  # layers do not change the latents
    channels, *plane = vae.dynamics_shape
    return vae.structure_shape, (channels, 1, *plane)


def loss(model: UniformDiT, grids: Sequence[Grid]) -> torch.Tensor:
    """Denoising loss on noise at batch 1."""
    device = model.position_embedding.device
    parts = [patchify(torch.randn(1, *grid, device=device)) for grid in grids]
    predictions = model(parts, torch.rand(1, device=device) * 1000)
    pairs = zip(predictions, parts, strict=True)
    return sum(F.mse_loss(prediction, torch.randn_like(part)) for prediction, part in pairs)


def measured_memory(grids: Sequence[Grid], device: torch.device) -> int | None:
    """Peak memory of a training step with Adam in bytes; None on devices other than CUDA."""
    if device.type != "cuda":
        return None
    model = UniformDiT(grids).to(device)
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        loss(model, grids).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # from now on Adam has its averages
    with measure(device) as cost:
        step()
    return cost.peak_memory_bytes


def resources(tokenizer: str, grids: Sequence[Grid], kernel: str, device: torch.device) -> dict:
    """The fields of `Resources` that need no comparison."""
    with torch.device("meta"):
        model = UniformDiT(grids)
        pairs = zip(grids, model.patch_in, strict=True)
        parts = [torch.empty(1, num_tokens(grid), linear.in_features) for grid, linear in pairs]
        flops = count_flops(model, parts, torch.empty(1))
    with sdpa_kernel(KERNELS[kernel]):
        memory = count_memory(partial(UniformDiT, grids), lambda model: loss(model, grids))
        measured = measured_memory(grids, device)
    in_blocks = sum(parameter.numel() for parameter in model.blocks.parameters())
    in_attention = sum(weight.numel() for block in model.blocks for weight in block.attention.parameters())
    return {
        "tokenizer": tokenizer,
        "grids": tuple(grids),
        "tokens": sum(model.lengths),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "attention_parameters": in_attention,
        "norm_and_ffn_parameters": in_blocks - in_attention,
        "flops": TRAINING_FLOPS * flops,
        "attention_share": model.attention_flops() / flops,
        "states_bytes": memory.states,
        "activation_bytes": memory.activations,
        "measured_bytes": measured,
    }


def compare(kernel: str, device: torch.device) -> list[Resources]:
    """Every tokenizer, VidTwin's setting 1 first; the ratios are to that one."""
    tokenizers = {name: vidtwin_grids(setting) for name, setting in VIDTWIN.items()} | OTHERS
    rows = [resources(name, grids, kernel, device) for name, grids in tokenizers.items()]

    def memory(row: dict) -> int:
        return row["measured_bytes"] or row["states_bytes"] + row["activation_bytes"]

    return [
        Resources(**row, flops_ratio=row["flops"] / rows[0]["flops"], memory_ratio=memory(row) / memory(rows[0]))
        for row in rows
    ]


def verdict(quantity: str, ratios: dict[str, float], claim: tuple[int, int]) -> str:
    """Which of the other tokenizers lie below, within and above the paper's claim."""
    low, high = claim
    kinds = {"below": [], "within": [], "above": []}
    for name, ratio in ratios.items():
        kind = "below" if ratio < low else "above" if ratio > high else "within"
        kinds[kind].append(f"{name} {ratio:.2f}")
    placed = "; ".join(f"{kind}: {', '.join(names) or 'none'}" for kind, names in kinds.items())
    return f"{quantity}, the paper claims {low} to {high} times those of VidTwin: {placed}."


def summary(rows: Sequence[Resources], kernel: str) -> str:
    """The table, the paper's claims, and where and why this count differs from them."""
    by_name = {row.tokenizer: row for row in rows}
    first, grid, frame = by_name["VidTwin 1"], by_name["EMU-3"], by_name["CMD"]
    kept = "queries, keys, values and output" if kernel == "fused" else "every attention weight, too"
    lines = [
        HEADER,
        *map(str, rows),
        "",
        f"Small DiT: {first.norm_and_ffn_parameters:,} parameters in feed-forwards and norms (paper: "
        f"{PAPER_PARAMETERS:,}) and {first.attention_parameters:,} in attention, which the paper's figure leaves out;"
        " the rest embeds patches and time. The paper states no conditioning: here the time is added, without a class.",
        f"FLOPs: 2 per multiply-add, a step as {TRAINING_FLOPS} forwards; 'attention' is the share of scores and"
        f" weighted sums. Memory: fp32, Adam, batch 1, with {kernel} attention, which keeps {kept}.",
        verdict("FLOPs", {name: by_name[name].flops_ratio for name in OTHERS}, FLOPS_CLAIM),
        verdict("Memory", {name: by_name[name].memory_ratio for name in OTHERS}, MEMORY_CLAIM),
        f"Why: MAGVIT-v2, EMU-3 and CV-VAE have {grid.tokens} tokens to {first.tokens},"
        f" {grid.tokens / first.tokens:.1f} times as many, and attention is {grid.attention_share:.0%} of their FLOPs;"
        " how the paper counted 4 to 8 times is not stated.",
        f"CMD has {frame.tokens:,} tokens, since its content frame has 224 x 224 pixels (and is padded to a patch of"
        f" two frames); attention is {frame.attention_share:.0%} of its FLOPs. iVideoGPT has"
        f" {by_name['iVideoGPT'].tokens} tokens, fewer than VidTwin, and costs less; the paper has it reconstruct at"
        " 19.4 dB, VidTwin at 28.1 dB.",
        f"Memory: {first.states_bytes / first.counted_bytes:.0%} of VidTwin's counted bytes are parameters, gradients"
        " and Adam's averages, about the same for every tokenizer; activations alone differ"
        f" {grid.activation_bytes / first.activation_bytes:.1f} times (EMU-3) and"
        f" {frame.activation_bytes / first.activation_bytes:.0f} times (CMD).",
    ]
    return "\n".join(lines)


def draw(rows: Sequence[Resources], path: Path) -> None:
    """Bars of both ratios, the paper's claim as a band."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    names = [row.tokenizer for row in rows]
    kind = "counted" if rows[0].measured_bytes is None else "measured"
    panels = [
        ("FLOPs of a training step", [row.flops_ratio for row in rows], FLOPS_CLAIM),
        (f"training memory, {kind}", [row.memory_ratio for row in rows], MEMORY_CLAIM),
    ]
    colors = ["tab:blue" if name in VIDTWIN else "tab:gray" for name in names]
    for axis, (title, ratios, claim) in zip(axes, panels, strict=True):
        axis.axvspan(*claim, color="tab:orange", alpha=0.3, label=f"paper: {claim[0]} to {claim[1]} times")
        bars = axis.barh(names, [ratio - 1 for ratio in ratios], left=1, color=colors)
        axis.bar_label(bars, labels=[f"{ratio:.2f}" for ratio in ratios], padding=3)
        limits = min(*ratios, 1) / 2, 4 * max(*ratios, claim[1])
        axis.set(title=f"{title}, over VidTwin setting 1", xscale="log", xlim=limits)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.legend(loc="upper right")
    axes[0].invert_yaxis()
    save_figure(figure, path)


def execute(config: ResourcesConfig) -> None:
    """Compare the tokenizers, print, write and draw."""
    device = resolve_device("auto")
    rows = compare(config.attention, device)
    print(summary(rows, config.attention))
    machine = environment(device) | {"attention": config.attention}
    write_json(config.output_dir / "resources.json", "resources", machine, rows)
    draw(rows, config.output_dir / "resources.png")
    print(f"written to {config.output_dir}: resources.json, resources.png")

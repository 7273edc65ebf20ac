"""The comparison of tokenizers: what its numbers mean, and the command."""

import json

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import resources as resources_command
from benchmarks.resources import ResourcesConfig
from benchmarks.saved_memory import count_memory, count_saved
from benchmarks.uniform_dit import UniformDiT, num_tokens, patchify
from benchmarks.work import resources
from benchmarks.work.resources import OTHERS, loss, verdict, vidtwin_grids

GRIDS = ((2, 3, 4, 5), (3, 1, 2, 2))
TINY = {"hidden_size": 16, "num_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def test_tokens_of_every_tokenizer():
    tokens = {name: sum(map(num_tokens, grids)) for name, grids in OTHERS.items()}
    assert tokens == {"MAGVIT-v2": 392, "EMU-3": 392, "CV-VAE": 392, "CMD": 112 * 112 + 8 * 14, "iVideoGPT": 64 + 28}


@pytest.mark.parametrize(
    "setting, structure, dynamics, tokens",
    [
        (None, (4, 16, 7, 7), (8, 1, 16, 14), 8 * 16 + 8 * 7),
        ("setting2", (4, 16, 7, 7), (16, 1, 16, 8), 8 * 16 + 8 * 4),
        ("setting3", (4, 12, 7, 7), (8, 1, 16, 14), 6 * 16 + 8 * 7),
        ("released", (8, 16, 7, 7), (8, 1, 16, 14), 8 * 16 + 8 * 7),
    ],
)
def test_latents_of_the_settings(setting, structure, dynamics, tokens):
    assert vidtwin_grids(setting) == (structure, dynamics)
    assert sum(map(num_tokens, vidtwin_grids(setting))) == tokens


def test_patches_hold_every_number_once_and_zeros_behind_odd_sides():
    volume = torch.arange(1.0, 2 * 3 * 4 * 5 + 1).view(1, 2, 3, 4, 5)
    tokens = patchify(volume)
    assert tokens.shape == (1, num_tokens(GRIDS[0]), 16) == (1, 2 * 2 * 3, 16)
    assert torch.equal(tokens[tokens != 0].sort().values, volume.flatten())
    first = volume[0, :, :2, :2, :2].permute(1, 2, 3, 0).flatten()  # frame, row, column, channel
    assert torch.equal(tokens[0, 0], first)


def test_the_model_has_the_papers_parameters_and_predicts_a_number_for_every_number():
    with torch.device("meta"):
        blocks = UniformDiT(GRIDS).blocks
    attention = sum(weight.numel() for block in blocks for weight in block.attention.parameters())
    assert sum(weight.numel() for weight in blocks.parameters()) - attention == resources.PAPER_PARAMETERS

    parts = [patchify(torch.randn(2, *grid)) for grid in GRIDS]
    model = UniformDiT(GRIDS, **TINY)
    outputs = model(parts, torch.tensor([1.0, 500.0]))
    assert [output.shape for output in outputs] == [part.shape for part in parts]
    # One sequence: the first grid sees the second.
    changed = model([parts[0], parts[1] + 1], torch.tensor([1.0, 500.0]))
    assert not torch.allclose(outputs[0], changed[0])


class Saves(nn.Module):
    """Saves 4 x 8 floats twice (one storage), the queries' storage through two views, and its weight."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8, bias=False)
        self.register_buffer("scale", torch.ones(4, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)  # saves x (and the weight, where x needs a gradient)
        first, second = y.chunk(2, dim=1)
        z = first * second  # saves two views of y
        return ((y * self.scale).sum() + z.sum()).exp()  # saves the buffer, and its own result


def test_saved_tensors_count_once_per_storage_and_without_parameters():
    model, x = Saves(), torch.randn(4, 8, requires_grad=True)
    assert count_saved(lambda: model(x), model) == 4 * (32 + 32 + 1)


@pytest.mark.parametrize("kernel", ["fused", "math"])
def test_counting_without_contents_equals_counting_a_real_forward(kernel):
    def build() -> UniformDiT:
        return UniformDiT(GRIDS, **TINY)

    model = build()
    with sdpa_kernel(resources.KERNELS[kernel]):
        memory = count_memory(build, lambda model: loss(model, GRIDS))
        assert memory.activations == count_saved(lambda: loss(model, GRIDS), model) > 0
    optimizer = torch.optim.Adam(model.parameters())
    loss(model, GRIDS).backward()
    optimizer.step()
    averages = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    gradients = [parameter.grad for parameter in model.parameters()]
    assert memory.states == sum(tensor.nbytes for tensor in (*model.parameters(), *gradients, *averages))


def test_math_attention_keeps_the_weights_of_every_head():
    grids = [(1, 2, 16, 16)]  # 64 tokens

    def activations(kernel: SDPBackend) -> int:
        with sdpa_kernel(kernel):
            return count_memory(lambda: UniformDiT(grids, **TINY), lambda model: loss(model, grids)).activations

    weights = 2 * 2 * 64**2 * 4  # bytes in two layers of two heads
    assert 1 <= (activations(SDPBackend.MATH) - activations(SDPBackend.FLASH_ATTENTION)) / weights < 1.5


def test_verdict_sorts_ratios_by_the_claim():
    line = verdict("FLOPs", {"a": 3.99, "b": 4.0, "c": 8.0, "d": 8.01}, (4, 8))
    assert line.endswith("below: a 3.99; within: b 4.00, c 8.00; above: d 8.01.")


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    resources_command.main(["--output-dir", str(tmp_path)])
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "resources.json").read_text())
    rows = {row["tokenizer"]: row for row in report["results"]}
    assert list(rows) == [*resources.VIDTWIN, *OTHERS]
    for name, row in rows.items():
        # Scores and weighted sums take 4 N^2 C in each of 6 layers; all linear layers together 2 per weight and token.
        attention = 4 * row["tokens"] ** 2 * 512 * 6
        linears = 2 * row["tokens"] * 6 * (4 * 512**2 + 2 * 512 * 2048)
        assert row["attention_share"] * row["flops"] == pytest.approx(3 * attention)
        assert row["flops"] == pytest.approx(3 * (attention + linears), rel=0.03)  # the rest embeds patches and time
        assert row["flops_ratio"] == row["flops"] / rows["VidTwin 1"]["flops"]
        assert row["measured_bytes"] is None and name in printed
        assert row["states_bytes"] == 16 * row["parameters"]
        counted = [row["states_bytes"] + row["activation_bytes"] for row in (row, rows["VidTwin 1"])]
        assert row["memory_ratio"] == counted[0] / counted[1]
    assert "below: MAGVIT-v2 2.27" in printed and "above: CMD" in printed and "not measured" in printed
    assert (tmp_path / "resources.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_kernel_is_an_error():
    with pytest.raises(ValueError, match="attention must be of fused, math, got 'flash'"):
        ResourcesConfig(attention="flash")
